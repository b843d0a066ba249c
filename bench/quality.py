"""The strategies side by side on held-out problems of the embedded task: `python -m bench.quality`.

Runs the configured proxy's own service, child processes and all; prints accuracy with 95 % Wilson intervals, the
mean predictive perplexity of the reference under the winner, tokens written and scored, and wall seconds, and
writes the same as JSON. A run that was stopped goes on where it stood.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from miniature import task
from proxy import config as configuration
from proxy.app import Parts, build_parts
from proxy.decoder.summary import summarise
from proxy.decoder.types import Message, Problem, Settings
from proxy.errors import CordError
from proxy.service import Ensemble, Job


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table: settings, and the teachers and the meta-prover where not the configured ones."""

    name: str
    strategy: str
    score: str = "predictive"
    beam_width: int = 4
    samples: int = 1
    teachers: tuple[str, ...] = ()
    meta_prover: str = ""

    def settings(self, base: Settings, seed: int) -> Settings:
        sampling = replace(base.sampling, seed=seed)
        return replace(
            base,
            strategy=self.strategy,
            score=self.score,
            beam_width=self.beam_width,
            samples=self.samples,
            sampling=sampling,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One problem under one method. `log_s` is the mean log-probability of the reference after the winner."""

    method: str
    problem: int
    correct: bool
    log_s: float | None
    written: int
    scored: int
    seconds: float


def methods(teachers: Sequence[str]) -> list[Method]:
    """The table of the paper in miniature, with and without a reference."""
    return [
        *(Method(f"{teacher} alone", "single", teachers=(teacher,)) for teacher in teachers),
        Method("random step", "random"),
        Method("longest step", "longest"),
        Method("curation, reference", "curation"),
        Method("curation x2, reference", "curation", samples=2),
        Method("curation x4, reference", "curation", samples=4),
        Method("greedy B=1, reference", "greedy"),
        Method("beam B=2, reference", "beam", beam_width=2),
        Method("beam B=4, reference", "beam"),
        *(
            Method(f"homogeneous {teacher}, beam B=4, reference", "beam", samples=3, teachers=(teacher,))
            for teacher in teachers[:1]
        ),
        # The paper's meta-prover is one of its teachers; one that makes mistakes of its own shows what width is worth.
        *(
            Method(f"{name}, reference, judged by {teacher}", strategy, beam_width=width, meta_prover=teacher)
            for teacher in teachers[:1]
            for name, strategy, width in [
                ("curation", "curation", 4),
                ("greedy B=1", "greedy", 1),
                ("beam B=2", "beam", 2),
                ("beam B=4", "beam", 4),
            ]
        ),
        Method("curation, cross-perplexity", "curation", "cross"),
        Method("greedy B=1, cross-perplexity", "greedy", "cross"),
        Method("beam B=4, cross-perplexity", "beam", "cross"),
        Method("greedy B=1, step perplexity", "greedy", "step"),
        Method("beam B=4, step perplexity", "beam", "step"),
        Method("greedy B=1, chunks", "greedy", "chunks"),
        Method("greedy B=1, worst chunk", "greedy", "worst-chunk"),
        Method("greedy B=1, contrastive", "greedy", "contrastive"),
        Method("beam B=4, contrastive", "beam", "contrastive"),
        Method("greedy B=1, confidence", "greedy", "confidence"),
        Method("beam B=4, confidence", "beam", "confidence"),
    ]


async def measure(parts: Parts, ensemble: Ensemble, method: Method, number: int, problem: task.Problem) -> Run:
    """Decode one problem."""
    panel = tuple(teacher for teacher in ensemble.panel if not method.teachers or teacher.name in method.teachers)
    answer = str(problem.answer)
    reads_answer = method.score.startswith("predictive") and method.strategy not in ("single", "random", "longest")
    asked = Problem(f"bench-{number}", (Message("user", problem.text),), references=(answer,) if reads_answer else ())
    settings = method.settings(ensemble.settings, seed=number)
    service = parts.service
    if method.meta_prover:
        service = replace(service, scorer=replace(service.scorer, meta_prover=method.meta_prover))
    job = Job(asked, replace(ensemble, panel=panel), settings, time.time())
    began = time.monotonic()
    try:
        result, journal = await service.decode(job)
    except CordError:
        return Run(method.name, number, False, None, 0, 0, time.monotonic() - began)
    seconds = time.monotonic() - began
    cost = summarise(stamped.event for stamped in journal).cost
    *prefix, last = (candidate.text for candidate in result.winner.candidates)
    judged = replace(asked, references=(answer,))
    score = await parts.service.scorer.score(judged, "".join(prefix), last, "predictive")
    correct = task.is_correct(problem, result.answer)
    return Run(method.name, number, correct, score.nats, cost.generated_tokens, cost.scored_tokens, seconds)


def stored(store: Path) -> list[Run]:
    """What an earlier run has measured."""
    return [Run(**json.loads(line)) for line in store.read_text().splitlines()] if store.exists() else []


async def measure_all(
    parts: Parts, ensemble: Ensemble, options: argparse.Namespace, done: list[Run], out: TextIO
) -> list[Run]:
    """Every method on every problem that is not done yet, a few at a time, written to `out` as they come."""
    known = {(run.method, run.problem) for run in done}
    drawn = task.problems(options.seed, "held-out")
    problems = [next(drawn) for _ in range(options.problems)]
    chosen = [
        method
        for method in methods([teacher.name for teacher in ensemble.panel])
        if not options.only or any(part in method.name for part in options.only)
    ]
    left = [
        (method, number) for method in chosen for number in range(len(problems)) if (method.name, number) not in known
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("problems", total=len(left))
        queue = iter(left)

        async def work() -> None:
            for method, number in queue:
                progress.update(bar, description=method.name)
                run = await measure(parts, ensemble, method, number, problems[number])
                out.write(json.dumps(asdict(run)) + "\n")
                out.flush()
                done.append(run)
                progress.advance(bar)

        async with anyio.create_task_group() as group:
            for _ in range(options.jobs):
                group.start_soon(work)
    names = [method.name for method in chosen]
    return sorted((run for run in done if run.method in names), key=lambda run: (names.index(run.method), run.problem))


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share, in per cent."""
    z, share = 1.959964, correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return 100 * (centre - spread), 100 * (centre + spread)


def summary(runs: Sequence[Run]) -> list[dict[str, object]]:
    """One row a method, in the order measured."""
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys(run.method for run in runs):
        mine = [run for run in runs if run.method == name]
        low, high = wilson(sum(run.correct for run in mine), len(mine))
        scores = [math.exp(run.log_s) for run in mine if run.log_s is not None]
        rows.append(
            {
                "method": name,
                "problems": len(mine),
                "accuracy": round(100 * sum(run.correct for run in mine) / len(mine), 1),
                "95%": f"{low:.0f}-{high:.0f}",
                "predictive perplexity": round(sum(scores) / len(scores), 3) if scores else None,
                "tokens written": round(sum(run.written for run in mine) / len(mine)),
                "tokens scored": round(sum(run.scored for run in mine) / len(mine)),
                "seconds": round(sum(run.seconds for run in mine) / len(mine), 2),
            }
        )
    return rows


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"))
    parser.add_argument("--ensemble", default="cord")
    parser.add_argument("--problems", type=int, default=100, help="held-out problems (default: 100)")
    parser.add_argument("--jobs", type=int, default=4, help="problems decoded at once (default: 4)")
    parser.add_argument("--seed", type=int, default=1, help="which held-out problems (default: 1)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only methods whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("bench/out"), help="default: bench/out")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = configuration.load(options.config)
    quiet = config.model_copy(update={"traces": config.traces.model_copy(update={"folder": None})})
    store = options.out / f"quality-{options.seed}.jsonl"
    done = stored(store)
    with tempfile.TemporaryDirectory(prefix="cord-") as sockets, store.open("a") as out:
        runs = anyio.run(_measured, build_parts(quiet, Path(sockets)), options, done, out)
    rows = summary(runs)
    table = Table(*rows[0])
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    report = {"date": datetime.now(UTC).date().isoformat(), "machine": machine, "jobs": options.jobs, "rows": rows}
    (options.out / "quality.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


async def _measured(parts: Parts, options: argparse.Namespace, done: list[Run], out: TextIO) -> list[Run]:
    async with parts.running():
        await parts.probes.until_settled()
        return await measure_all(parts, parts.service.ensembles[options.ensemble], options, done, out)


if __name__ == "__main__":
    sys.exit(main())
