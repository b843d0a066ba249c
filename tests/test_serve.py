"""`cord serve` as a process with children of its own: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(120)

# A stand-in for both kinds of children. It holds completions back until the file `go` is there, so that a search
# is running for as long as a test wants, and leaves its process id with every start.
CHILD = """
import asyncio, json, os, pathlib, sys
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from runtime.processes import Parent
from runtime.server import run

folder, uds = pathlib.Path(os.environ["CHILDREN"]), sys.argv[sys.argv.index("--uds") + 1]

async def models(request):
    return JSONResponse({"data": []})

async def complete(request):
    (folder / "asked").touch()
    while not (folder / "go").exists():
        await asyncio.sleep(0.01)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    reply = {"choices": [{"text": "so", "finish_reason": "stop", "stop_reason": None}], "usage": usage}
    if (await request.json()).get("stream"):
        return Response(f"data: {json.dumps(reply)}\\n\\ndata: [DONE]\\n\\n", media_type="text/event-stream")
    return JSONResponse(reply)

routes = [Route("/v1/models", models), Route("/health", models), Route("/v1/completions", complete, methods=["POST"])]
parent = Parent()
parent.watch()
with pathlib.Path(folder, pathlib.Path(uds).stem + ".pids").open("a") as pids:
    print(os.getpid(), file=pids)
sys.exit(run(Starlette(routes=routes), host="", port=0, uds=uds, parent=parent))
"""

# `cord` with that child in place of the real ones.
DRIVER = """
import sys
import proxy.app
from proxy.__main__ import main
real = proxy.app.Child
proxy.app.Child = lambda name, module, arguments, socket: real(name, "stand_in", arguments, socket)
if "--break" in sys.argv:
    sys.argv.remove("--break")
    async def broken(self): raise RuntimeError("a bug")
    proxy.probe.Probes.run = broken
sys.exit(main())
"""


@dataclass
class Serving:
    """A `cord serve` process, its log line by line, and what its children left."""

    process: subprocess.Popen[str]
    folder: Path
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(filter(None, (re.search(pattern, line) for line in self.lines)))
            return bool(found)

        with self.changed:
            assert self.changed.wait_for(seen, timeout=60), "\n".join(self.lines)
        return found[0]

    @property
    def url(self) -> str:
        return self.says(r"listening on (http://\S+)/v1").group(1)

    def pids(self, name: str) -> list[int]:
        """The processes that this child has been, one for every start."""
        return [int(pid) for pid in (self.folder / f"{name}.pids").read_text().split()]

    def ask(self) -> Future[httpx.Response]:
        """A request that is running when this returns."""
        body = {"model": "ada", "messages": [{"role": "user", "content": "Hi"}]}
        asked = ThreadPoolExecutor(1).submit(
            httpx.post, f"{self.url}/v1/chat/completions", json=body, timeout=60
        )
        until((self.folder / "asked").exists)
        return asked


def until(holds: Callable[[], bool]) -> None:
    """Wait for another process to get somewhere."""
    while not holds():
        threading.Event().wait(0.02)


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return True
    return False


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    (tmp_path / "stand_in.py").write_text(CHILD)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "ada").mkdir()
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    (tmp_path / "ada" / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    config = {
        "model_list": [
            {
                "model_name": "ada",
                "litellm_params": {"model": "local/ada"},
                "model_info": {"examine": False},
            }
        ],
        "scorer": {"models": {"meta": "ada", "ada": "ada"}, "meta_prover": "meta"},
        "ensembles": {"cord": {"teachers": ["ada"]}},
        "general_settings": {"shutdown_s": 60},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "CHILDREN": str(folder),
    }
    command = [sys.executable, str(folder / "driver.py"), "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        found = Serving(process, folder)
        reader = threading.Thread(target=found.read)
        reader.start()
        try:
            yield found
        finally:
            process.kill()
            reader.join()


def test_a_server_says_what_it_starts_when_it_is_ready_and_what_it_was_asked(
    configured: Path,
) -> None:
    with serving(configured) as found:
        found.says("scorer starts, on auto: ada .*meta")
        found.says("ada starts: local/")
        found.says(r"ready: http://127\.0\.0\.1:\d+/v1 \(1 of 1 teachers answer\)")
        command = found.says("try: (curl .*)").group(1)
        assert (
            json.loads(command.split(" -d ")[1].strip("'"))["model"] == "cord"
            and found.url in command
        )
        asked = found.ask()
        (configured / "go").touch()
        assert asked.result(60).status_code == 200
        found.says(r"chatcmpl-\S+ ada finished: \d+ steps, \d+ tokens, \d+\.\d\d s")
        httpx.post(f"{found.url}/v1/chat/completions", json={"model": "nobody", "messages": []})
        found.says("refused: 4")


def test_log_lines_are_json_on_request(configured: Path) -> None:
    with serving(configured, "--log-format", "json", "--log-level", "info") as found:
        found.says("listening")
        assert all(json.loads(line)["level"] == "info" for line in found.lines)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_lets_running_searches_finish(
    sent: signal.Signals, configured: Path
) -> None:
    """A service manager signals the whole control group; a terminal the proxy's process group."""
    with serving(configured) as found:
        found.says("ready: ")
        url, asked = found.url, found.ask()
        for pid in (*found.pids("ada"), *found.pids("scorer"), found.process.pid):
            os.kill(pid, sent)
        until(lambda: refuses(url))
        (configured / "go").touch()
        assert asked.result(60).status_code == 200
        assert found.process.wait(30) == (0 if sent == signal.SIGTERM else 130)
    assert len(found.pids("ada")) == len(found.pids("scorer")) == 1
    assert not [
        line
        for line in found.lines
        if "Traceback" in line or "Fatal" in line or "started again" in line
    ]


def test_a_second_ctrl_c_ends_everything_at_once(configured: Path) -> None:
    with serving(configured) as found:
        found.says("ready: ")
        url, asked = found.url, found.ask()
        os.killpg(found.process.pid, signal.SIGINT)
        until(lambda: refuses(url))
        os.killpg(found.process.pid, signal.SIGINT)
        assert found.process.wait(10) == 130
        assert isinstance(asked.exception(10), httpx.TransportError)
        until(lambda: all(gone(pid) for pid in (*found.pids("ada"), *found.pids("scorer"))))


def test_children_leave_with_a_killed_proxy(configured: Path) -> None:
    with serving(configured) as found:
        found.says("ready: ")
        found.process.kill()
        until(lambda: all(gone(pid) for pid in (*found.pids("ada"), *found.pids("scorer"))))


def test_a_proxy_whose_background_work_fails_exits_with_a_failure(configured: Path) -> None:
    with serving(configured, "--break") as found:
        assert found.process.wait(60) == 1
    assert any("the background task probes failed" in line for line in found.lines)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("--port", "99999"), 2, "99999 is no port"),
        (("--host", "0.0.0.0"), 2, "without asking for a key"),
        (("--host", "192.0.2.1"), 2, "without asking for a key"),
    ],
)
def test_what_cannot_be_served_is_refused(
    arguments: tuple[str, ...], status: int, reason: str, configured: Path
) -> None:
    with serving(configured, *arguments) as found:
        assert found.process.wait(60) == status
    assert reason in "\n".join(found.lines)
