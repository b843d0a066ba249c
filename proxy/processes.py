"""Child processes the proxy owns: the scorer and the embedded teachers, each listening on a Unix socket.

A child is started, and started again with growing pauses when it ends; whether it answers is for a probe. Children
run in sessions of their own, so that Ctrl-C in a terminal reaches only the proxy, which ends them when running
searches are done. They hold a pipe from us as their standard input and leave when it closes, so that none outlives a
killed proxy. Knows nothing of what a child does.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from proxy.api.health import Status
from runtime.processes import UNUSABLE

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
_GRACE_S = 5.0
_LAST_WORDS_S = 1.0
_LONGEST_LINE = 2000


@dataclass(slots=True)
class Child:
    """One supervised process: `python -m MODULE ARGUMENTS --uds SOCKET --exit-with-parent`.

    `serving` says that the process, as it runs now, has answered a probe; `gave_up` that it is not started again.
    """

    name: str
    module: str
    arguments: Sequence[str]
    socket: Path
    restarts: int = 0
    process: Process | None = field(default=None, repr=False)
    serving: bool = False
    gave_up: bool = False
    _ended: str = ""
    _stopping: bool = False
    _began: float = 0.0
    _said: deque[str] = field(default_factory=lambda: deque(maxlen=20), repr=False)

    async def supervise(self) -> None:
        """Keep the child running until cancelled, told to `stop`, or it says that it cannot run."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._ended = await self._lived()
            self.serving = False
            if self._stopping:
                return
            if self.gave_up:
                log.error("%s cannot run and is not started again: %s", self.name, self.last_line)
                return
            self.restarts += 1
            if anyio.current_time() - self._began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            log.warning("%s %s; it is started again in %g s", self.name, self._ended, pause_s)
            await anyio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def answered(self) -> None:
        """Note that the process has answered a probe."""
        self.serving = True

    def restart(self, why: str) -> None:
        """Kill a process that has stopped working; `supervise` starts another."""
        log.error("%s hangs (%s); it is killed", self.name, why)
        self.kill()

    def stop(self) -> None:
        """From now on the child is not started again when it ends."""
        self._stopping = True

    def kill(self) -> None:
        """End the process at once, without waiting."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()

    @property
    def loading_s(self) -> float:
        """How long the process has been running without an answer; zero where it does not, or has answered."""
        alive = self.process is not None and self.process.returncode is None
        return anyio.current_time() - self._began if alive and not self.serving else 0.0

    @property
    def last_line(self) -> str:
        """What the child said last on its standard error."""
        return next((line for line in reversed(self._said) if line.strip()), "")

    @property
    def said(self) -> tuple[str, ...]:
        """Its last lines of standard error."""
        return tuple(self._said)

    def condition(self) -> tuple[Status, str]:
        """How a child that does not answer fares, for `/ready` and `cord check`."""
        alive = self.process is not None and self.process.returncode is None
        if self.gave_up:
            return "crashed", self.last_line or self._ended
        if not self._ended:
            return "loading", "its model is loading"
        again = "is loading again" if alive else "will be started again"
        said = f" ({self.last_line})" if self.last_line else ""
        return (
            "loading" if alive else "crashed"
        ), f"{self._ended}{said} and {again}; restarts: {self.restarts}"

    async def _lived(self) -> str:
        """One life of the process; how it ended."""
        self._began = anyio.current_time()
        try:
            status = await self._run()
        except OSError as exc:
            return f"could not be started: {exc}"
        except Exception as exc:
            log.exception("%s: supervision failed", self.name)
            return f"could not be supervised: {type(exc).__name__}: {exc}"
        self.gave_up = status == UNUSABLE
        return f"ended with status {status}"

    async def _run(self) -> int:
        """Start the process and wait for its exit status; it has ended in any case when this returns or raises."""
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, "-m", self.module, *self.arguments]
        command += ["--uds", str(self.socket), "--exit-with-parent"]
        process = await anyio.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=None,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.process = process
        assert process.stderr is not None
        listening = anyio.CancelScope(shield=True)  # it is heard while it shuts down, too
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear, process.stderr, listening)
                try:
                    await process.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await _end(process)
                    # The pipe may stay open in a process of the child's own.
                    listening.deadline = anyio.current_time() + _LAST_WORDS_S
        finally:
            with anyio.CancelScope(shield=True):
                await process.aclose()
        assert process.returncode is not None
        return process.returncode

    async def _hear(self, stream: ByteReceiveStream, listening: anyio.CancelScope) -> None:
        """Log what the child writes to standard error, line by line, and keep the last of it."""
        rest = b""
        with listening, suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(line)
                rest = rest[:_LONGEST_LINE]
        if rest:
            self._note(rest)

    def _note(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE].decode("utf-8", "replace").rstrip()
        self._said.append(text)
        log.info("%s: %s", self.name, text)


async def _end(process: Process) -> None:
    """Close the pipe, which asks the process to leave, and make it leave after a while."""
    if process.returncode is None:
        assert process.stdin is not None
        with suppress(anyio.BrokenResourceError, OSError):
            await process.stdin.aclose()
        with anyio.move_on_after(_GRACE_S):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
