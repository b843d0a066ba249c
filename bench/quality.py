"""The strategies and scores side by side on held-out problems of the embedded task: `python -m bench.quality`.

Real searches by real (small) models, many at a time in a process a core. Prints accuracy with 95 % intervals, the mean
predictive perplexity of the reference under the winner, tokens written and scored, and wall seconds; what a beam gains
over curation at equal tokens; and for every score how it orders right and wrong steps, long and short ones, the judge's
own and others'. Writes the same as JSON, Markdown and a picture. A run that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import report
from bench.grid import GRID, VOTES, Method, Table
from bench.mcts import Tree
from bench.panel import META, SEGMENTATION, Panel, running
from bench.report import Run
from miniature import task
from proxy.decoder.bandit import Bandit
from proxy.decoder.events import Event, Proposed, Scored
from proxy.decoder.journal import Journal
from proxy.decoder.search import search
from proxy.decoder.summary import summarise
from proxy.decoder.types import Budget, Message, Problem, Sampling, Settings

ROOT = Path(__file__).parent.parent
BASE = Settings(score="predictive", budget=Budget(steps=16, step_tokens=96, answer_tokens=64))
MCTS_ROLLOUTS = 14
"""As many as cost the tokens of a beam of four."""


def settings(method: Method, number: int) -> Settings:
    return replace(
        BASE,
        strategy=method.strategy,
        score=method.score,
        beam_width=method.beam_width,
        samples=method.samples,
        sampling=Sampling(temperature=method.temperature, seed=number),
        **method.more,
    )


async def decode(
    panel: Panel, table: Table, method: Method, number: int, drawn: task.Problem, bandit: Bandit
) -> list[Run]:
    """One problem; a run for each of the method's rows."""
    scorer = replace(panel.scorer, meta_prover=method.meta_prover, judges=method.judges)
    chosen = [teacher for teacher in panel.teachers if teacher.name in method.teachers]
    references = (str(drawn.answer),) if method.needs_reference else ()
    problem = Problem(f"{method.name}-{number}", (Message("user", drawn.text),), references)
    if method.strategy == "mcts":
        tree = Tree(problem, chosen, scorer, settings(method, number), SEGMENTATION)
        found = await tree.search(MCTS_ROLLOUTS)
        right = float(task.is_correct(drawn, found.answer))
        return [Run(table.name, method.name, number, right, None, found.written, found.scored, 0.0)]
    journal = Journal(time.monotonic)
    result = await search(problem, chosen, scorer, settings(method, number), SEGMENTATION, journal.emit, bandit)
    events = [stamped.event for stamped in journal.events]
    if method.strategy == "curation":
        return curated(table, method, number, drawn, events)
    cost = summarise(events).cost
    log_s = None
    if not drawn.open:
        *before, last = (candidate.text for candidate in result.winner.candidates)
        asked = replace(problem, references=(str(drawn.answer),))
        log_s = (await panel.scorer.score(asked, "".join(before), last, "predictive")).nats
    run = Run(
        table=table.name,
        method=method.name,
        problem=number,
        right=task.share_right(drawn, result.winner.text) if drawn.open else task.is_correct(drawn, result.answer),
        log_s=log_s,
        written=cost.generated_tokens,
        scored=cost.scored_tokens,
        seconds=0.0,
        winners=tuple(candidate.teacher for candidate in result.winner.candidates),
        marks=report.mark(drawn, events, method.judge),
    )
    return [run]


def curated(table: Table, method: Method, number: int, drawn: task.Problem, events: Sequence[Event]) -> list[Run]:
    """Curation with 1 to `samples` traces a teacher; where the table asks for it, one trace alone, and their vote.

    All of them choose among the same traces. An answer is the label that its trace ends in, as every teacher writes it.
    """
    traces = {event.candidate.id: event.candidate for event in events if isinstance(event, Proposed)}
    said = {traces[event.id].text: event.score for event in events if isinstance(event, Scored)}
    # What another has said in the same words was not scored again.
    scores = {id: said[trace.text] for id, trace in traces.items() if trace.text in said}
    labels = {id: task.Label.find_last(trace.text) for id, trace in traces.items()}
    meta = method.needs_reference and method.meta_prover == META
    runs = []

    def add(name: str, chosen: int, among: Sequence[int]) -> None:
        log_s = scores[chosen].nats if meta and chosen in scores else None
        written = sum(traces[id].completion_tokens for id in among)
        scored = sum(scores[id].tokens_forwarded for id in among if id in scores)
        right = float(labels[chosen] == drawn.answer)
        runs.append(Run(table.name, name, number, right, log_s, written, scored, 0.0))

    def first(samples: int) -> list[int]:
        """The first traces of every teacher; ids count samples within teachers."""
        return [id for id in traces if id % method.samples < samples]

    for samples, name in enumerate(method.rows[: method.samples], 1):
        ranked = sorted(first(samples), key=lambda id: (scores[id].nats / scores[id].length, -id))
        add(name, ranked[-1], first(samples))
    if method.alone:
        for id in first(1):
            add(f"{traces[id].teacher} alone", id, [id])
        voters = first(VOTES)
        votes = [labels[id] for id in voters]
        add(f"majority vote of {len(voters)}", max(voters, key=lambda id: (votes.count(labels[id]), -id)), voters)
    return runs


@dataclass(frozen=True, slots=True)
class Share:
    """What one process works off: of every table, its problems that are not done yet, by table and method."""

    checkpoints: Path
    seed: int
    at_once: int
    workers: int
    dtype: str
    numbers: dict[tuple[str, str], list[int]]


def work(share: Share, out: Any) -> None:
    """A process: decode its share, method by method, and put every batch of runs on the queue; None at the end."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    try:
        anyio.run(_work, share, out)
    finally:
        out.put(None)


async def _work(share: Share, out: Any) -> None:
    for table in GRID:
        methods = [(method, share.numbers.get((table.name, method.name), [])) for method in table.methods]
        if not any(numbers for _, numbers in methods):
            continue
        drawn = list(_first(share.seed, table, 1 + max(max(numbers, default=0) for _, numbers in methods)))
        async with running(share.checkpoints, table.panel, share.dtype) as panel:
            for method, numbers in methods:
                panel.forget()
                bandit = Bandit()
                for first in range(0, len(numbers), share.at_once):
                    if (parent := multiprocessing.parent_process()) is not None and not parent.is_alive():
                        return
                    batch = numbers[first : first + share.at_once]
                    out.put(await _batch(share, panel, table, method, batch, drawn, bandit))


async def _batch(
    share: Share,
    panel: Panel,
    table: Table,
    method: Method,
    numbers: Sequence[int],
    drawn: Sequence[task.Problem],
    bandit: Bandit,
) -> list[Run]:
    runs: list[Run] = []
    began = time.monotonic()

    async def one(number: int) -> None:
        runs.extend(await decode(panel, table, method, number, drawn[number], bandit))

    async with anyio.create_task_group() as group:
        for number in numbers:
            group.start_soon(one, number)
    seconds = (time.monotonic() - began) / len(numbers) / share.workers
    return [replace(run, seconds=seconds) for run in runs]


def _first(seed: int, table: Table, count: int) -> Iterator[task.Problem]:
    stream = task.problems(seed, "held-out", table.variety)
    return (next(stream) for _ in range(count))


def measure(options: argparse.Namespace, store: Path) -> list[Run]:
    """Whatever is not stored yet, by a process a core, stored as it comes; everything that was asked for."""
    done = [Run(**json.loads(line)) for line in store.read_text().splitlines()] if store.exists() else []
    known = {(run.table, run.method, run.problem) for run in done}
    chosen = [
        (table.name, method)
        for table in GRID
        for method in table.methods
        if not options.only or any(part in f"{table.name}: {method.name}" for part in options.only)
    ]
    wanted = [(table, method.name, number) for table, method in chosen for number in range(options.problems)]
    left = [entry for entry in wanted if entry not in known]
    shares = []
    for worker in range(options.jobs):
        numbers: dict[tuple[str, str], list[int]] = {}
        for table, method, number in left:
            if number % options.jobs == worker:
                numbers.setdefault((table, method), []).append(number)
        shares.append(Share(options.checkpoints, options.seed, options.at_once, options.jobs, options.dtype, numbers))
    spawned = multiprocessing.get_context("spawn")
    found: Any = spawned.Queue()
    processes = [spawned.Process(target=work, args=(share, found), daemon=True) for share in shares if share.numbers]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, store.open("a") as out:
        bar = progress.add_task("problems", total=len(wanted), completed=len(wanted) - len(left))
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
            advance = len({run.problem for run in runs})
            progress.update(bar, advance=advance, description=f"{runs[0].table}: {runs[0].method}")
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a worker failed; what was measured is kept")
    rows = {(table, row): i for i, (table, row) in enumerate((table, row) for table, m in chosen for row in m.rows)}
    asked = [run for run in done if (run.table, run.method) in rows and run.problem < options.problems]
    return sorted(asked, key=lambda run: (rows[run.table, run.method], run.problem))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--problems", type=int, default=500, help="held-out problems (default: 500)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--at-once", type=int, default=64, help="problems decoded at once in each (default: 64)")
    parser.add_argument("--seed", type=int, default=1, help="which held-out problems (default: 1)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only rows whose 'TABLE: METHOD' holds this")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="default: bfloat16")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "miniature" / "checkpoints")
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="default: bench/out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = measure(options, options.out / f"quality-{options.seed}.jsonl")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    found = report.Report(datetime.now(UTC).date().isoformat(), machine, report.tables(runs))
    Console(width=max(Console().width, 150)).print(*found.rendered())
    (options.out / "quality.json").write_text(json.dumps(found.as_json(), indent=2) + "\n")
    (options.out / "quality.md").write_text(found.markdown())
    found.draw(options.out / "quality.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
