"""Teachers and a scorer in virtual time: what they write depends on the prefix, teacher and sample.

A run of the real search on trio's mock clock takes no time and tells the same every time. A step's
length is log-normal; each further sequence on an engine slows all of them, as batching does.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from proxy.decoder.ports import OnText
from proxy.decoder.types import Continuation, Problem, Score, Source, TeacherRequest
from proxy.errors import TeacherError

_TICK_S = 0.1
"""How often an engine looks at how many sequences share it."""


def drawn(*what: object) -> random.Random:
    """A generator whose seed is what it is asked about."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))


@dataclass(frozen=True, slots=True)
class Texts:
    """How long steps are and how the reasoning ends.

    Attributes:
        steps: after so many steps the thinking closes.
        tokens: the mean length of a step.
        spread: σ of the logarithm of the length.
        failing: the share of calls that fail.
        repeated: the share of steps that say the same whoever writes them.
        silent: the share of steps that say nothing.
        early: the share of steps that close the thinking before the last.
    """

    steps: int = 40
    tokens: int = 200
    spread: float = 0.4
    failing: float = 0.0
    repeated: float = 0.0
    silent: float = 0.0
    early: float = 0.0


@dataclass(slots=True)
class SimulatedTeacher:
    """A model on an engine of its own that writes so many tokens a second, alone."""

    name: str
    texts: Texts
    tokens_per_s: float
    first_token_s: float = 0.08
    slowed: float = 0.03
    supports_response_format: bool = False
    supports_tools: bool = False
    running: int = 0
    written: float = 0.0
    calls: dict[tuple[str, int, int], int] = field(default_factory=dict)

    async def write(self, request: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; see `decoder.ports.Teacher`. `written` counts cancelled tokens too."""
        if request.answer is not None:
            if on_text is not None:
                on_text("done")
            return Continuation("done", "eos", 1, 1)
        found = self._outcome(request)
        self.running += 1
        try:
            await anyio.sleep(self.first_token_s)
            left = float(found.completion_tokens) if isinstance(found, Continuation) else 1.0
            while left > 1e-9:
                pace = self.tokens_per_s / (1 + self.slowed * (self.running - 1))
                span = min(_TICK_S, left / pace) if self.slowed else left / pace
                await anyio.sleep(span)
                self.written += pace * span
                left -= pace * span
        finally:
            self.running -= 1
        key = (request.reasoning, request.seed, request.max_tokens)
        self.calls[key] = self.calls.get(key, 0) + 1
        if isinstance(found, TeacherError):
            raise found
        return found

    def _outcome(self, request: TeacherRequest) -> Continuation | TeacherError:
        texts = self.texts
        mine = drawn(self.name, request.reasoning, request.seed)
        theirs = drawn("all", request.reasoning)
        if mine.random() < texts.failing:
            return TeacherError(self.name, "broken", "failed as planned")
        depth = request.reasoning.count("### Step")
        if not request.stop:  # a whole trace
            lengths = [self._length(mine) for _ in range(texts.steps)]
            tokens = min(sum(lengths), request.max_tokens)
            return Continuation(f" {mine.random()}", "closed", 1, tokens)
        if theirs.random() < texts.repeated:
            return Continuation(f" {theirs.random()}", "marker", 1, self._length(theirs))
        silent = mine.random() < texts.silent
        closes = depth >= texts.steps or mine.random() < texts.early
        text = "" if silent else f" {mine.random()}"
        tokens = min(self._length(mine), request.max_tokens)
        return Continuation(text, "closed" if closes or silent else "marker", 1, tokens)

    def _length(self, source: random.Random) -> int:
        spread = self.texts.spread
        mean = math.log(self.texts.tokens) - spread**2 / 2
        return max(1, round(source.lognormvariate(mean, spread)))


@dataclass(slots=True)
class SimulatedScorer:
    """Scores a text by a number drawn from it, after `seconds`. `grain` makes ties."""

    seconds: float = 0.06
    grain: float = 0.0
    asked: int = 0

    async def score(
        self,
        problem: Problem,
        prefix: str,
        step: str,
        objective: str,
        proposer: str = "",
        pool: Mapping[str, float] | None = None,
        *,
        ahead: bool = False,
    ) -> Score:
        """Score one step; see `decoder.ports.Scorer`."""
        await anyio.sleep(self.seconds)
        self.asked += 1
        value = drawn("score", objective, prefix + step, sorted((pool or {}).items())).random()
        if self.grain:
            value = round(value / self.grain) * self.grain
        additive = objective == "step"
        return Score(-value, 1.0, additive, objective, Source.NONE, tokens_forwarded=1)

    async def elicit(self, problem: Problem, prefix: str, step: str) -> tuple[tuple[str, ...], int]:
        """What two judges would answer now."""
        await anyio.sleep(self.seconds)
        source = drawn("answer", prefix + step)
        return tuple(source.choice("abc") for _ in range(2)), 1

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        """Nothing is gained by reading ahead here."""
