"""What going straight through costs, side by side with LiteLLM's proxy: `python -m bench.overhead`.

One stub upstream that answers at once; the same requests to it directly, through this proxy and through LiteLLM's (from
an environment of its own, `make .backends/litellm/.installed`), taken in turns, so that the machine's moods
hit all three alike. Latency is added latency, over the median of going directly; throughput is requests a second of the
proxy's own CPU time, so that neither the load generator nor the number of cores counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

LITELLM = Path(".backends/litellm/bin/litellm")
TOKENIZER = Path("miniature/checkpoints/alder")
MESSAGES = [{"role": "user", "content": "What is the label?"}]
PATIENCE_S = 120.0

STUB = """
import json, sys
import uvicorn

WHOLE = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "stub", "choices": [{"index": 0,
    "message": {"role": "assistant", "content": "four " * 20}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}}).encode()
PIECES = [b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub",
    "choices": [{"index": 0, "delta": {"content": "four "}, "finish_reason": None}]}).encode() + b"\\n\\n"] * 20
PIECES.append(b'data: {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": '
    b'[{"index": 0, "delta": {}, "finish_reason": "stop"}]}\\n\\ndata: [DONE]\\n\\n')

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    streamed = b'"stream":true' in body.replace(b" ", b"")
    kind = b"text/event-stream" if streamed else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for piece in PIECES if streamed else [WHOLE]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="off")
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers at `url`."""

    name: str
    url: str
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of the process and its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Row:
    """One server's figures: milliseconds over going directly, and requests a second of its CPU time."""

    server: str
    mode: str
    added_p50_ms: float
    added_p99_ms: float
    per_core: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=400, help="one after the other, a server (default: 400)"
    )
    parser.add_argument(
        "--load", type=int, default=1000, help="sixteen at a time, a server (default: 1000)"
    )
    parser.add_argument("--json", type=Path, default=Path("bench/out/overhead.json"))
    options = parser.parse_args()
    if not LITELLM.exists():
        print(
            f"there is no {LITELLM}; run `make .backends/litellm/.installed` first", file=sys.stderr
        )
        return 2
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="cord-") as folder:
        stub = stack.enter_context(
            started("direct", [sys.executable, "-c", STUB], "/", Path(folder))
        )
        ours = stack.enter_context(
            started("cord", _cord(stub, Path(folder)), "/health", Path(folder))
        )
        theirs = stack.enter_context(
            started("litellm", _litellm(stub, Path(folder)), "/health/liveliness", Path(folder))
        )
        rows = anyio.run(measure, [stub, ours, theirs], options.requests, options.load)
    table = Table("server", "mode", "added p50, ms", "added p99, ms", "requests a CPU second")
    for row in rows:
        table.add_row(
            row.server,
            row.mode,
            f"{row.added_p50_ms:.2f}",
            f"{row.added_p99_ms:.2f}",
            f"{row.per_core:.0f}",
        )
    Console().print(table)
    for mine, other in zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True):
        p50, p99 = other.added_p50_ms / mine.added_p50_ms, other.added_p99_ms / mine.added_p99_ms
        print(
            f"{mine.mode}: LiteLLM adds {p50:.1f} times as much at the median and {p99:.1f} at p99;",
            end=" ",
        )
        print(f"{mine.per_core / other.per_core:.1f} times its requests a CPU second")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"date": datetime.now(UTC).date().isoformat(), "machine": platform.machine()}
    options.json.write_text(
        json.dumps({**report, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
    )
    return 0


async def measure(servers: Sequence[Server], requests: int, load: int) -> list[Row]:
    """The figures of every server but the first, which is the upstream itself."""
    rows: list[Row] = []
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=16)) as client:
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task(
                "requests", total=2 * (len(servers) * requests + (len(servers) - 1) * load)
            )
            found: dict[tuple[str, bool], list[float]] = {}
            rates: dict[tuple[str, bool], float] = {}
            for streamed in (False, True):
                for server in servers:  # each warms up
                    for _ in range(20):
                        await ask(client, server, streamed)
                turns = [server for server in servers for _ in range(requests)]
                random.Random(0).shuffle(turns)
                for server in turns:
                    began = time.perf_counter()
                    await ask(client, server, streamed)
                    found.setdefault((server.name, streamed), []).append(
                        time.perf_counter() - began
                    )
                    progress.advance(bar)
                for server in servers[1:]:
                    before = server.cpu_s()
                    await many(client, server, streamed, load)
                    rates[server.name, streamed] = load / (server.cpu_s() - before)
                    progress.advance(bar, load)
    for server in servers[1:]:
        for streamed in (False, True):
            direct = statistics.median(found[servers[0].name, streamed])
            taken = sorted(found[server.name, streamed])
            rows.append(
                Row(
                    server.name,
                    "streamed" if streamed else "whole",
                    1000 * (statistics.median(taken) - direct),
                    1000 * (taken[int(0.99 * len(taken))] - direct),
                    rates[server.name, streamed],
                )
            )
    return rows


async def ask(client: httpx.AsyncClient, server: Server, streamed: bool) -> None:
    """One request, read to its end."""
    body = {"model": "stub", "messages": MESSAGES, "stream": streamed}
    reply = await client.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 200 and b"four" in reply.content, reply.text


async def many(client: httpx.AsyncClient, server: Server, streamed: bool, count: int) -> None:
    """Requests, sixteen at a time."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await ask(client, server, streamed)

    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(work)


@contextmanager
def started(name: str, command: Sequence[str], health: str, folder: Path) -> Iterator[Server]:
    """A server on a free port, which its command gets as the last argument."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(port)], stdout=log, stderr=log, start_new_session=True, env=environment
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}{health}", folder / f"{name}.log")
            yield Server(name, f"http://127.0.0.1:{port}", process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"no answer at {url}:\n{log.read_text()[-2000:]}")


def _cord(stub: Server, folder: Path) -> list[str]:
    config = {
        "model_list": [
            {
                "model_name": "stub",
                "litellm_params": {"model": "hosted_vllm/stub", "api_base": f"{stub.url}/v1"},
                "model_info": {"tokenizer": str(TOKENIZER.resolve()), "examine": False},
            }
        ],
        "scorer": {"models": {"meta": "none"}, "meta_prover": "meta", "url": stub.url},
        "ensembles": {"cord": {"teachers": ["stub"]}},
        "traces": {"folder": None},
    }
    (folder / "cord.yaml").write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "proxy", "serve", "--config", str(folder / "cord.yaml"), "--port"]


def _litellm(stub: Server, folder: Path) -> list[str]:
    config = {
        "model_list": [
            {
                "model_name": "stub",
                "litellm_params": {
                    "model": "openai/stub",
                    "api_base": f"{stub.url}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    (folder / "litellm.yaml").write_text(yaml.safe_dump(config))
    return [
        str(LITELLM),
        "--config",
        str(folder / "litellm.yaml"),
        "--host",
        "127.0.0.1",
        "--telemetry",
        "False",
        "--port",
    ]


if __name__ == "__main__":
    sys.exit(main())
