"""`cord traces`: what is stored, in the terminal. Lists traces, shows one as a tree, erases a person's or a reply's."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from proxy.errors import ConfigError
from proxy.trace.codec import from_json
from proxy.trace.erase import erase
from proxy.trace.finder import TraceFinder
from proxy.trace.query import MAX_LIMIT, TraceEntry, TraceQuery
from proxy.trace.record import CandidateRecord, TraceRecord, message_text

_STYLES = {
    "won": "bold green",
    "rank": "",
    "outranked": "",
    "duplicate": "dim",
    "empty": "dim",
    "lag": "yellow",
}
_EXCERPT = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cord traces`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("ls", help="the latest traces")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: 20)")
    listing.add_argument("--model", help="only of this model")
    listing.add_argument("--outcome", choices=["finished", "failed", "cancelled"])
    listing.add_argument("--text", help="only where this stands anywhere in them")
    listing.set_defaults(run=_list)
    showing = commands.add_parser(
        "show", help="one trace as a tree: who proposed what, its score, what became of it"
    )
    showing.add_argument("id", help="the id of the reply or of the request")
    showing.add_argument("--full", action="store_true", help="whole texts")
    showing.add_argument("--json", action="store_true", help="the trace as it is stored")
    showing.set_defaults(run=_show)
    erasing = commands.add_parser(
        "erase", help="remove a user's or a reply's traces, compressed ones too"
    )
    by = erasing.add_mutually_exclusive_group(required=True)
    by.add_argument("--user", help="whoever sent this as `user` or `safety_identifier`")
    by.add_argument("--id", help="the id of the reply or of the request")
    erasing.set_defaults(run=_erase)
    for command in (listing, showing, erasing):
        command.add_argument("--traces", type=Path, default=Path("traces"), help="default: traces")


def tree(record: TraceRecord, *, full: bool = False) -> Tree:
    """A search as a tree of its candidates."""
    asked = next((m for m in reversed(record.messages) if m.get("role") == "user"), {})
    root = Tree(Text(_short(message_text(asked), full), style="bold"), guide_style="dim")
    children: dict[int | None, list[CandidateRecord]] = defaultdict(list)
    for candidate in record.candidates:
        children[candidate.parent].append(candidate)
    open: list[tuple[Tree, int | None]] = [(root, None)]
    while open:
        node, id = open.pop()
        for candidate in children.pop(id, ()):
            open.append((node.add(_line(candidate, record, full)), candidate.id))
    return root


def _line(candidate: CandidateRecord, record: TraceRecord, full: bool) -> Text:
    style = "red" if candidate.fate.startswith("failed") else _STYLES.get(candidate.fate, "")
    text = Text(f"{candidate.teacher} ", style=style)
    text.append(
        f"{_score(candidate, record)} {candidate.fate}",
        style="dim" if style != "bold green" else style,
    )
    said = candidate.error or candidate.text.strip()
    return text.append(f"  {_short(said, full)}", style=style)


def _score(candidate: CandidateRecord, record: TraceRecord) -> str:
    score = candidate.score
    if score is None or not score.length:
        return "-"
    nats = score.nats / score.length**record.settings.length_penalty
    return f"{math.exp(nats):.3f}" if nats < 100 else "inf"


def _short(text: str, full: bool) -> str:
    line = text if full else " ".join(text.split())
    return line if full or len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1]}…"


def _list(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.limit <= MAX_LIMIT:
        raise ConfigError("", f"--limit is from 1 to {MAX_LIMIT}")
    query = TraceQuery(
        limit=arguments.limit, model=arguments.model, outcome=arguments.outcome, text=arguments.text
    )
    finder, entries, skipped = TraceFinder(arguments.traces), list[TraceEntry](), 0
    while len(entries) < arguments.limit:
        page = finder.page(query)
        entries += page.entries
        skipped += page.skipped
        if page.next is None:
            break
        query = replace(query, limit=arguments.limit - len(entries), cursor=page.next)
    table = Table(box=None, pad_edge=False)
    for column in ("id", "time", "model", "outcome", "value", "steps", "seconds", "asked"):
        table.add_column(column, no_wrap=True, overflow="ellipsis" if column == "asked" else "fold")
    for entry in entries:
        value = "" if entry.value is None else f"{entry.value:.3f}"
        seconds, asked = f"{entry.duration_s:.1f}", _short(entry.prompt, False)
        moment = entry.time[:19].replace("T", " ")
        table.add_row(
            entry.id, moment, entry.model, entry.outcome, value, str(entry.steps), seconds, asked
        )
    # A pipe has no width to fit into.
    Console(width=None if sys.stdout.isatty() else 400).print(table)
    if skipped:
        print(f"{skipped} lines could not be read", file=sys.stderr)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    line = TraceFinder(arguments.traces).find(arguments.id)
    if line is None:
        print(f"cord: there is no trace {arguments.id!r} under {arguments.traces}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(json.loads(line), indent=2, ensure_ascii=False))
        return 0
    record = from_json(line)
    settings, cost, console = record.settings, record.cost, Console()
    console.print(
        f"{record.id}  {record.time[:19]}  {record.model}  {record.outcome}  {record.duration_s:.1f} s",
        highlight=False,
    )
    console.print(
        f"{settings.strategy}, score {record.objective or 'none'} ({record.source}), beam {settings.beam_width}; "
        f"{cost.candidates} candidates, {cost.generated_tokens} tokens written, {cost.scored_tokens} scored",
        highlight=False,
    )
    console.print(tree(record, full=arguments.full))
    if record.winner is not None:
        console.print(
            Text(
                f"answer by {record.winner.answerer}: {_short(record.winner.answer.strip(), arguments.full)}"
            )
        )
    if record.error is not None:
        console.print(Text(record.error, style="red"))
    return 0


def _erase(arguments: argparse.Namespace) -> int:
    count = erase(arguments.traces, user=arguments.user, id=arguments.id)
    print(f"{count} traces erased")
    return 0 if count else 1
