"""One step's proposals on their way: what is still being written, what has landed, and when the step may be decided.

State only, changed by the search as things happen; decides nothing about which trajectories live on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import anyio

from proxy.decoder.ports import Teacher
from proxy.decoder.types import Candidate, Score, Trajectory
from proxy.errors import ScorerError, TeacherError


@dataclass(slots=True)
class Landing:
    """A proposal that has come in: its scores by name, all of them as one `score`, and the answers drafted after it,
    with the tokens that took.
    """

    prefix: Trajectory
    candidate: Candidate
    scores: dict[str, Score] = field(default_factory=dict)
    score: Score | None = None
    drafts: tuple[str, ...] = ()
    drafted: int = 0

    @property
    def trajectory(self) -> Trajectory:
        return self.prefix.extend(self.candidate, self.score)


@dataclass(slots=True)
class Barrier:
    """One step's proposals on their way: who is still out, what has landed, and when the rest may be left behind.

    `spare` is how many may be missing when the patience with stragglers begins to run. `silent` counts, by the tip of
    their prefix, those who closed the thinking and added nothing.
    """

    out: dict[int, Teacher]
    spare: int
    reached: anyio.Event = field(default_factory=anyio.Event)
    landed: list[Landing] = field(default_factory=list)
    said: set[tuple[int | None, str]] = field(default_factory=set)
    silent: Counter[int] = field(default_factory=Counter)
    failures: list[TeacherError] = field(default_factory=list)
    broken: ScorerError | None = None

    def is_complete(self, prefix: Trajectory) -> bool:
        """Whether at least half of those who answered have nothing to add to this prefix."""
        adding = sum(landing.prefix is prefix for landing in self.landed)
        return prefix.tip is not None and self.silent[prefix.tip] >= max(adding, 1)

    def settle(self, id: int) -> None:
        """Note that a proposal has come to its end, good or bad; wake the barrier when it may fall."""
        del self.out[id]
        if not self.out or ((self.landed or self.silent) and len(self.out) <= self.spare):
            self.reached.set()


@dataclass(slots=True)
class Draft:
    """A step while it is being written. `news` is set when there is more of it, or it has `ended`."""

    text: str = ""
    ended: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)

    def hear(self, delta: str) -> None:
        self.text += delta
        self.news.set()

    def end(self) -> None:
        self.ended = True
        self.news.set()
