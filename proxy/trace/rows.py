"""From records to training rows: supervised traces, step-level preferences, whole trees. Pure.

Each row carries where it came from, so that sources of scores are never mixed unseen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from typing import Any

from proxy.trace.record import CandidateRecord, TraceRecord

Row = dict[str, Any]


def sft(record: TraceRecord, *, inline: bool) -> Iterator[Row]:
    """The winner as a conversation for TRL's SFT, its reasoning in `reasoning_content` or `inline` in think tags."""
    if record.winner is None:
        return
    answer: Row = {"role": "assistant", "content": record.winner.answer, "reasoning_content": record.reasoning}
    if inline:
        answer = {"role": "assistant", "content": f"<think>\n{record.reasoning}</think>\n\n{record.winner.answer}"}
    yield {
        "messages": [*_messages(record), answer],
        **_origin(record),
        "finish_reason": record.winner.finish_reason,
        "step_teachers": [candidate.teacher for candidate in record.won],
        "step_scores": [_value(candidate, record) for candidate in record.won],
        "value": record.winner.value if record.objective else None,
    }


def preference(record: TraceRecord, *, min_margin: float) -> Iterator[Row]:
    """Scored siblings as preference pairs for TRL's DPO: `prompt`, `chosen` and `rejected` as message lists.

    Both completions are the assistant's turn from its beginning, shared prefix included, since a chat template
    can render no prompt that ends inside a turn; they differ in their last step alone.
    """
    families: dict[int | None, list[CandidateRecord]] = defaultdict(list)
    for candidate in record.candidates:
        if candidate.score is not None:
            families[candidate.parent].append(candidate)
    for parent, siblings in families.items():
        prefix = record.prefix(parent)
        ranked = sorted(siblings, key=lambda sibling: (-_score(sibling, record), sibling.id))
        for better, worse in combinations(ranked, 2):
            margin = _score(better, record) - _score(worse, record)
            if better.text == worse.text or margin <= min_margin:
                continue
            yield {
                "prompt": _messages(record),
                "chosen": [{"role": "assistant", "content": prefix + better.text}],
                "rejected": [{"role": "assistant", "content": prefix + worse.text}],
                **_origin(record),
                "depth": better.depth,
                "margin": margin,
                "chosen_score": _score(better, record),
                "rejected_score": _score(worse, record),
                "chosen_teacher": better.teacher,
                "rejected_teacher": worse.teacher,
            }


def tree(record: TraceRecord) -> Iterator[Row]:
    """The whole search; every candidate has every column, so that the schema is the same in all rows."""
    candidates = []
    for candidate in record.candidates:
        columns = asdict(candidate)
        score = columns.pop("score")
        candidates.append({**columns, "nats": score and score["nats"], "length": score and score["length"]})
    winner = record.winner
    yield {
        **_origin(record),
        "messages": _messages(record),
        "references": list(record.references),
        "outcome": record.outcome,
        "error": record.error,
        "strategy": record.settings.strategy,
        "beam_width": record.settings.beam_width,
        "candidates": candidates,
        "winner_path": list(winner.path) if winner else [],
        "answer": winner.answer if winner else None,
        "answerer": winner.answerer if winner else None,
        "duration_s": record.duration_s,
        **{f"cost_{name}": value for name, value in asdict(record.cost).items()},
    }


def _messages(record: TraceRecord) -> list[Row]:
    return [dict(message) for message in record.messages]


def _score(candidate: CandidateRecord, record: TraceRecord) -> float:
    assert candidate.score is not None
    return float(candidate.score.nats / candidate.score.length**record.settings.length_penalty)


def _value(candidate: CandidateRecord, record: TraceRecord) -> float | None:
    return None if candidate.score is None else _score(candidate, record)


def _origin(record: TraceRecord) -> Row:
    """The columns every row shares."""
    return {
        "schema": record.schema,
        "id": record.id,
        "request_id": record.request_id,
        "time": record.time,
        "model": record.model,
        "teachers": [f"{teacher.name}={teacher.model}" for teacher in record.teachers],
        "objective": record.objective,
        "source": record.source,
        "seed": record.settings.sampling.seed,
        "temperature": record.settings.sampling.temperature,
        "prompt_hash": record.prompt_hash,
        "dedupe_hash": record.dedupe_hash,
    }
