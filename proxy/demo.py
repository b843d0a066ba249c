"""`cord demo`: serve, ask one problem through the official `openai` client, and show the search as it streams."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from proxy import config as configuration
from proxy.errors import ConfigError
from proxy.serve import Server, server
from proxy.starter import PROBLEM, embedded_config

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_START_S = 180.0
_MISSING_S = 30.0
"""How long a proxy that could begin waits for those that do not answer yet."""


def demo(path: Path | None, problem: Path | None, *, once: bool, port: int | None) -> int:
    """Run the demonstration; serves on until interrupted unless `once`."""
    config = _configuration(path)
    request = _read(problem or PROBLEM)
    console = Console()
    serving = server(config, port=port)
    thread = threading.Thread(target=serving.run, name="server")
    thread.start()
    try:
        base_url = _wait_until_ready(serving, thread, console)
        _ask(console, base_url, config, request)
        console.print(f"\nTraces: [bold]{config.traces.folder}[/]   Metrics: {base_url}/metrics")
        if not once:
            console.print(
                f"Serving on [bold]{base_url}/v1[/]: point any OpenAI client here. Ctrl-C to stop."
            )
            thread.join()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        _end(serving, thread)
    return serving.status


def _configuration(path: Path | None) -> configuration.Config:
    """The file's, or config.yaml's, or that of the embedded models."""
    if path is not None or Path("config.yaml").exists():
        return configuration.load(path or Path("config.yaml"))
    return configuration.parse(yaml.safe_load(embedded_config()), Path.cwd())


def _end(serving: Server, thread: threading.Thread) -> None:
    """Let what runs finish; a second Ctrl-C does not wait."""
    serving.should_exit = True
    serving.background.stop()
    try:
        thread.join()
    except KeyboardInterrupt:
        serving.abandon()


def _read(problem: Path) -> dict[str, Any]:
    try:
        request: dict[str, Any] = json.loads(problem.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError("", f"cannot read the problem {problem}: {exc}") from exc
    return request


def _wait_until_ready(serving: Server, thread: threading.Thread, console: Console) -> str:
    """The server's URL, once its teachers and scorer have loaded."""
    began = time.monotonic()
    ready_since: float | None = None
    with console.status("starting the teachers, the scorer and the proxy"):
        while (now := time.monotonic()) < began + _START_S and thread.is_alive():
            if serving.started:
                host, port = serving.servers[0].sockets[0].getsockname()[:2]
                base_url = f"http://{host}:{port}"
                reply = httpx.get(f"{base_url}/ready")
                missing = [
                    state["name"]
                    for state in reply.json()["components"].values()
                    if not state["ok"]
                ]
                ready_since = None if reply.status_code != 200 else ready_since or now
                if not missing or (ready_since is not None and now > ready_since + _MISSING_S):
                    for name in missing:
                        console.print(
                            f"[red]{name} does not answer; the search goes on without it[/]"
                        )
                    return base_url
            time.sleep(0.1)
    raise ConfigError("", "the proxy did not become ready; run `cord check` to see why")


def _ask(
    console: Console, base_url: str, config: configuration.Config, request: dict[str, Any]
) -> None:
    """Stream the problem and print each step with the teacher that won it."""
    import openai

    names = [teacher.model_name for teacher in config.model_list]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    console.print(
        Panel(
            escape(request["messages"][-1]["content"]),
            title=f"asked of [bold]{request['model']}[/]",
        )
    )
    client = openai.OpenAI(
        base_url=f"{base_url}/v1", api_key=config.general_settings.master_key or "none"
    )
    began = time.monotonic()
    extra = {"cord": {"reference": request["reference"]}} if request.get("reference") else {}
    stream = client.chat.completions.create(
        model=request["model"],
        messages=request["messages"],
        stream=True,
        seed=request.get("seed", 0),
        extra_body=extra,
    )
    answer = ""
    for chunk in stream:
        about = (chunk.model_extra or {}).get("cord") or {}
        for choice in chunk.choices:
            reasoning = (choice.delta.model_extra or {}).get("reasoning_content")
            if reasoning and "teacher" in about:
                teacher = about["teacher"]
                colour = colours.get(teacher, "white")
                value = f"{about['value']:.3f}" if about.get("value") is not None else "–"
                console.print(
                    f"[{colour}]{teacher:>8}[/] [dim]{value} {time.monotonic() - began:5.1f}s[/]",
                    end="  ",
                )
                console.print(
                    escape(reasoning.strip().replace("\n", "\n" + " " * 24)), highlight=False
                )
            answer += choice.delta.content or ""
    console.print(Panel(escape(answer.strip()), title="answer", border_style="green"))
    if request.get("reference"):
        console.print(f"The reference answer is {escape(request['reference'])}.")
