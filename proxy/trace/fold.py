"""Turns a search's journal into its record. Pure; it accepts events in any order.

The instruction that was added to the prompt is not part of the record: `messages` are what the client sent. Events
that this version does not know are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from proxy.decoder.events import (
    Cancelled,
    Failed,
    Finished,
    ProposalCancelled,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    Started,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary, summarise
from proxy.service import Job
from proxy.trace.record import CandidateRecord, Message, Provenance, TraceRecord, Winner

SCHEMA = "cord.trace/2"


def record(job: Job, journal: Sequence[Stamped], provenance: Provenance) -> TraceRecord:
    """Fold one search's journal."""
    summary = summarise(stamped.event for stamped in journal)
    started = next(
        (stamped.event for stamped in journal if isinstance(stamped.event, Started)), None
    )
    names = started.teachers if started else tuple(teacher.name for teacher in job.ensemble.panel)
    outcome, error = _end(journal)
    messages = _messages(job)
    winner = _winner(summary)
    candidates = _candidates(journal, winner)
    reply = winner.answer if winner else ""
    text = "".join(candidate.text for candidate in candidates if candidate.fate == "won") + reply
    metadata = dict(job.metadata)
    request_id, tools = metadata.pop("request_id", None), metadata.pop("tools", ())
    return TraceRecord(
        schema=SCHEMA,
        id=job.problem.id,
        request_id=request_id,
        time=datetime.fromtimestamp(job.received, UTC).isoformat(),
        model=job.ensemble.name,
        messages=messages,
        tools=tuple(tools),
        references=job.problem.references,
        metadata=metadata,
        settings=job.settings,
        teachers=tuple(teacher for teacher in provenance.teachers if teacher.name in names),
        objective=started.objective if started else None,
        source=summary.source.value,
        candidates=candidates,
        winner=winner,
        usage=summary.usage,
        cost=summary.cost,
        outcome=outcome,
        error=error,
        duration_s=journal[-1].at_s if journal else 0.0,
        prompt_hash=text_hash(conversation_text(messages)),
        dedupe_hash=text_hash(conversation_text(messages) + text),
        answer_failures=tuple(
            stamped.event.message
            for stamped in journal
            if isinstance(stamped.event, TeacherFailed) and stamped.event.id is None
        ),
        skipped=tuple(
            stamped.event for stamped in journal if isinstance(stamped.event, TeacherSkipped)
        ),
    )


def conversation_text(messages: Sequence[Message]) -> str:
    """What identifies a conversation: its messages as JSON."""
    return json.dumps(list(messages), ensure_ascii=False, sort_keys=True)


def text_hash(text: str) -> str:
    """SHA-256, also of text that is not valid Unicode."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _messages(job: Job) -> tuple[Message, ...]:
    """The conversation as the client sent it, or as the search knows it where no client did."""
    if job.conversation:
        return tuple(dict(message) for message in job.conversation)
    plain = (asdict(message) for message in job.problem.messages)
    return tuple(
        {key: value for key, value in message.items() if value is not None} for message in plain
    )


def _end(journal: Sequence[Stamped]) -> tuple[str, str | None]:
    for stamped in reversed(journal):
        match stamped.event:
            case Finished():
                return "finished", None
            case Failed(kind, message):
                return "failed", f"{kind}: {message}"
            case Cancelled():
                return "cancelled", None
    return "failed", "internal: the search ended without saying how"


def _winner(summary: Summary) -> Winner | None:
    result = summary.result
    if result is None:
        return None
    return Winner(
        result.winner.path,
        result.value,
        result.stopped,
        result.answer,
        result.answerer,
        result.finish_reason,
    )


def _candidates(journal: Sequence[Stamped], winner: Winner | None) -> tuple[CandidateRecord, ...]:
    """Every candidate that was asked for, in the order of their ids."""
    # What was neither dropped nor won has been overtaken, its children all fell; or the search broke off over it.
    undecided = "outranked" if winner else "unfinished"
    found: dict[int, dict[str, Any]] = {}
    kept_for: dict[int | None, int] = {}

    def note(id: int, **columns: Any) -> None:
        if id in found:
            found[id] |= columns

    for stamped in journal:
        match stamped.event:
            case ProposalRequested(id, parent, depth, teacher):
                found[id] = {
                    "id": id,
                    "parent": parent,
                    "depth": depth,
                    "teacher": teacher,
                    "asked_s": stamped.at_s,
                }
                found[id]["fate"] = "unfinished"
            case Proposed(candidate):
                note(
                    candidate.id,
                    text=candidate.text,
                    ended=candidate.ended,
                    prompt_tokens=candidate.prompt_tokens,
                    completion_tokens=candidate.completion_tokens,
                    tokens_estimated=candidate.tokens_estimated,
                    landed_s=stamped.at_s,
                    fate=undecided,
                )
            case Scored(id, score):
                note(id, score=score, scored_s=stamped.at_s)
            case Pruned(id, reason, kept):
                note(id, fate=reason)
                if kept is not None:
                    kept_for[id] = kept
            case ProposalCancelled(id, _, tokens):
                note(id, fate="speculative", completion_tokens=tokens, tokens_estimated=True)
            case TeacherFailed(int() as id, _, kind, message):
                note(id, fate=kind if kind == "straggler" else f"failed:{kind}", error=message)
    for id in winner.path if winner else ():
        note(id, fate="won")
    for columns in found.values():
        # Its prefix was written twice: it stands under the one that was kept.
        columns["parent"] = kept_for.get(columns["parent"], columns["parent"])
    return tuple(CandidateRecord(**found[id]) for id in sorted(found))
