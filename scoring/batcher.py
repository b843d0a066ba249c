"""Turns many waiting callers into batches for one device thread.

Whatever waits when the device falls idle goes together, oldest first, up to a number of requests. A caller that
has gone is dropped before its request reaches the device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio import to_thread

from scoring.engine import Outcome
from scoring.types import ScoreReply, ScoreRequest

Score = Callable[[Sequence[ScoreRequest]], list[Outcome]]


@dataclass(eq=False, slots=True)
class _Waiting:
    request: ScoreRequest
    since: float
    done: anyio.Event = field(default_factory=anyio.Event)
    reply: ScoreReply | Exception | None = None


class Batcher:
    """Owns the device thread while `run` is running."""

    def __init__(self, score: Score, *, revision: str = "", max_batch: int = 32) -> None:
        self._score = score
        self._revision = revision
        self._max_batch = max_batch
        self._queue: deque[_Waiting] = deque()
        self._arrived = anyio.Event()
        self._device = anyio.CapacityLimiter(1)

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Wait for a turn and for the scores.

        Raises:
            BadScoreRequest: this request cannot be scored.
        """
        waiting = _Waiting(request, time.monotonic())
        self._queue.append(waiting)
        self._arrived.set()
        try:
            await waiting.done.wait()
        finally:
            if waiting in self._queue:
                self._queue.remove(waiting)
        if isinstance(waiting.reply, Exception):
            raise waiting.reply
        assert waiting.reply is not None
        return waiting.reply

    async def run(self) -> None:
        """Work the queue off until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]
                await self._work(batch)

    async def _work(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        requests = [waiting.request for waiting in batch]
        try:
            outcomes = await to_thread.run_sync(self._score, requests, limiter=self._device)
        except Exception as exc:  # a failing device must not strand the callers, whatever it raised
            for waiting in batch:
                waiting.reply = exc
                waiting.done.set()
            return
        compute_s = time.monotonic() - began
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.reply = outcome.error or ScoreReply(
                scores=outcome.scores,
                queue_s=began - waiting.since,
                compute_s=compute_s,
                batch_size=len(batch),
                tokens_forwarded=outcome.tokens_forwarded // len(batch),
                revision=self._revision,
            )
            waiting.done.set()
