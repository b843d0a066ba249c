"""Turns many waiting callers into steps of one device thread.

Callers join and leave between two forwards: a new request takes part in the next one, whatever is
in progress, and one whose caller has gone is dropped before it.
"""

from __future__ import annotations

import anyio
from anyio import to_thread

from scoring.engine import ScoringEngine, Task
from scoring.types import ScoreReply, ScoreRequest


class Batcher:
    """Owns the engine while `run` is running."""

    def __init__(self, engine: ScoringEngine) -> None:
        self._engine = engine
        self._waiting: dict[Task, anyio.Event] = {}
        self._arrived = anyio.Event()
        self._tokenizing = anyio.CapacityLimiter(
            1
        )  # fast tokenizers are not to be used by two threads
        self._device = anyio.CapacityLimiter(1)

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Wait for the scores.

        Raises:
            BadScoreRequest: this request cannot be scored.
            ScorerUnavailable: a model served elsewhere does not answer, or the device has no memory left.
        """
        task = await to_thread.run_sync(self._engine.open, request, limiter=self._tokenizing)
        if self._engine.fetches(task):
            await to_thread.run_sync(self._engine.fetch, task, abandon_on_cancel=True)
        done = self._waiting[task] = anyio.Event()
        self._engine.add(task)
        self._arrived.set()
        try:
            await done.wait()
        finally:
            task.cancelled = True
            del self._waiting[task]
        if task.error is not None:
            raise task.error
        assert task.began is not None and task.ended is not None
        return ScoreReply(
            scores=task.scores,
            queue_s=task.began - task.arrived,
            compute_s=task.ended - task.began,
            batch_size=task.together,
            tokens_forwarded=task.forwarded,
            revision=self._engine.revision,
        )

    async def run(self) -> None:
        """Step the engine until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived = anyio.Event()
            while self._engine.busy:
                for task in await to_thread.run_sync(self._engine.step, limiter=self._device):
                    if task in self._waiting:
                        self._waiting[task].set()
