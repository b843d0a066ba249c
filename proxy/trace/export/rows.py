"""From one record to training rows, by format. Pure.

Every row but OpenAI's carries where it came from, so that sources of scores are never mixed unseen.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

from proxy.decoder import tool_calls
from proxy.decoder.types import Tally
from proxy.trace.export.checker import is_correct
from proxy.trace.export.student import (
    AS_IT_IS,
    NeutralStudent,
    Student,
    TemplateStudent,
    Texts,
    Turn,
)
from proxy.trace.record import CandidateRecord, Message, TraceRecord

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowOptions:
    """What shapes rows beyond their format.

    Attributes:
        student: who will be trained.
        inline: reasoning in think tags inside the content, for formats that hold messages.
        min_margin: the least difference of a pair's scores, in nats per unit of length.
        label_from: what a step's label is derived from: "outcome" (the answer is correct), or "score".
        label_at_least: the least exp(score) of a step labelled true.
    """

    student: Student = field(default_factory=NeutralStudent)
    inline: bool = False
    min_margin: float = 0.05
    label_from: str = "outcome"
    label_at_least: float = 0.5


class NoRows(Exception):
    """A record has nothing for this format; the message is the reason, in few words."""


Fold = Callable[[TraceRecord, RowOptions], Iterator[Row]]


def sft(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """The winner as `prompt` and `completion` texts: what is to be learnt is the completion, reasoning and all."""
    turn = _won(record)
    texts = options.student.whole(turn)
    yield {
        "prompt": texts.prompt,
        "completion": texts.completions[0],
        **_tokens(texts),
        **_reply(record),
    }


def messages(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """The winner as `messages`, its reasoning in `reasoning_content`, for trainers that read it there."""
    turn = _won(record)
    if (
        isinstance(options.student, TemplateStudent)
        and not options.inline
        and not options.student.keeps_reasoning(turn)
    ):
        raise NoRows("the student's template drops the reasoning (use --format sft)")
    yield {
        "messages": [*record.messages, _assistant(record, inline=options.inline)],
        "tools": json.dumps(record.tools) if record.tools else None,
        **_reply(record),
    }


def openai(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """The winner as a line of OpenAI's fine-tuning format, which has no field for reasoning and none for origins."""
    _won(record)
    reply = _assistant(record, inline=options.inline)
    reply.pop("reasoning_content", None)
    row: Row = {"messages": [*record.messages, reply]}
    yield {**row, "tools": list(record.tools)} if record.tools else row


def preference(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """Scored siblings as pairs: `prompt` ends where they part, `chosen` and `rejected` are one step each.

    Texts are given as messages with a template that adds nothing, so that TRL's DPO trainer adds no end of turn in the
    middle of the reasoning.
    """
    families: dict[int | None, list[CandidateRecord]] = defaultdict(list)
    for candidate in record.candidates:
        if candidate.score is not None and candidate.text:
            families[candidate.parent].append(candidate)
    if not families:
        raise NoRows("not scored")
    opened = options.student.opened(record.messages, record.tools)
    for parent, siblings in families.items():
        prefix = record.prefix(parent)
        for better, worse in _pairs(record, siblings, options.min_margin):
            steps = (_step(better, options.student), _step(worse, options.student))
            yield _pair(record, options.student.split(opened + prefix, steps), better, worse)


def preference_trace(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """Finished trajectories as pairs of whole reasonings under one conversation."""
    parents = {candidate.parent for candidate in record.candidates}
    finished = [
        candidate
        for candidate in record.candidates
        if candidate.ended in ("closed", "eos")
        and candidate.score is not None
        and candidate.id not in parents
    ]
    if len(finished) < 2:
        raise NoRows("fewer than two finished reasonings")
    opened = options.student.opened(record.messages, record.tools)
    for better, worse in _pairs(record, finished, options.min_margin):
        whole = tuple(record.prefix(tip.id) + options.student.closer for tip in (better, worse))
        yield _pair(record, options.student.split(opened, whole), better, worse)


def stepwise(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """Paths as `prompt`, `completions` (their steps) and `labels`, for process reward models.

    A score is no correctness. A label is derived only as was asked for: from the answer's, for the path that was
    answered, or from a step's score.
    """
    if options.label_from == "outcome":
        if not record.references:
            raise NoRows("no reference")
        _won(record)
        paths = [record.won]
        correct = is_correct(record)
        labels = [[correct] * len(record.won)]
    else:
        parents = {candidate.parent for candidate in record.candidates}
        tips = [c for c in record.candidates if c.score is not None and c.id not in parents]
        paths = [record.path(tip.id) for tip in tips]
        paths = [path for path in paths if all(step.score is not None for step in path)]
        labels = [
            [_probability(step, record) >= options.label_at_least for step in path]
            for path in paths
        ]
    if not paths:
        raise NoRows("not scored")
    for path, marks in zip(paths, labels, strict=True):
        yield {
            "prompt": "\n\n".join(str(message.get("content") or "") for message in record.messages),
            "completions": [step.text.strip() for step in path],
            "labels": marks,
            **_origin(record),
            "label_from": options.label_from,
            "step_teachers": [step.teacher for step in path],
            "step_scores": [_value(step, record) for step in path],
        }


def prompts(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """The conversation with its references, for training on the student's own samples (GRPO and its kin)."""
    if not record.references:
        raise NoRows("no reference")
    yield {
        "prompt": list(record.messages),
        "reference": record.references[0],
        "references": list(record.references),
        "tools": json.dumps(record.tools) if record.tools else None,
        **_origin(record),
    }


def tree(record: TraceRecord, options: RowOptions) -> Iterator[Row]:
    """The whole search; every candidate has every column, so that the schema is the same in all rows."""
    candidates = []
    for candidate in record.candidates:
        columns = asdict(candidate)
        score = columns.pop("score")
        candidates.append(
            {**columns, "nats": score and score["nats"], "length": score and score["length"]}
        )
    winner = record.winner
    yield {
        **_origin(record),
        "messages": list(record.messages),
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


FORMATS: dict[str, Fold] = {
    "sft": sft,
    "messages": messages,
    "openai": openai,
    "preference": preference,
    "preference-trace": preference_trace,
    "prm": stepwise,
    "prompts": prompts,
    "tree": tree,
}
"""By the name that `--format` takes."""

ANSWERED = frozenset({"sft", "messages", "openai"})
"""The formats whose rows hold an answer, which a truncated one would spoil."""


def path_value(record: TraceRecord, tip: int) -> float:
    """A trajectory's score by its first objective, in nats per unit of length."""
    tally = Tally()
    for candidate in record.path(tip):
        if candidate.score is not None:
            tally = tally.add(candidate.score)
    return tally.value(record.settings.length_penalty)


def _won(record: TraceRecord) -> Turn:
    if record.winner is None:
        raise NoRows(f"no answer ({record.outcome})")
    return Turn(record.messages, record.tools, record.reasoning, record.winner.answer)


def _assistant(record: TraceRecord, *, inline: bool) -> Message:
    """The reply as a message, its calls in OpenAI's form."""
    assert record.winner is not None
    content, calls = (
        tool_calls.find(record.winner.answer) if record.tools else (record.winner.answer, ())
    )
    said = f"<think>\n{record.reasoning}</think>\n\n{content}" if inline else content
    message: Message = {"role": "assistant", "content": said}
    if not inline:
        message["reasoning_content"] = record.reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(calls)
        ]
    return message


def _pairs(
    record: TraceRecord, candidates: list[CandidateRecord], min_margin: float
) -> Iterator[tuple[CandidateRecord, CandidateRecord]]:
    """Every better and worse one whose scores differ by more than the margin."""
    value = {candidate.id: path_value(record, candidate.id) for candidate in candidates}
    ranked = sorted(candidates, key=lambda candidate: (-value[candidate.id], candidate.id))
    for better, worse in combinations(ranked, 2):
        if better.text != worse.text and value[better.id] - value[worse.id] > min_margin:
            yield better, worse


def _pair(
    record: TraceRecord, texts: Texts, better: CandidateRecord, worse: CandidateRecord
) -> Row:
    chosen, rejected = texts.completions
    values = path_value(record, better.id), path_value(record, worse.id)
    return {
        "prompt": [{"role": "user", "content": texts.prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chat_template_kwargs": {"chat_template": AS_IT_IS},
        **_origin(record),
        "depth": better.depth,
        "margin": values[0] - values[1],
        "chosen_score": values[0],
        "rejected_score": values[1],
        "chosen_teacher": better.teacher,
        "rejected_teacher": worse.teacher,
    }


def _step(candidate: CandidateRecord, student: Student) -> str:
    """A step's text; one that closes the thinking says so."""
    return (
        candidate.text + student.closer if candidate.ended in ("closed", "eos") else candidate.text
    )


def _tokens(texts: Texts) -> Row:
    if texts.tokens is None:
        return {}
    return {"prompt_tokens": texts.tokens[0], "completion_tokens": texts.tokens[1]}


def _reply(record: TraceRecord) -> Row:
    """The columns of rows that hold the winner."""
    assert record.winner is not None
    return {
        **_origin(record),
        "finish_reason": record.winner.finish_reason,
        "stopped": record.winner.stopped,
        "correct": is_correct(record) if record.references else None,
        "answerer": record.winner.answerer,
        "step_teachers": [candidate.teacher for candidate in record.won],
        "step_scores": [_value(candidate, record) for candidate in record.won],
        "value": record.value,
    }


def _value(candidate: CandidateRecord, record: TraceRecord) -> float | None:
    if candidate.score is None:
        return None
    return Tally().add(candidate.score).value(record.settings.length_penalty)


def _probability(candidate: CandidateRecord, record: TraceRecord) -> float:
    return math.exp(min(_value(candidate, record) or 0.0, 0.0))


def _origin(record: TraceRecord) -> Row:
    """The columns every row shares."""
    return {
        "schema": record.schema,
        "id": record.id,
        "request_id": record.request_id,
        "time": record.time,
        "model": record.model,
        "teachers": [f"{teacher.name}={teacher.model}" for teacher in record.teachers],
        "revisions": [
            f"{teacher.name}={teacher.revision or 'unknown'}" for teacher in record.teachers
        ],
        "licences": [
            f"{teacher.name}={teacher.licence or 'unknown'}" for teacher in record.teachers
        ],
        "objective": record.objective,
        "source": record.source,
        "seed": record.settings.sampling.seed,
        "temperature": record.settings.sampling.temperature,
        "rating": next(
            (entry.rating for entry in reversed(record.feedback) if entry.rating is not None), None
        ),
        "metadata": json.dumps(record.metadata, ensure_ascii=False),
        "prompt_hash": record.prompt_hash,
        "dedupe_hash": record.dedupe_hash,
    }
