"""Wraps a teacher with limits on calls and time, and a breaker that skips it while it keeps failing.

After a few failures in a row a teacher is skipped for a while, then tried again with a single call.
One that does not continue a half-written turn is refused for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from proxy.decoder.ports import OnText, Teacher
from proxy.decoder.steps import Cut, Segmentation
from proxy.decoder.types import Continuation, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.breaker import Breaker
from proxy.teachers.canary import complaint
from proxy.teachers.grouping import write_grouped
from proxy.teachers.habits import kept_cuts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """`timeout_s` bounds one call, `concurrency` the calls in flight, queueing the rest.

    After `trip_after` failures in a row the teacher is left out for `cool_s` seconds, counted from the last of them.
    A teacher whose server asks to wait (`retry-after`) is left out as long, but for `longest_wait_s` at most.
    """

    timeout_s: float = 300.0
    concurrency: int = 64
    trip_after: int = 3
    cool_s: float = 15.0
    longest_wait_s: float = 60.0


class GuardedTeacher:
    """Keeps one teacher within its limits. Safe to share between requests on one event loop."""

    def __init__(
        self, teacher: Teacher, limits: Limits, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        self._teacher = teacher
        self._timeout_s = limits.timeout_s
        self._clock = clock
        self._places = anyio.Semaphore(limits.concurrency)
        self._breaker = Breaker(limits.trip_after, limits.cool_s, limits.longest_wait_s)
        self._complaint: str | None = None
        self._kept: frozenset[Cut] | None = None

    async def examine(self, segmentation: Segmentation, *, learn_cuts: bool = False) -> str | None:
        """Have the teacher go on with a half-written turn; what is wrong with how it does, if anything.

        It is refused from then on, until it is examined again. With `learn_cuts` it is found out, too, by which cuts
        its reasoning falls in steps.

        Raises:
            TeacherError: it could not be asked.
        """
        self._complaint = await complaint(self._call, segmentation)
        if learn_cuts and self._complaint is None:
            self._kept = await kept_cuts(self._call, segmentation)
            if self.note:
                log.warning("teacher %s: %s", self.name, self.note)
        return self._complaint

    @property
    def kept_cuts(self) -> frozenset[Cut]:
        """The cuts that this teacher keeps of itself; empty where none are known."""
        return self._kept or frozenset()

    @property
    def note(self) -> str:
        """What is to be known of how it keeps the format; empty where it heads its steps as it is told."""
        if self._kept is None or "marker" in self._kept:
            return ""
        others = " or ".join(sorted(self._kept))
        return "does not head its steps as it is told; " + (
            f"its reasoning can be cut by {others}" if others else "its reasoning falls in no steps"
        )

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
        if self._complaint is not None:
            raise TeacherError(self.name, "refused", self._complaint)
        return await write_grouped(self._call, ask, on_text)

    async def _call(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        self._admit()
        async with self._places:
            self._admit()  # what was known may have changed while this call waited for its place
            trial = self._breaker.began()
            try:
                written = await self._bounded(ask, on_text)
            except TeacherError as exc:
                self._breaker.ended(self._clock(), trial, exc.kind, exc.retry_after_s)
                raise
            except BaseException:
                self._breaker.gave_up(trial)
                raise
            self._breaker.ended(self._clock(), trial, None)
        return written

    def _admit(self) -> None:
        if (found := self._breaker.refusal(self._clock())) is not None:
            raise TeacherError(
                self.name, found.kind, found.reason, retry_after_s=found.retry_after_s
            )

    async def _bounded(self, ask: TeacherRequest, on_text: OnText | None) -> Continuation:
        """One call within its time; whatever goes wrong in it is this teacher's failure."""
        try:
            with anyio.fail_after(self._timeout_s):
                return await self._teacher.write(ask, on_text)
        except TimeoutError as exc:
            raise TeacherError(
                self.name, "timeout", f"no reply within {self._timeout_s:g} s"
            ) from exc
        except TeacherError:
            raise
        except Exception as exc:
            log.exception("teacher %s: unexpected failure", self.name)
            raise TeacherError(
                self.name, "broken", f"unexpected failure: {type(exc).__name__}: {exc}"
            ) from exc
