"""The strategies as data: what a step is, what ranks the steps, and how wide the beam is.

Every strategy is the same search under other parameters; see docs/search.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["step", "trace"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """What sets one strategy apart.

    Attributes:
        unit: what a teacher writes in one call, a step or a whole trace.
        rank: what orders the hypotheses.
        width: the beam's width; None leaves it to `Settings.beam_width`.
        teachers: how many teachers of the panel are asked, from the first on; None asks all.
    """

    unit: Unit = "step"
    rank: Literal["score", "chance", "length"] = "score"
    width: int | None = None
    teachers: int | None = None


STRATEGIES = {
    "beam": Strategy(),
    "greedy": Strategy(width=1),
    "curation": Strategy(unit="trace", width=1),
    "random": Strategy(rank="chance", width=1),
    "longest": Strategy(rank="length", width=1),
    "single": Strategy(rank="length", width=1, teachers=1),
}
"""By name. "single" asks the panel's first teacher alone, step by step, so that it streams."""
