"""`cord check`: start what a configuration names, wait for it, and tell what answers and what does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from proxy import config as configuration
from proxy.app import Parts, build_parts
from proxy.decoder.types import Ask, Message
from proxy.errors import TeacherError


def check(path: Path, *, wait_s: float) -> int:
    """Print a table of components; 0 when all of them work."""
    config = configuration.load(path)
    with tempfile.TemporaryDirectory(prefix="cord-") as sockets:
        rows = anyio.run(_examine, build_parts(config, Path(sockets)), wait_s)
    table = Table("component", "state", "detail")
    for name, ok, detail in rows:
        table.add_row(name, "[green]ok[/]" if ok else "[red]failed[/]", detail)
    Console().print(table)
    return 0 if all(ok for _, ok, _ in rows) else 1


async def _examine(parts: Parts, wait_s: float) -> list[tuple[str, bool, str]]:
    """Name, whether it works, and what there is to say, for the scorer and every teacher."""
    async with parts.running():
        with anyio.move_on_after(wait_s), Console(stderr=True).status("waiting for the models to load"):
            await parts.probes.until_ok()
        rows = [(state.name, state.ok, state.detail) for state in parts.probes.states().values()]
        for ensemble in parts.service.ensembles.values():
            if len(ensemble.panel) == 1 and ensemble.panel[0].name == ensemble.name:
                rows.append(await _writes(parts, ensemble.name))
    return rows


async def _writes(parts: Parts, name: str) -> tuple[str, bool, str]:
    """Have a teacher continue a half-written step, as every search will ask it to."""
    cut = parts.service.segmentation
    teacher = parts.service.ensembles[name].panel[0]
    messages = cut.instruct((Message("user", "Say hello."),))
    ask = Ask(messages, cut.header(1), None, (cut.stop,), max_tokens=8, temperature=0.0, top_p=1.0, seed=0)
    try:
        written = await teacher.write(ask)
    except TeacherError as exc:
        return f"{name} writes", False, str(exc)
    return f"{name} writes", True, f"{written.completion_tokens} tokens on {written.prompt_tokens}"
