"""`cord replay`: choose again from stored searches by another score, width or spread, and say what it would change."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio

from proxy import config as configuration
from proxy.decoder import selection
from proxy.decoder.ports import Scorer
from proxy.decoder.settings import Settings
from proxy.decoder.strategies import STRATEGIES
from proxy.errors import ConfigError, ScorerError
from proxy.trace.reader import TraceReader
from proxy.trace.record import TraceRecord
from proxy.trace.replay import Comparison, Scores, replay, rescored, stored_scores

_SETTINGS = (
    "beam_width",
    "diversity",
    "max_children_per_parent",
    "similarity_threshold",
    "length_penalty",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cord replay`."""
    add = parser.add_argument
    add(
        "--traces", type=Path, default=Path("traces"), help="a folder or one file (default: traces)"
    )
    add("--score", help="a score or a blend (default: the one each search had)")
    add(
        "--config",
        type=Path,
        help="score anew with this configuration's scorer (default: by the stored scores)",
    )
    add("--beam-width", type=int, metavar="B")
    add("--diversity", type=float, metavar="NATS")
    add("--max-children-per-parent", type=int, metavar="N")
    add("--similarity-threshold", type=float, metavar="SHARE")
    add("--length-penalty", type=float, metavar="ALPHA")
    add("--limit", type=int, metavar="N", help="the first N searches only")
    add("--json", action="store_true", help="one JSON object for each search, then the counts")


def run(arguments: argparse.Namespace) -> int:
    """Carry `cord replay` out; the exit status."""
    if arguments.score is not None:
        try:
            selection.blend(arguments.score)
        except ValueError as exc:
            raise ConfigError("", f"--score: {exc}") from exc
    comparison = anyio.run(_compare, arguments)
    if arguments.json:
        print(json.dumps(asdict(comparison)))
    else:
        print("\n".join(comparison.lines))
    return 0


async def _compare(arguments: argparse.Namespace) -> Comparison:
    comparison = Comparison()
    async with _scorer(arguments.config) as scorer:
        for record in TraceReader(arguments.traces):
            if arguments.limit is not None and comparison.records >= arguments.limit:
                break
            if record.winner is None or record.objective is None:
                comparison.leave_out("without a winner or a score")
                continue
            score = arguments.score or record.objective
            try:
                scores = await _scores(record, score, scorer)
            except ScorerError as exc:
                if exc.kind == "unavailable":
                    raise ConfigError("", str(exc)) from exc
                comparison.leave_out("refused by the scorer")
                continue
            if not scores:
                comparison.leave_out(f"without stored scores of {score}")
                continue
            settings = _settings(record, arguments)
            width = (
                arguments.beam_width or STRATEGIES[settings.strategy].width or settings.beam_width
            )
            found = replay(record, scores, settings, score, width)
            comparison.add(found)
            if arguments.json:
                print(json.dumps({"id": record.id, **asdict(found)}))
    return comparison


async def _scores(record: TraceRecord, score: str, scorer: Scorer | None) -> Scores:
    names = list(selection.blend(score))
    return stored_scores(record, names) if scorer is None else await rescored(record, scorer, names)


def _settings(record: TraceRecord, arguments: argparse.Namespace) -> Settings:
    """The search's own settings, but for those that were given."""
    given: dict[str, Any] = {name: getattr(arguments, name) for name in _SETTINGS}
    return replace(
        record.settings, **{name: value for name, value in given.items() if value is not None}
    )


@asynccontextmanager
async def _scorer(path: Path | None) -> AsyncIterator[Scorer | None]:
    if path is None:
        yield None
        return
    from proxy.app import running_scorer

    print("starting the scorer", file=sys.stderr)
    async with running_scorer(configuration.load(path)) as scorer:
        yield scorer
