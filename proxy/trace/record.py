"""A search as one record: everything that was proposed, what it scored, what became of it, and why it ended.

A pure fold over a journal, and the record's way to JSON and back. The instruction that was added to the prompt is
not part of it: `messages` are what the client sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from proxy.decoder.events import (
    AnswerRequested,
    Cancelled,
    Failed,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    ScoreRequested,
    Started,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Cost, Summary, Usage, summarise
from proxy.decoder.types import Message, Score, Settings
from proxy.errors import CordError
from proxy.service import Job

SCHEMA = "cord.trace/1"


class UnreadableRecord(CordError):
    """A line that is not a record of a schema this version reads."""


@dataclass(frozen=True, slots=True)
class TeacherProvenance:
    """Which model a teacher's name stood for."""

    name: str
    model: str
    revision: str | None = None
    template_hash: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which models a proxy's names stand for."""

    teachers: tuple[TeacherProvenance, ...] = ()


@dataclass(frozen=True, slots=True)
class CandidateRecord:
    """One proposed step, also one that never came. Times are seconds since the search started.

    `fate`: won, rank, duplicate, empty, outranked, lag, straggler, unfinished (the search ended first), or
    `failed:KIND`.
    """

    id: int
    parent: int | None
    depth: int
    teacher: str
    fate: str
    text: str = ""
    ended: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    score: Score | None = None
    asked_s: float = 0.0
    landed_s: float | None = None
    scored_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Winner:
    """The trajectory that was answered: candidate ids from the root, its value in nats, and the answer."""

    path: tuple[int, ...]
    value: float
    stopped: str
    answer: str
    answerer: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One request that reached the decoder, whatever its end.

    `outcome` is finished, failed or cancelled; `prompt_hash` identifies the conversation (SHA-256 over its JSON),
    `dedupe_hash` the conversation with the winning text; `skipped` tells which teachers which steps did without.
    """

    schema: str
    id: str
    time: str
    model: str
    messages: tuple[Message, ...]
    references: tuple[str, ...]
    metadata: dict[str, Any]
    settings: Settings
    teachers: tuple[TeacherProvenance, ...]
    objective: str | None
    source: str
    candidates: tuple[CandidateRecord, ...]
    winner: Winner | None
    usage: Usage
    cost: Cost
    outcome: str
    error: str | None
    duration_s: float
    prompt_hash: str
    dedupe_hash: str
    answer_failures: tuple[str, ...] = field(default=())
    skipped: tuple[TeacherSkipped, ...] = ()

    @property
    def won(self) -> tuple[CandidateRecord, ...]:
        """The winner's steps, in order."""
        by_id = {candidate.id: candidate for candidate in self.candidates}
        return tuple(by_id[id] for id in self.winner.path) if self.winner else ()

    @property
    def reasoning(self) -> str:
        return "".join(candidate.text for candidate in self.won)

    def prefix(self, parent: int | None) -> str:
        """The reasoning up to and including a candidate; empty at the root."""
        by_id = {candidate.id: candidate for candidate in self.candidates}
        steps: list[str] = []
        while parent is not None:
            steps.append(by_id[parent].text)
            parent = by_id[parent].parent
        return "".join(reversed(steps))


_RECORD = TypeAdapter(Record)


def to_json(record: Record) -> str:
    """One line of JSON."""
    return json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"))


def from_json(line: str | bytes) -> Record:
    """Read a record back.

    Raises:
        UnreadableRecord: it is torn, malformed, or of another schema.
    """
    try:
        raw = json.loads(line)
        schema = raw.get("schema") if isinstance(raw, Mapping) else None
        if schema != SCHEMA:
            raise UnreadableRecord(f"schema {schema!r} is not {SCHEMA!r}")
        return _RECORD.validate_python(raw)
    except (ValueError, ValidationError) as exc:
        raise UnreadableRecord(str(exc)) from exc


def record(job: Job, journal: Sequence[Stamped], provenance: Provenance) -> Record:
    """Fold one search's journal."""
    summary = summarise(stamped.event for stamped in journal)
    started = next(stamped.event for stamped in journal if isinstance(stamped.event, Started))
    outcome, error = _end(journal)
    messages = job.problem.messages
    winner = _winner(summary)
    candidates = _candidates(journal, winner)
    conversation = json.dumps([asdict(message) for message in messages], ensure_ascii=False)
    reply = winner.answer if winner else ""
    text = "".join(candidate.text for candidate in candidates if candidate.fate == "won") + reply
    return Record(
        schema=SCHEMA,
        id=job.problem.id,
        time=datetime.fromtimestamp(job.received, UTC).isoformat(),
        model=job.ensemble.name,
        messages=messages,
        references=job.problem.references,
        metadata=dict(job.metadata),
        settings=job.settings,
        teachers=tuple(teacher for teacher in provenance.teachers if teacher.name in started.teachers),
        objective=started.objective,
        source=summary.source.value,
        candidates=candidates,
        winner=winner,
        usage=summary.usage,
        cost=summary.cost,
        outcome=outcome,
        error=error,
        duration_s=journal[-1].at_s,
        prompt_hash=hashlib.sha256(conversation.encode()).hexdigest(),
        dedupe_hash=hashlib.sha256((conversation + text).encode()).hexdigest(),
        answer_failures=tuple(
            stamped.event.message
            for stamped in journal
            if isinstance(stamped.event, TeacherFailed) and stamped.event.id is None
        ),
        skipped=tuple(stamped.event for stamped in journal if isinstance(stamped.event, TeacherSkipped)),
    )


def _end(journal: Sequence[Stamped]) -> tuple[str, str | None]:
    match journal[-1].event:
        case Failed(kind, message):
            return "failed", f"{kind}: {message}"
        case Cancelled():
            return "cancelled", None
    return "finished", None


def _winner(summary: Summary) -> Winner | None:
    result = summary.result
    if result is None:
        return None
    return Winner(
        result.winner.path, result.value, result.stopped, result.answer, result.answerer, result.finish_reason
    )


def _candidates(journal: Sequence[Stamped], winner: Winner | None) -> tuple[CandidateRecord, ...]:
    """Every candidate that was asked for, in the order of their ids."""
    # What was neither dropped nor won has been overtaken, its children all fell; or the search broke off over it.
    undecided = "outranked" if winner else "unfinished"
    found: dict[int, dict[str, Any]] = {}
    for stamped in journal:
        match stamped.event:
            case ProposalRequested(id, parent, depth, teacher):
                found[id] = {"id": id, "parent": parent, "depth": depth, "teacher": teacher, "asked_s": stamped.at_s}
                found[id]["fate"] = "unfinished"
            case Proposed(candidate):
                found[candidate.id] |= {
                    "text": candidate.text,
                    "ended": candidate.ended,
                    "prompt_tokens": candidate.prompt_tokens,
                    "completion_tokens": candidate.completion_tokens,
                    "landed_s": stamped.at_s,
                    "fate": undecided,
                }
            case Scored(id, score):
                found[id] |= {"score": score, "scored_s": stamped.at_s}
            case Pruned(id, reason):
                found[id]["fate"] = reason
            case TeacherFailed(int() as id, _, kind, message):
                found[id] |= {"fate": kind if kind == "straggler" else f"failed:{kind}", "error": message}
            case ScoreRequested() | AnswerRequested():
                pass
    for id in winner.path if winner else ():
        found[id]["fate"] = "won"
    return tuple(CandidateRecord(**found[id]) for id in sorted(found))
