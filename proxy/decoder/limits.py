"""The stopping rules: which hypotheses may grow, by how much, and why a search ended. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.decoder.settings import Budget
from proxy.decoder.strategies import Unit
from proxy.decoder.types import StopCause, Trajectory

_GRACE = 0.1
"""The answer's share of a request's deadline when the reasoning has used it up."""
_LEAST_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one search may spend, by its budget and by what its strategy calls a step."""

    budget: Budget
    unit: Unit

    def is_open(self, trajectory: Trajectory) -> bool:
        """Whether this hypothesis may take another step."""
        within_steps = len(trajectory.candidates) < self.budget.steps
        return not trajectory.closed and within_steps and self.step_tokens(trajectory) > 0

    def step_tokens(self, trajectory: Trajectory) -> int:
        """How many tokens the next step may have; 0 or less when none are left."""
        total = self.budget.total_tokens
        reasoning = self.budget.reasoning_tokens
        left = (reasoning if total is None else min(reasoning, total)) - trajectory.tokens
        return left if self.unit == "trace" else min(self.budget.step_tokens, left)

    def answer_tokens(self, winner: Trajectory) -> int:
        """How many tokens the answer may have; 0 or less when none are left."""
        total = self.budget.total_tokens
        left = self.budget.answer_tokens
        return left if total is None else min(left, total - winner.tokens)

    def cause(self, winner: Trajectory, late: bool) -> StopCause:
        """Why the reasoning ended with this winner; `late` when the deadline passed."""
        if winner.closed:
            return "closed"
        if late:
            return "deadline"
        return "steps" if len(winner.candidates) >= self.budget.steps else "tokens"

    @property
    def answer_s(self) -> float:
        """Seconds from the start of the request in which its answer must have been written.

        `deadline_s` bounds the whole request: at it the reasoning ends, and the best so far is
        answered within a tenth of it.
        """
        return self.budget.deadline_s + max(_LEAST_GRACE_S, _GRACE * self.budget.deadline_s)


def has_settled(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> bool:
    """Whether a finished hypothesis has stayed the best while all others grew by a step."""
    return after[0].closed and after[0].path == before[0].path
