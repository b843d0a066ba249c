"""What happens in a search, as values in the order it happened.

The reply, the trace, the metrics and the live view are all computed from these events.
Events hold no time; the journal adds it. A search emits `Started` first and exactly one of
`Finished`, `Failed`, `Cancelled` last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.decoder.settings import Settings
from proxy.decoder.types import Candidate, Problem, Result, Score
from proxy.errors import FailureKind

PruneReason = Literal["rank", "duplicate", "empty", "outranked", "lag", "unscored", "speculative"]
"""Why a candidate was dropped.

rank: not among the best of its step. duplicate: a sibling said the same, or nearly. empty: it said nothing.
outranked: its beam was alive until a finished one won. lag: sent text had already chosen another branch.
unscored: its score did not come in time. speculative: it was asked for ahead of need, under a prefix that fell.
"""


@dataclass(frozen=True, slots=True)
class Started:
    problem: Problem
    settings: Settings
    teachers: tuple[str, ...]
    objective: str | None


@dataclass(frozen=True, slots=True)
class ProposalRequested:
    """A teacher was asked for the candidate that will carry this id."""

    id: int
    parent: int | None
    depth: int
    teacher: str


@dataclass(frozen=True, slots=True)
class TeacherSkipped:
    """A teacher was not asked for step `depth`, under any prefix: it seldom wins there, or was given up before."""

    depth: int
    teacher: str


@dataclass(frozen=True, slots=True)
class Proposed:
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class ProposalCancelled:
    """A call was stopped, as its prefix fell or the search ended. It may be made again, under another id.

    `tokens` estimates what had been written, from the teacher's pace in this search.
    """

    id: int
    teacher: str
    tokens: int


@dataclass(frozen=True, slots=True)
class TeacherFailed:
    """The call for candidate `id` (None: for the answer) came to nothing; a straggler was left behind unanswered."""

    id: int | None
    teacher: str
    kind: FailureKind | Literal["straggler"]
    message: str


@dataclass(frozen=True, slots=True)
class ScoreRequested:
    id: int


@dataclass(frozen=True, slots=True)
class Scored:
    id: int
    score: Score


@dataclass(frozen=True, slots=True)
class Pruned:
    """A candidate was dropped; of a duplicate, `kept` is the one that says the same and stays."""

    id: int
    reason: PruneReason
    kept: int | None = None


@dataclass(frozen=True, slots=True)
class StepDecided:
    """A step is final: these candidates' trajectories live on or are finished, in order of rank."""

    depth: int
    beam: tuple[int, ...]
    finished: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """A step became final: every live trajectory shares it, and it will never be retracted."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class AnswerRequested:
    teacher: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """`kind` is bounded: a `SearchError` or `ScorerError` kind, or "internal" for a bug."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    pass


Event = (
    Started
    | ProposalRequested
    | TeacherSkipped
    | Proposed
    | ProposalCancelled
    | TeacherFailed
    | ScoreRequested
    | Scored
    | Pruned
    | StepDecided
    | Committed
    | AnswerRequested
    | AnswerDelta
    | Finished
    | Failed
    | Cancelled
)
