"""A teacher around a teacher: bounded calls, bounded time, and a breaker for one that keeps failing.

A dead teacher must cost a search nothing but its share: after a few failures in a row it is left out at once
for a while, then tried again with a single call. One that does not continue a half-written turn is refused for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from proxy.decoder.ports import OnText, Teacher
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.canary import complaint

_TRIPS = frozenset({"unreachable", "timeout", "overloaded", "broken"})
"""Failures that speak about the teacher rather than about what it was asked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`timeout_s` bounds one call, `concurrency` the calls in flight, queueing the rest.

    After `trip_after` failures in a row the teacher is left out for `cool_s` seconds.
    """

    timeout_s: float = 300.0
    concurrency: int = 64
    trip_after: int = 3
    cool_s: float = 15.0


class GuardedTeacher:
    """Keeps one teacher within its limits. Safe to share between requests on one event loop."""

    def __init__(self, teacher: Teacher, limits: Limits, clock: Callable[[], float] = anyio.current_time) -> None:
        self._teacher = teacher
        self._limits = limits
        self._clock = clock
        self._places = anyio.Semaphore(limits.concurrency)
        self._failures = 0
        self._closed_until = 0.0
        self._refusal: str | None = None

    async def examine(self, segmentation: Segmentation) -> str | None:
        """Have the teacher go on with a half-written turn; what is wrong with how it does, if anything.

        It is refused from then on, until it is examined again.

        Raises:
            TeacherError: it could not be asked.
        """
        self._refusal = None
        self._refusal = await complaint(self, segmentation)
        return self._refusal

    @property
    def name(self) -> str:
        return self._teacher.name

    @property
    def supports_response_format(self) -> bool:
        return self._teacher.supports_response_format

    @property
    def supports_tools(self) -> bool:
        return self._teacher.supports_tools

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """As `Teacher.write`; fails at once while the breaker is open, or once it is refused."""
        if self._refusal is not None:
            raise TeacherError(self.name, "refused", self._refusal)
        if self._tripped and self._clock() < self._closed_until:
            raise TeacherError(self.name, "unreachable", f"left out after {self._failures} failures in a row")
        async with self._places:
            # While this call finds out whether the teacher is back, others stay out.
            self._closed_until = self._clock() + self._limits.cool_s
            try:
                with anyio.fail_after(self._limits.timeout_s):
                    written = await self._teacher.write(ask, on_text)
            except TimeoutError as exc:
                self._failures += 1
                raise TeacherError(self.name, "timeout", f"no reply within {self._limits.timeout_s:g} s") from exc
            except TeacherError as exc:
                self._failures = self._failures + 1 if exc.kind in _TRIPS else 0
                raise
        self._failures = 0
        return written

    @property
    def _tripped(self) -> bool:
        return self._failures >= self._limits.trip_after
