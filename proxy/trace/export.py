"""`cord export`: traces in, a file of training rows out, with an account of what was left out and why."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress

from proxy.trace.reader import TraceReader
from proxy.trace.record import TraceRecord
from proxy.trace.rows import Row, preference, sft, tree


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records become rows. `min_value` bounds the winner's value in nats; `source` keeps one source of scores."""

    source: str | None = None
    min_value: float | None = None
    dedupe: bool = False


@dataclass(slots=True)
class Report:
    """What an export did: rows written, and records left out by reason."""

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def export(reader: TraceReader, fold: Callable[[TraceRecord], Iterator[Row]], filters: Filters, out: TextIO) -> Report:
    """Write the rows of all records that are chosen, one JSON object a line."""
    report = Report()
    seen: set[str] = set()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for record in progress.track(reader, description="reading traces", total=None):
            if (reason := _reason_against(record, filters, seen)) is not None:
                report.left_out[reason] += 1
                continue
            seen.add(record.dedupe_hash)
            for row in fold(record):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                report.rows += 1
    if reader.skipped:
        report.left_out["unreadable line"] = len(reader.skipped)
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cord export`."""
    parser.add_argument("--format", choices=["sft", "preference", "tree"], default="sft", help="default: sft")
    parser.add_argument("--traces", type=Path, default=Path("traces"), help="a folder or one file (default: traces)")
    parser.add_argument("--out", type=Path, help="the file to write, whole or not at all (default: standard output)")
    parser.add_argument("--inline", action="store_true", help="sft: reasoning in <think> tags inside the content")
    parser.add_argument("--source", choices=["reference", "consensus", "none"], help="only scores of this source")
    parser.add_argument("--min-value", type=float, metavar="NATS", help="only winners at least this good")
    parser.add_argument("--min-margin", type=float, default=0.0, metavar="NATS", help="preference: least difference")
    parser.add_argument("--dedupe", action="store_true", help="one record for each conversation and reply")


def run(arguments: argparse.Namespace) -> int:
    """Carry `cord export` out; the exit status."""
    folds: dict[str, Callable[[TraceRecord], Iterator[Row]]] = {
        "sft": lambda record: sft(record, inline=arguments.inline),
        "preference": lambda record: preference(record, min_margin=arguments.min_margin),
        "tree": tree,
    }
    filters = Filters(arguments.source, arguments.min_value, arguments.dedupe)
    reader, fold = TraceReader(arguments.traces), folds[arguments.format]
    if arguments.out is None:
        report = export(reader, fold, filters, sys.stdout)
    else:
        unfinished = arguments.out.with_name(f".{arguments.out.name}.{os.getpid()}")
        with unfinished.open("w", encoding="utf-8") as out:
            report = export(reader, fold, filters, out)
        unfinished.replace(arguments.out)
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(report.left_out.items()))
    print(f"{report.rows} rows; left out: {left_out or 'nothing'}", file=sys.stderr)
    return 0


def _reason_against(record: TraceRecord, filters: Filters, seen: set[str]) -> str | None:
    """Why a record is not exported; None if it is. Failed searches keep their tree and their pairs."""
    if filters.source is not None and record.source != filters.source:
        return "other source"
    if filters.min_value is not None and (record.winner is None or record.winner.value < filters.min_value):
        return "value too low"
    if filters.dedupe and record.dedupe_hash in seen:
        return "duplicate"
    return None
