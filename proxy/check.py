"""`cord check`: start what a configuration names, wait for it, and tell what works, what does not, and what to do.

Teachers are examined as at every start: each has to go on with a half-written turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy import config as configuration
from proxy.api.health import ComponentState, Status
from proxy.app import Parts, build_parts

_ADVICE: Mapping[Status, str] = {
    "loading": "wait longer with --wait, or look at what it says below",
    "silent": "it accepts connections but does not answer: restart it",
    "crashed": "look at what it says below",
    "unreachable": "start it, or correct its address",
    "examining": "its model is slow or hangs: wait longer with --wait, or set model_info.examine: false",
}
"""What to do where the detail does not say it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One component's state, and what its process said last where it is one of ours and not well."""

    state: ComponentState
    said: Sequence[str] = ()


def check(path: Path, *, wait_s: float) -> int:
    """Print a table of components; 0 when all of them work."""
    config = configuration.load(path)
    with tempfile.TemporaryDirectory(prefix="cord-") as sockets:
        findings = anyio.run(_examine, build_parts(config, Path(sockets)), wait_s)
    show(findings, Console())
    return 0 if all(finding.state.ok for finding in findings) else 1


async def _examine(parts: Parts, wait_s: float) -> list[Finding]:
    """The scorer and every teacher, once they have settled or the time is up."""
    probes, children = (
        parts.background.probes,
        {child.name: child for child in parts.background.children},
    )
    async with parts.running():
        with (
            anyio.move_on_after(wait_s),
            Console(stderr=True).status("waiting for the models to load"),
        ):
            await probes.until_settled()
        return [
            Finding(state, children[name].said if name in children and not state.ok else ())
            for name, state in probes.states().items()
        ]


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print the table, and below it the last words of processes that are not well."""
    table = Table("component", "state", "detail")
    for finding in findings:
        state = finding.state
        colour = (
            "green" if state.ok else "yellow" if state.status in ("loading", "examining") else "red"
        )
        detail = ". ".join(filter(None, (state.detail, _ADVICE.get(state.status))))
        table.add_row(escape(state.name), f"[{colour}]{state.status}[/]", escape(detail))
    console.print(table)
    for finding in findings:
        if finding.said:
            console.print(f"\n[bold]{escape(finding.state.name)}[/] said last:")
            console.print(escape("\n".join(finding.said)), highlight=False)
