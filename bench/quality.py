"""The strategies and scores side by side on held-out problems of the embedded task: `python -m bench.quality`.

Real searches by real (small) models, many at a time in a process a core. Prints accuracy with 95 % intervals, the mean
predictive perplexity of the reference under the winner, tokens written and scored, and seconds of a core; what a beam
gains over curation at equal tokens; and for every score how it orders right and wrong steps, long and short ones, the
judge's own and others'. Writes the same as JSON, Markdown and a picture. A run that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import queue
import re
import sys
import time
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.figures import Run, mark, retrained, tables
from bench.grid import GRID, VOTES, Method, Table
from bench.mcts import Tree
from bench.panel import META, SEGMENTATION, TEACHERS, Meter, Panel, Shared, running
from bench.report import Report
from miniature import task
from proxy.decoder.bandit import Bandit
from proxy.decoder.events import Event, Proposed, Scored
from proxy.decoder.journal import Journal
from proxy.decoder.search import search
from proxy.decoder.settings import Budget, Sampling, Settings, StrategyName
from proxy.decoder.summary import summarise
from proxy.decoder.types import Message, Problem

ROOT = Path(__file__).parent.parent
BASE = Settings(
    quorum=1.0,  # how fast a step comes must not decide here
    budget=Budget(steps=16, step_tokens=96, answer_tokens=64, deadline_s=1e9),
)
MCTS_ROLLOUTS = 14
"""They write a quarter more tokens than a beam of four."""


def settings(method: Method, number: int) -> Settings:
    return replace(
        BASE,
        strategy=cast(StrategyName, method.strategy),  # the bench's own never reach the search
        score=method.score,
        beam_width=method.beam_width,
        samples=method.samples,
        sampling=Sampling(temperature=method.temperature, seed=number),
        **method.more,
    )


async def decode(
    panel: Panel,
    shared: Shared,
    table: Table,
    method: Method,
    number: int,
    drawn: task.Problem,
    bandit: Bandit,
) -> list[Run]:
    """One problem; a run for each of the method's rows."""
    meter = Meter()
    scorer = panel.scorer(method.strategy, method.meta_prover, method.judges, shared, meter)
    chosen = panel.asked(method.teachers, shared, meter)
    cut = replace(SEGMENTATION, cut=method.cut)
    problem = Problem(str(number), (Message("user", drawn.text),), (str(drawn.answer),))
    if method.strategy == "mcts":
        tree = Tree(problem, chosen, scorer, settings(method, number), cut)
        found = await tree.search(MCTS_ROLLOUTS)
        right, seconds = float(task.is_correct(drawn, found.answer)), meter.writing + meter.scoring
        return [
            Run(table.name, method.name, number, right, None, found.written, found.scored, seconds)
        ]
    journal = Journal(time.monotonic)
    result = await search(
        problem, chosen, scorer, settings(method, number), cut, journal.emit, bandit
    )
    events = [stamped.event for stamped in journal.events]
    if method.strategy == "curation":
        return curated(table, method, number, drawn, events, meter)
    cost = summarise(events).cost
    log_s = None
    if not drawn.open:
        *before, last = (candidate.text for candidate in result.winner.candidates)
        observer = panel.scorer("observe", META, TEACHERS, shared, Meter())
        log_s = (await observer.score(problem, "".join(before), last, "predictive")).nats
    run = Run(
        table=table.name,
        method=method.name,
        problem=number,
        right=task.share_right(drawn, result.winner.text)
        if drawn.open
        else task.is_correct(drawn, result.answer),
        log_s=log_s,
        written=cost.generated_tokens,
        scored=meter.scored,
        seconds=meter.writing + meter.scoring,
        winners=tuple(candidate.teacher for candidate in result.winner.candidates),
        marks=mark(drawn, events, method.judge),
    )
    return [run]


def curated(
    table: Table,
    method: Method,
    number: int,
    drawn: task.Problem,
    events: Sequence[Event],
    meter: Meter,
) -> list[Run]:
    """Curation with 1 to `samples` traces a teacher; where the table asks for it, one trace alone, and their vote.

    All of them choose among the same traces. An answer is the label that its trace ends in, as every teacher writes it.
    """
    traces = {
        event.candidate.id: event.candidate for event in events if isinstance(event, Proposed)
    }
    said = {traces[event.id].text: event.score for event in events if isinstance(event, Scored)}
    # What another has said in the same words was not scored again.
    scores = {id: said[trace.text] for id, trace in traces.items() if trace.text in said}
    labels = {id: task.Label.find_last(trace.text) for id, trace in traces.items()}
    meta = method.needs_reference and method.meta_prover == META
    runs = []

    def add(name: str, chosen: int, among: Sequence[int], seconds: float) -> None:
        log_s = scores[chosen].nats if meta and chosen in scores else None
        written = sum(traces[id].completion_tokens for id in among)
        scored = sum(scores[id].tokens_forwarded for id in among if id in scores)
        right = float(labels[chosen] == drawn.answer)
        share = seconds * len(among) / len(traces)
        runs.append(Run(table.name, name, number, right, log_s, written, scored, share))

    def first(samples: int) -> list[int]:
        """The first traces of every teacher; ids count samples within teachers."""
        return [id for id in traces if id % method.samples < samples]

    for samples, name in enumerate(method.rows[: method.samples], 1):
        among = [id for id in first(samples) if id in scores]  # a trace may have no text
        best = max(among, key=lambda id: (scores[id].nats / scores[id].length, -id))
        add(name, best, first(samples), meter.writing + meter.scoring)
    if method.alone:
        for id in first(1):
            add(f"{traces[id].teacher} alone", id, [id], meter.writing)
        voters = first(VOTES)
        votes = [labels[id] for id in voters]
        elected = max(voters, key=lambda id: (votes.count(labels[id]), -id))
        add(f"majority vote of {len(voters)}", elected, voters, meter.writing)
    return runs


@dataclass(frozen=True, slots=True)
class Share:
    """What one process works off: of every table, its problems that are not done yet, by table and method.

    cores: where it may run. Its threads take turns, and on one core they do so without waking another.
    """

    cores: frozenset[int]
    checkpoints: Path
    seed: int
    at_once: int
    dtype: str
    numbers: dict[tuple[str, str], list[int]]


def work(share: Share, out: Any) -> None:
    """A process: decode its share, and put every search's runs on the queue; None at the end."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    if sys.platform == "linux":
        os.sched_setaffinity(0, share.cores)
    torch.set_num_threads(1)
    gc.set_threshold(100_000, 50, 1_000)  # what is alive is many models' modules, and does not die
    try:
        anyio.run(_work, share, out)
    finally:
        out.put(None)


async def _work(share: Share, out: Any) -> None:
    for table in GRID:
        left = {
            method: {*share.numbers.get((table.name, method.name), ())} for method in table.methods
        }
        if any(left.values()):
            async with running(share.checkpoints, table.panel, share.dtype) as panel:
                await _compare(share, panel, table, left, out)


async def _compare(
    share: Share, panel: Panel, table: Table, left: dict[Method, set[int]], out: Any
) -> None:
    """Every problem by every method that is left for it, some problems at once."""
    drawn = list(
        _first(share.seed, table, 1 + max(max(numbers, default=0) for numbers in left.values()))
    )
    bandits = {method: Bandit() for method in table.methods}
    places = anyio.CapacityLimiter(share.at_once)

    async def one(shared: Shared, method: Method, number: int) -> None:
        out.put(await decode(panel, shared, table, method, number, drawn[number], bandits[method]))

    async def compare(number: int) -> None:
        shared = Shared()
        async with places, anyio.create_task_group() as searches:
            if (parent := multiprocessing.parent_process()) is not None and not parent.is_alive():
                return
            for method, numbers in left.items():
                if number in numbers:
                    searches.start_soon(one, shared, method, number)

    async with anyio.create_task_group() as group:
        for number in range(len(drawn)):
            if any(number in numbers for numbers in left.values()):
                group.start_soon(compare, number)


def _first(seed: int, table: Table, count: int) -> Iterator[task.Problem]:
    stream = task.problems(seed, "held-out", table.variety)
    return (next(stream) for _ in range(count))


def stored(store: Path) -> list[Run]:
    """What was measured before, but for a last line that was being written when it stopped."""
    *whole, _ = store.read_text().split("\n") if store.exists() else [""]
    return [Run(**json.loads(line)) for line in whole]


def measure(options: argparse.Namespace, store: Path) -> list[Run]:
    """Whatever is not stored yet, by a process a core, stored as it comes; everything that was asked for."""
    done = stored(store)
    store.touch()
    os.truncate(store, store.read_bytes().rfind(b"\n") + 1)
    known = {(run.table, run.method, run.problem) for run in done}
    chosen = [
        (table.name, method)
        for table in GRID
        for method in table.methods
        if not options.only
        or any(part.search(f"{table.name}: {method.name}") for part in options.only)
    ]
    if not chosen:
        raise SystemExit("--only finds no row")
    wanted = [
        (table, method.name, number)
        for table, method in chosen
        for number in range(options.problems)
    ]
    left = [entry for entry in wanted if entry not in known]
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    shares = []
    for worker in range(options.jobs):
        numbers: dict[tuple[str, str], list[int]] = {}
        for table, method, number in left:
            if number % options.jobs == worker:
                numbers.setdefault((table, method), []).append(number)
        own = frozenset(cores[worker : worker + 1] if options.jobs <= len(cores) else cores)
        shares.append(
            Share(own, options.checkpoints, options.seed, options.at_once, options.dtype, numbers)
        )
    # A process has a dozen models, each with kernels of its own for every shape: more than are kept by default.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")
    # PyTorch's aligned blocks fragment glibc's heap in minutes, and a fifth of the time then goes to it.
    if "LD_PRELOAD" not in os.environ and (
        allocator := find_library("jemalloc") or find_library("tcmalloc_minimal")
    ):
        os.environ["LD_PRELOAD"] = allocator
    spawned = multiprocessing.get_context("spawn")
    found: Any = spawned.Queue()
    processes = [
        spawned.Process(target=work, args=(share, found), daemon=True)
        for share in shares
        if share.numbers
    ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress, store.open("a") as out:
        bar = progress.add_task("searches", total=len(wanted), completed=len(wanted) - len(left))
        for process in processes:
            process.start()
        running_on = len(processes)
        while running_on:
            try:
                runs = found.get(timeout=5)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    raise SystemExit("a worker has died; what was measured is kept") from None
                continue
            if runs is None:
                running_on -= 1
                continue
            for run in runs:
                out.write(json.dumps(asdict(run)) + "\n")
            out.flush()
            done += runs
            progress.update(bar, advance=1, description=runs[0].table)
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker failed; what was measured is kept")
    rows = {
        (table, row): i
        for i, (table, row) in enumerate((table, row) for table, m in chosen for row in m.rows)
    }
    asked = [
        run for run in done if (run.table, run.method) in rows and run.problem < options.problems
    ]
    return sorted(asked, key=lambda run: (rows[run.table, run.method], run.problem))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {exc}") from exc


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument(
        "--problems", type=int, default=500, help="held-out problems (default: 500)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)"
    )
    parser.add_argument(
        "--at-once", type=int, default=12, help="problems decoded at once in each (default: 12)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which held-out problems (default: 1)")
    parser.add_argument(
        "--only",
        action="append",
        type=_pattern,
        metavar="REGEX",
        help="only rows in whose 'TABLE: METHOD' it is found",
    )
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="default: bfloat16"
    )
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "miniature" / "checkpoints")
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="default: bench/out")
    parser.add_argument(
        "--beside",
        action="append",
        type=Path,
        default=[],
        metavar="OUT",
        help="what this wrote for models trained from another seed: tell what holds in all trainings",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    store = options.out / f"quality-{options.seed}.jsonl"
    for out in options.beside:
        if not (out / store.name).exists():
            parser.error(f"--beside: there is no {out / store.name}")
    runs = measure(options, store)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    machine += f", {Path(os.environ['LD_PRELOAD']).name}" if "LD_PRELOAD" in os.environ else ""
    others = [stored(out / store.name) for out in options.beside]
    again = retrained([runs, *others]) if others else []
    found = Report(datetime.now(UTC).date().isoformat(), machine, tables(runs), again)
    Console(width=max(Console().width, 150)).print(*found.rendered())
    (options.out / "quality.json").write_text(json.dumps(found.as_json(), indent=2) + "\n")
    (options.out / "quality.md").write_text(found.markdown())
    found.draw(options.out / "quality.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
