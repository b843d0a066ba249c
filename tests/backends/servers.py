"""The servers that people run, started here with an embedded checkpoint and stopped by their process group.

Each lives in a virtual environment of its own under `.backends/` (`make backends` makes them): their dependencies
contradict each other and ours.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "miniature" / "checkpoints" / "alder"
CONTEXT = 640
_PATIENCE_S = 420.0


@dataclass(frozen=True, slots=True)
class Kind:
    """How one server is started, and what it cannot do.

    `command` gets the path of its environment, the checkpoint and the port; `provider` is the prefix in config.yaml.
    """

    provider: str
    command: Callable[[Path, Path, int], Sequence[str]]
    model: str = "alder"
    health: str = "health"
    environment: Mapping[str, str] = field(default_factory=dict)
    seeds: bool = True
    overflows: bool = True
    knows_its_model: bool = True
    usage: bool = True


KINDS: dict[str, Kind] = {
    "embedded": Kind(
        "local",
        lambda _, folder, port: [
            sys.executable, "-m", "serving", str(folder), "--name", "alder", "--port", str(port), "--max-model-len",
            str(CONTEXT),
        ],
    ),
    "vllm": Kind(
        "hosted_vllm",
        lambda venv, folder, port: [
            str(venv / "bin/vllm"), "serve", str(folder), "--served-model-name", "alder", "--host", "127.0.0.1",
            "--port", str(port), "--dtype", "float32", "--max-model-len", str(CONTEXT), "--max-num-seqs", "8",
            "--enforce-eager", "--generation-config", "vllm",
            # A model this small fills a format's free space with line ends for ever.
            "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
        ],
        environment={
            "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "auto",
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        },
    ),
    # Counts no tokens while it streams; a wrong name is served anyway.
    "llama_cpp": Kind(
        "llama_cpp",
        lambda venv, folder, port: [
            "sh", "-c",
            '"$0/bin/python" "$1" "$2" "$0/alder.gguf" && exec "$0/bin/python" -m llama_cpp.server '
            '--model "$0/alder.gguf" --port "$3" --n_ctx "$4" --interrupt_requests false',
            str(venv), str(ROOT / "tests/backends/gguf_file.py"), str(folder), str(port), str(CONTEXT),
        ],
        health="v1/models",
        knows_its_model=False,
        usage=False,
    ),
    # Ignores seeds, serves greedily at any temperature, never refuses a long prompt, and knows no names.
    "transformers": Kind(
        "openai",
        lambda venv, folder, port: [
            str(venv / "bin/transformers"), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
            "--device", "cpu", "--dtype", "float32",
        ],
        model=str(CHECKPOINT),
        environment={"HF_HUB_OFFLINE": "1"},
        seeds=False,
        overflows=False,
        knows_its_model=False,
        usage=False,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Backend:
    """A running server."""

    name: str
    kind: Kind
    url: str

    @property
    def provider(self) -> str:
        return self.kind.provider


@contextmanager
def running(name: str, log: Path) -> Iterator[Backend]:
    """The server, once it answers; its output goes to `log`.

    Raises:
        RuntimeError: it died, or did not answer in time.
    """
    kind = KINDS[name]
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = kind.command(ROOT / ".backends" / name, CHECKPOINT, port)
    with log.open("wb") as output:
        process = _start(command, {**os.environ, **kind.environment}, output)
        try:
            _wait(process, f"{url}/{kind.health}", log)
            yield Backend(name, kind, url)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _start(
    command: Sequence[str], environment: Mapping[str, str], output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=output,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}"
            )
        try:
            if httpx.get(url, timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)  # a server's start is the one thing that can only be waited for
    raise RuntimeError(
        f"the server did not answer within {_PATIENCE_S:g} s:\n{log.read_text()[-3000:]}"
    )


def _free_port() -> int:
    """A port for servers that cannot tell which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
