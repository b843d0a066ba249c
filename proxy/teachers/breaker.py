"""When a teacher is left out: after failures in a row, or until the time that its server has named.

Pure: whoever calls a teacher asks `refusal` first and reports how the call ended. Keeps no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import FailureKind

_TRIPS = frozenset({"unreachable", "timeout", "overloaded", "broken"})
"""Failures that speak about the teacher rather than about what it was asked."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a teacher is not called now, and for how long at least."""

    kind: FailureKind
    reason: str
    retry_after_s: float


@dataclass(slots=True)
class Breaker:
    """Opens after `trip_after` failures in a row, for `cool_s` from the last of them; then one call tries.

    A call that was turned away for its rate neither counts as a failure nor ends a row of them. All times are seconds
    of the caller's clock.
    """

    trip_after: int
    cool_s: float
    longest_wait_s: float
    failures: int = 0
    open_until: float = 0.0
    wait_until: float = 0.0
    trying: bool = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back, but for one that tries."""
        return self.failures >= self.trip_after

    def refusal(self, now: float) -> Refusal | None:
        """Why the teacher is not to be called now; None if it may be."""
        if now < self.wait_until:
            return Refusal(
                "rate_limited", "left out: its server asks to wait", self.wait_until - now
            )
        if self.is_open and (self.trying or now < self.open_until):
            reason = f"left out after {self.failures} failures in a row"
            return Refusal("unreachable", reason, max(self.open_until - now, 0.0))
        return None

    def began(self) -> bool:
        """Note that a call begins; whether it is the one that tries a teacher that was left out."""
        trial = self.is_open and not self.trying
        self.trying = self.trying or trial
        return trial

    def ended(
        self,
        now: float,
        trial: bool,
        failure: FailureKind | None,
        retry_after_s: float | None = None,
    ) -> None:
        """Note how a call ended."""
        self.gave_up(trial)
        if retry_after_s is not None and failure in ("rate_limited", "overloaded"):
            self.wait_until = max(self.wait_until, now + min(retry_after_s, self.longest_wait_s))
        if failure in _TRIPS:
            self.failures += 1
            self.open_until = now + self.cool_s
        elif failure != "rate_limited":
            self.failures = 0

    def gave_up(self, trial: bool) -> None:
        """Note that a call was cancelled: nothing is known, and another may try."""
        self.trying = self.trying and not trial
