"""The proxy's background tasks: child processes and probes.

Each task runs on its own: one that fails is logged and remembered, and the others go on. A proxy with a failed task
cannot be trusted to serve, so it calls itself unhealthy and asks its server to stop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from proxy.probe import Probes
from proxy.processes import Child

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Background:
    """The tasks of one proxy. `on_failure` is called once, when the first of them fails; `failure` names it."""

    children: Sequence[Child]
    probes: Probes
    on_failure: Callable[[], None] = lambda: None
    failure: str | None = None
    _group: TaskGroup | None = None

    @property
    def healthy(self) -> bool:
        """Whether the proxy runs and all its tasks do."""
        return self._group is not None and self.failure is None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The tasks run inside; on leaving, the children are ended."""
        async with anyio.create_task_group() as group:
            for child in self.children:
                group.start_soon(self._keep, child.name, child.supervise)
            group.start_soon(self._keep, "probes", self.probes.run)
            self._group = group
            try:
                yield
            finally:
                self._group = None
                self.stop()
                group.cancel_scope.cancel()

    def start(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run another task beside these, from now until the end. Call it while running."""
        assert self._group is not None
        self._group.start_soon(self._keep, name, task)

    def stop(self) -> None:
        """The proxy is about to end: no child is started again."""
        for child in self.children:
            child.stop()

    def kill(self) -> None:
        """End all children at once, without waiting."""
        for child in self.children:
            child.kill()

    async def _keep(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception as exc:
            log.critical("the background task %s failed; the proxy stops", name, exc_info=True)
            if self.failure is None:
                self.failure = f"{name}: {type(exc).__name__}: {exc}"
                self.on_failure()
