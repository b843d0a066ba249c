"""Which teachers are worth asking at which step: a bandit over those that win, which remembers across requests."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

_WORTH_HALF = 0.5
"""A teacher is left out when what it would win, for what it costs, comes to less than this share of the best's."""


@dataclass(slots=True)
class TeacherStats:
    """How one teacher has fared at one stage of the reasoning."""

    won: int = 0
    lost: int = 0
    tokens: int = 0

    @property
    def cost(self) -> float:
        """Tokens a proposal, with one of 1 token to begin with."""
        return (1 + self.tokens) / (1 + self.won + self.lost)


@dataclass(slots=True)
class Bandit:
    """Thompson sampling (arXiv 1707.02038) over teachers, by stage of the reasoning.

    A teacher's chance to have written the winner's next step is drawn from Beta(1 + won, 1 + lost), and divided by the
    tokens that its proposals take, relative to the cheapest, to the power `thrift`: 0 asks who wins, 1 who wins most
    a token. Stages double: steps 1, 2-3, 4-7, and so on, as teachers win early or late rather than at a number.
    """

    thrift: float = 0.5
    records: dict[tuple[int, str], TeacherStats] = field(
        default_factory=lambda: defaultdict(TeacherStats)
    )

    def choose(
        self, teachers: Sequence[str], depth: int, seed: int, exploration: float
    ) -> frozenset[str]:
        """Whom to ask for step `depth` (from 1): the promising, and each other with probability `exploration`."""
        rng = random.Random(seed)
        known = [self.records[depth.bit_length(), name] for name in teachers]
        cheapest = min(record.cost for record in known)
        worth = [
            rng.betavariate(1 + record.won, 1 + record.lost)
            * (cheapest / record.cost) ** self.thrift
            for record in known
        ]
        best = max(worth)
        return frozenset(
            name
            for name, value in zip(teachers, worth, strict=True)
            if rng.random() < exploration or value >= _WORTH_HALF * best
        )

    def learn(self, teacher: str, depth: int, won: bool, tokens: int) -> None:
        """Note how a proposal has ended."""
        record = self.records[depth.bit_length(), teacher]
        record.won += won
        record.lost += not won
        record.tokens += tokens
