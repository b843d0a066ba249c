"""Child processes the proxy owns: the scorer and the embedded teachers, each listening on a Unix socket.

A child is started, and started again with growing pauses when it dies; whether it answers yet is for a probe.
Children hold a pipe from us as their standard input and leave when it closes, so that none outlives a killed
proxy. Knows nothing of what a child does.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process, TaskStatus

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
_GRACE_S = 5.0


@dataclass(slots=True)
class Child:
    """One supervised process: `python -m MODULE ARGUMENTS --uds SOCKET --exit-with-parent`."""

    name: str
    module: str
    arguments: Sequence[str]
    socket: Path
    restarts: int = 0
    process: Process | None = field(default=None, repr=False)

    async def supervise(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the child running until cancelled; reports started as soon as the process exists."""
        pause_s = 0.5
        while True:
            began = anyio.current_time()
            code = await self._run(task_status)
            self.restarts += 1
            if anyio.current_time() - began > _STEADY_S:
                pause_s = 0.5
            log.warning("%s ended with status %s; started again in %g s", self.name, code, pause_s)
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _run(self, task_status: TaskStatus[None]) -> int:
        """One life of the process; its exit status."""
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", self.module, *self.arguments]
        command += ["--uds", str(self.socket), "--exit-with-parent"]
        process = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=None, stderr=None)
        self.process = process
        if self.restarts == 0:
            task_status.started()
        try:
            return await process.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)


async def _end(process: Process) -> None:
    """Ask the process to leave, and make it after a while."""
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(_GRACE_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()
