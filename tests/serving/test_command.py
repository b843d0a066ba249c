"""`python -m serving` as a process: it answers on its socket and goes when it should."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests import tiny

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serving", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


@asynccontextmanager
async def served(
    folder: Path, *arguments: str
) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx.AsyncClient]]:
    """A process that answers, and a client of it."""
    path = str(folder / "model.sock")
    checkpoint = str(tiny.checkpoint(folder / "checkpoint"))
    with start(
        checkpoint, "--name", "tiny", "--uds", path, "--device", "cpu", *arguments
    ) as process:
        try:
            transport = httpx.AsyncHTTPTransport(uds=path, retries=8)
            async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
                assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
                yield process, client
        finally:
            process.kill()


@pytest.mark.anyio
async def test_a_server_leaves_at_a_termination_signal(tmp_path: Path) -> None:
    async with served(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) in (0, -signal.SIGTERM)


@pytest.mark.anyio
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_a_child_outlives_signals_and_leaves_with_its_parent(
    sent: signal.Signals, tmp_path: Path
) -> None:
    """A signal to the whole process group comes here too, while the proxy still has searches
    running."""
    async with served(tmp_path, "--exit-with-parent") as (process, client):
        process.send_signal(sent)
        assert (await client.get("/v1/models")).status_code == 200
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None and process.stderr.read() == b""


def test_a_folder_that_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with start(str(tmp_path / "nothing")) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"there is no folder" in said


def test_a_checkpoint_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with start(str(tmp_path)) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    [line] = said.decode().splitlines()
    assert line.startswith(f"serving: cannot load {tmp_path}: Unrecognized model")


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys, contextlib, serving.__main__ as command; sys.argv = ['serving', '--help']\n"
        "with contextlib.suppress(SystemExit): command.main()\n"
        "print([name for name in ('torch', 'transformers', 'uvicorn') if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.splitlines()[-1] == "[]"
