"""Who may start: what requests may cost is reserved at the door and given back when they end.

A request that does not fit now waits for a bounded time in a bounded queue. When something is given back, the key
that holds least is served first, and within a key the oldest request, so that nobody starves behind a busy key.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from starlette.types import Receive

from proxy.api.auth import ANYBODY, Caller
from proxy.api.errors import Busy
from proxy.api.limits import NOTHING, Cost, RequestLimits, check_cost
from runtime.disconnects import while_connected

_LONGEST_RETRY_S = 600
_WEIGHT = 0.2
"""Of the newest request in the mean duration."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request at the door."""

    caller: Caller
    cost: Cost
    admitted: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False, slots=True)
class Admission:
    """One event loop's own: it needs no lock.

    Attributes:
        limits: for all requests together.
        queue: requests that may wait.
        wait_s: how long each may.
        retry_after_s: what a refused client is told before any request has ended.
        clock: seconds, monotonic.
        refused: how many were turned away, by reason.
    """

    limits: RequestLimits
    queue: int = 0
    wait_s: float = 0.0
    retry_after_s: int = 2
    clock: Callable[[], float] = time.monotonic
    refused: Counter[str] = field(default_factory=Counter)
    _held: Cost = NOTHING
    _held_by: dict[str, Cost] = field(default_factory=dict)
    _waiting: list[_Waiting] = field(default_factory=list)
    _duration_s: float | None = None

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def held(self) -> Cost:
        """What is reserved."""
        return self._held

    @asynccontextmanager
    async def place(
        self, cost: Cost | None = None, caller: Caller = ANYBODY
    ) -> AsyncIterator[None]:
        """Hold what a request may cost while it runs.

        Raises:
            RequestError: it costs more than is ever allowed.
            Busy: it does not fit, and the queue is full or the wait was too long.
        """
        cost = cost or Cost()
        for limits in (self.limits, caller.limits):
            check_cost(cost, limits)
        request = _Waiting(caller, cost)
        self._waiting.append(request)
        self._admit()
        if not request.admitted.is_set():
            await self._wait(request)
        began = self.clock()
        try:
            yield
        finally:
            self._give_back(request, self.clock() - began)

    async def _wait(self, request: _Waiting) -> None:
        """Wait for admission; whatever ends the wait without it leaves the queue."""
        try:
            if len(self._waiting) > self.queue:
                raise self._busy("queue_full")
            with anyio.move_on_after(self.wait_s):
                await request.admitted.wait()
            if not request.admitted.is_set():
                raise self._busy("waited_too_long")
        except BaseException:
            if request.admitted.is_set():
                self._give_back(request, None)
            else:
                self._waiting.remove(request)
                self._admit()
            raise

    def _admit(self) -> None:
        """Let in those who fit. One that its own key holds back is passed over; one that all hold back is not."""
        while True:
            fair = sorted(self._waiting, key=lambda one: self._of(one.caller).requests)
            fitting = [
                one
                for one in fair
                if not any(one.caller.limits.exceeded_by(self._of(one.caller) + one.cost))
            ]
            if not fitting or any(self.limits.exceeded_by(self._held + fitting[0].cost)):
                return
            first = fitting[0]
            self._waiting.remove(first)
            self._held += first.cost
            self._held_by[first.caller.name] = self._of(first.caller) + first.cost
            first.admitted.set()

    def _give_back(self, request: _Waiting, seconds: float | None) -> None:
        self._held -= request.cost
        left = self._of(request.caller) - request.cost
        if left == NOTHING:
            del self._held_by[request.caller.name]
        else:
            self._held_by[request.caller.name] = left
        if seconds is not None:
            before = seconds if self._duration_s is None else self._duration_s
            self._duration_s = before + _WEIGHT * (seconds - before)
        self._admit()

    def _of(self, caller: Caller) -> Cost:
        return self._held_by.get(caller.name, NOTHING)

    def _busy(self, reason: str) -> Busy:
        self.refused[reason] += 1
        message = (
            f"{self._held.requests} requests are being answered and {len(self._waiting) - 1} wait"
        )
        return Busy(f"{message}; come again later", self._retry_after())

    def _retry_after(self) -> int:
        """Seconds until those before this request have probably ended, by how long requests took lately."""
        if self._duration_s is None:
            return self.retry_after_s
        rounds = len(self._waiting) / max(1, self._held.requests)
        return min(_LONGEST_RETRY_S, max(1, math.ceil(self._duration_s * rounds)))


@asynccontextmanager
async def held_while_connected(
    receive: Receive, place: AbstractAsyncContextManager[None]
) -> AsyncIterator[None]:
    """Hold a place; a client that leaves while it waits for one leaves the queue.

    Raises:
        ClientGone: the client left before there was a place.
    """
    async with AsyncExitStack() as stack:
        await while_connected(receive, lambda: stack.enter_async_context(place))
        yield
