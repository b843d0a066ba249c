"""The nouns of collaborative decoding, as frozen values.

A *teacher* proposes a *candidate*, the next *step* under a *prefix*; scored candidates extend *trajectories*;
the best of these are the *beam*. Nothing here acts, awaits or knows a wire format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

Ended = Literal["marker", "closed", "eos", "length"]
"""Why a continuation ended: at a stop text, where thinking closes, at the model's end of turn, or out of tokens."""

FinishReason = Literal["stop", "length"]
StopCause = Literal["closed", "steps", "tokens", "deadline"]
"""Why the reasoning ended: thinking was closed, or a budget was spent."""


class Source(StrEnum):
    """Where the knowledge in a score comes from. Scores of different sources are never compared."""

    REFERENCE = "reference"
    CONSENSUS = "consensus"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation. Content is text; what is not text never reaches the search."""

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What the client asked. `references` are for the scorer alone and never reach a teacher.

    `format` is what the answer must be held to, as OpenAI's `response_format` puts it; `tools` are what it may call
    instead, as OpenAI's `tools` are.
    """

    id: str
    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class TeacherRequest:
    """One call to a teacher: continue this half-written assistant turn.

    `reasoning` is canonical text, every step ending in a blank line, plus the seeded header of the step asked for.
    `answer` is None while the turn is still thinking, else the answer written so far, which `format` may bind.
    A step that ends at a stop text before `min_chars` characters is gone on with, by the next paragraph.
    """

    messages: tuple[Message, ...]
    reasoning: str
    answer: str | None
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    format: Mapping[str, Any] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    min_chars: int = 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a teacher wrote: the text after the ask's, without the stop text or the thinking's closer.

    With `tokens_estimated` the server did not count its tokens, and the proxy estimated both counts.
    """

    text: str
    ended: Ended
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposed next step. `parent` is the candidate it extends, None at the root; `depth` counts from 1.

    Ids count the requests of a search. `slot` is its place among its siblings, by teacher and
    sample; it breaks ties, so that results do not depend on who answers first.
    `tokens_estimated` is that of the teacher's `Continuation`.
    """

    id: int
    parent: int | None
    depth: int
    teacher: str
    text: str
    ended: Ended
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool = False
    slot: int = 0

    @property
    def closes(self) -> bool:
        """Whether the thinking ends with this step."""
        return self.ended in ("closed", "eos")


@dataclass(frozen=True, slots=True)
class ScorePart:
    """One model's share in a score: summed log-probability in nats, over that many of its tokens."""

    model: str
    nats: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """How good a candidate is, in nats.

    With `additive` the score judges the step alone, and a trajectory sums nats and length over its steps;
    without it the score already judges the whole trajectory (predictive perplexity looks ahead from its end).
    `queue_s` and `batch_size` tell how the scorer worked it off. `blended` are the other scores of a blend.
    """

    nats: float
    length: float
    additive: bool
    objective: str
    source: Source
    per_model: tuple[ScorePart, ...] = ()
    queue_s: float = 0.0
    batch_size: int = 1
    tokens_forwarded: int = 0
    blended: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """What a trajectory has scored by one objective: nats, and the length to normalise them by."""

    nats: float = 0.0
    length: float = 0.0

    def add(self, score: Score) -> Tally:
        """With one more step."""
        if score.additive:
            return Tally(self.nats + score.nats, self.length + score.length)
        return Tally(score.nats, score.length)

    def value(self, length_penalty: float) -> float:
        """Σ nats / Σ length^α (arXiv 1609.08144); 0 where nothing scored."""
        return float(self.nats / self.length**length_penalty) if self.length else 0.0


@dataclass(frozen=True)
class Trajectory:
    """A path from the root: the candidates chosen so far, and what they scored, by each score of a blend.

    `complete` is one that teachers had nothing to add to.
    """

    candidates: tuple[Candidate, ...] = ()
    tallies: tuple[Tally, ...] = ()
    complete: bool = False

    @cached_property
    def text(self) -> str:
        """The canonical reasoning."""
        return "".join(candidate.text for candidate in self.candidates)

    @property
    def tip(self) -> int | None:
        """The id of the last candidate; None at the root."""
        return self.candidates[-1].id if self.candidates else None

    @cached_property
    def path(self) -> tuple[int, ...]:
        return tuple(candidate.id for candidate in self.candidates)

    @cached_property
    def order(self) -> tuple[tuple[int, int], ...]:
        """What breaks ties between equal scores: the slots on the way, whoever answered first."""
        return tuple((candidate.slot, candidate.id) for candidate in self.candidates)

    @property
    def closed(self) -> bool:
        return self.complete or (bool(self.candidates) and self.candidates[-1].closes)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the reasoning, as their teachers counted them."""
        return sum(candidate.completion_tokens for candidate in self.candidates)

    def extend(self, candidate: Candidate, score: Score | None) -> Trajectory:
        """The trajectory one step further; an unscored step leaves the score as it was."""
        path = (*self.candidates, candidate)
        if score is None:
            return Trajectory(path, self.tallies)
        scores = (score, *score.blended)
        before = self.tallies or (Tally(),) * len(scores)
        return Trajectory(
            path, tuple(tally.add(part) for tally, part in zip(before, scores, strict=True))
        )

    def value(self, length_penalty: float) -> float:
        """By the first score; 0 for an unscored trajectory."""
        return self.tallies[0].value(length_penalty) if self.tallies else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What the search found. `answer_prompt_tokens` and `answer_tokens` are the answerer's counts."""

    winner: Trajectory
    value: float
    stopped: StopCause
    answer: str
    answerer: str
    answer_tokens: int
    answer_prompt_tokens: int
    finish_reason: FinishReason
