"""`python -m serving` as a process: it answers on its socket and goes when it should."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests import tiny

ROOT = Path(__file__).parents[2]


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "serving", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["the parent's end of standard input closes", "a termination signal"])
async def test_a_server_answers_under_its_name_and_leaves_when(how: str, tmp_path: Path) -> None:
    path = str(tmp_path / "model.sock")
    folder = tiny.checkpoint(tmp_path / "checkpoint")
    with start(str(folder), "--name", "tiny", "--uds", path, "--device", "cpu", "--exit-with-parent") as process:
        try:
            transport = httpx.AsyncHTTPTransport(uds=path, retries=8)
            async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
                assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
            assert process.stdin is not None
            if how == "a termination signal":
                process.send_signal(signal.SIGTERM)
            else:
                process.stdin.close()
            assert process.wait(timeout=20) in (0, -signal.SIGTERM)
        finally:
            process.kill()


def test_a_folder_that_is_not_there_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with start(str(tmp_path / "nothing")) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"there is no folder" in said


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys, contextlib, serving.__main__ as command; sys.argv = ['serving', '--help']\n"
        "with contextlib.suppress(SystemExit): command.main()\n"
        "print([name for name in ('torch', 'transformers', 'uvicorn') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.splitlines()[-1] == "[]"
