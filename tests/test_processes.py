"""Children as real processes: kept running, heard, killed when they hang, ended in order."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from proxy import processes
from proxy.processes import Child

pytestmark = pytest.mark.anyio


class Heard(logging.Handler):
    """What children say, told as it is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.waiting: dict[str, anyio.Event] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        for words in [words for words in self.waiting if words in self.lines[-1]]:
            self.waiting.pop(words).set()

    async def hears(self, words: str) -> None:
        """Wait until a child has said this, or says it; what was said before is forgotten."""
        if not any(words in line for line in self.lines):
            with anyio.fail_after(60):
                await self.waiting.setdefault(words, anyio.Event()).wait()
        self.lines.clear()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that children run: it says that it runs, and stays until its standard input ends."""
    file = tmp_path / "program.py"
    file.write_text(
        "import os, sys\n"
        "print('running', os.getpid(), os.getsid(0), file=sys.stderr, flush=True)\n"
        "os.read(0, 1)\n"
        "print('leaving', file=sys.stderr, flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(processes, "_FIRST_PAUSE_S", 0.001)
    return file


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, log = Heard(), logging.getLogger("proxy.processes")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(level)
    log.removeHandler(handler)


@asynccontextmanager
async def supervised(child: Child) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(child.supervise)
        yield
        group.cancel_scope.cancel()


def a_child(tmp_path: Path) -> Child:
    return Child("kid", "program", [], tmp_path / "kid.sock")


def pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


async def test_a_child_runs_in_a_session_of_its_own_and_says_its_last_words(
    program: Path, heard: Heard, tmp_path: Path
) -> None:
    child = a_child(tmp_path)
    async with supervised(child):
        await heard.hears("running")
        assert os.getsid(pid(child)) == pid(child) != os.getsid(0)
    assert child.last_line == "leaving"
    assert child.process is not None and child.process.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_child_that_dies_or_hangs_is_started_again(
    how: signal.Signals, program: Path, heard: Heard, tmp_path: Path
) -> None:
    child = a_child(tmp_path)
    async with supervised(child):
        await heard.hears("running")
        first = pid(child)
        child.answered()
        os.kill(first, how)
        if how == signal.SIGSTOP:
            child.restart("no answer")
        await heard.hears("running")
        assert pid(child) != first and child.restarts == 1 and not child.serving
        assert child.condition()[1].startswith("ended with status -9")


async def test_a_child_is_not_started_again_once_the_proxy_stops(
    program: Path, heard: Heard, tmp_path: Path
) -> None:
    child = a_child(tmp_path)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(child.supervise)
            await heard.hears("running")
            child.stop()
            os.kill(pid(child), signal.SIGKILL)
    assert child.restarts == 0


async def test_a_child_that_cannot_run_says_why_once(
    program: Path, heard: Heard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program.write_text("import sys\nprint('there is no folder x', file=sys.stderr)\nsys.exit(2)\n")
    child = a_child(tmp_path)
    with anyio.fail_after(30), caplog.at_level(logging.WARNING, "proxy.processes"):
        await child.supervise()
    assert child.gave_up and child.condition() == ("crashed", "there is no folder x")
    [record] = caplog.records
    assert record.getMessage() == "kid cannot run and is not started again: there is no folder x"


async def test_a_process_that_cannot_be_started_is_tried_again(
    program: Path, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = anyio.open_process, [OSError(24, "Too many open files"), ValueError("a surprise")]

    async def open_process(*arguments: object, **options: object) -> object:
        if tries:
            raise tries.pop(0)
        return await real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(processes.anyio, "open_process", open_process)
    child = a_child(tmp_path)
    async with supervised(child):
        await heard.hears("running")
    assert child.restarts == 2


async def test_a_child_that_will_not_leave_is_made_to(
    program: Path, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.05)
    child = a_child(tmp_path)
    async with supervised(child):
        await heard.hears("running")
        os.kill(pid(child), signal.SIGSTOP)
    assert child.process is not None and child.process.returncode == -signal.SIGKILL


async def test_what_a_child_says_is_bounded(program: Path, heard: Heard, tmp_path: Path) -> None:
    program.write_text(
        "import sys, os\n"
        "for i in range(200): print('x' * 100_000, file=sys.stderr)\n"
        "print('running', file=sys.stderr, flush=True)\nos.read(0, 1)\n"
    )
    child = a_child(tmp_path)
    async with supervised(child):
        await heard.hears("running")
    assert sum(map(len, child.said)) < 60_000
