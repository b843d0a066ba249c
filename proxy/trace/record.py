"""A search as one record: everything that was proposed, what it scored, what became of it, and why it ended.

The nouns alone. `trace.fold` makes a record of a search, `trace.codec` takes it to JSON and back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.decoder.events import TeacherSkipped
from proxy.decoder.settings import Settings
from proxy.decoder.summary import Cost, Usage
from proxy.decoder.types import Score

Message = dict[str, Any]
"""One message as OpenAI writes it: `role`, `content`, and `name`, `tool_calls` or `tool_call_id` where it has them."""


def message_text(message: Message) -> str:
    """What a message says; nothing where it only calls tools."""
    return str(message.get("content") or "")


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

    `fate`: won, rank, duplicate, empty, outranked, lag, unscored, straggler, speculative, unfinished (the
    search ended first), or
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
    tokens_estimated: bool = False
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
class Feedback:
    """What somebody said of a reply later: reference answers, a rating in [0, 1], a comment."""

    id: str
    time: str
    references: tuple[str, ...] = ()
    rating: float | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One request that reached the decoder, whatever its end.

    `id` is the reply's, `request_id` the one in the reply's headers. `messages` and `tools` are what the client sent.
    `outcome` is finished, failed or cancelled. `prompt_hash` identifies the conversation (SHA-256 over its JSON),
    `dedupe_hash` the conversation with the winning text. `skipped` tells which teachers which steps did without.
    `feedback` came later, and its references are among `references`; scores are still those of the search.
    """

    schema: str
    id: str
    request_id: str | None
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
    tools: tuple[dict[str, Any], ...] = ()
    answer_failures: tuple[str, ...] = field(default=())
    skipped: tuple[TeacherSkipped, ...] = ()
    feedback: tuple[Feedback, ...] = ()

    @property
    def won(self) -> tuple[CandidateRecord, ...]:
        """The winner's steps, in order."""
        by_id = {candidate.id: candidate for candidate in self.candidates}
        return tuple(by_id[id] for id in self.winner.path if id in by_id) if self.winner else ()

    @property
    def value(self) -> float | None:
        """The winner's score in nats per unit of length; None where nothing was scored."""
        return self.winner.value if self.winner and any(step.score for step in self.won) else None

    @property
    def writers(self) -> frozenset[str]:
        """The teachers that wrote the winner's steps and its answer."""
        answerer = {self.winner.answerer} if self.winner else set()
        return frozenset(candidate.teacher for candidate in self.won) | answerer

    @property
    def reasoning(self) -> str:
        return "".join(candidate.text for candidate in self.won)

    def path(self, tip: int | None) -> tuple[CandidateRecord, ...]:
        """The candidates from the root up to and including one; empty at the root."""
        by_id = {candidate.id: candidate for candidate in self.candidates}
        path: list[CandidateRecord] = []
        while tip is not None and tip in by_id:
            # What has been visited is taken out, so that a damaged record ends too.
            candidate = by_id.pop(tip)
            path.append(candidate)
            tip = candidate.parent
        return tuple(reversed(path))

    def prefix(self, tip: int | None) -> str:
        """The reasoning up to and including a candidate; empty at the root."""
        return "".join(candidate.text for candidate in self.path(tip))
