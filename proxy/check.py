"""`cord check`: start what a configuration names, wait for it, and tell what works and what does not.

Teachers are examined as at every start: each has to go on with a half-written turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from proxy import config as configuration
from proxy.app import Parts, build_parts


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
            await parts.background.probes.until_settled()
        return [(state.name, state.ok, state.detail) for state in parts.background.probes.states().values()]
