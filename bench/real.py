"""The strategies and scores side by side on real models: `python -m bench.real` (extra `real`).

Teachers are GGUF files behind llama.cpp's own server, each in its own process, asked by the product's adapter; the
meta-prover is one of them, read by the scoring engine in this process; the search is the product's. Problems and
verifiers are reasoning-gym's. All searches of one problem share what is written and scored for it, as in `bench.panel`.
Every search is stored as it ends: a run that was stopped goes on where it stood, and may be run in pieces (`--only`,
`--problems`). "Right" is the answer in `content`, as a client gets it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx
from anyio.abc import TaskGroup
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from bench.figures import Found, Run, gain, tables
from bench.gym import TASKS, Drawn, Problems, Task, answer_in, step_kind
from bench.models import MODELS, cache, converted, fetch
from bench.panel import Meter, Shared, SharingService, SharingTeacher
from bench.quality import _pattern, stored
from bench.report import Report
from proxy.decoder.events import Event, Finished, Proposed, Scored
from proxy.decoder.journal import Journal
from proxy.decoder.search import search
from proxy.decoder.selection import blend
from proxy.decoder.settings import Budget, Sampling, Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.summary import summarise
from proxy.decoder.types import Candidate, Continuation, Message, Problem, TeacherRequest
from proxy.errors import ScorerError, SearchError
from proxy.processes import Child
from proxy.scorer import RemoteScorer
from proxy.teachers.compatible import PROVIDERS, CompatibleTeacher
from proxy.teachers.template import ChatTemplate
from runtime.checkpoints import load_checkpoint
from runtime.prefix_cache import MemoryPool
from runtime.transport import PooledTransport
from scoring.batcher import Batcher
from scoring.engine import ScoringEngine
from scoring.judge import Judge
from scoring.objective import OBJECTIVES, LookAhead
from scoring.tokens import Elicitation
from scoring.types import ScoreReply, ScoreRequest

META = "coder"
_START_S = 300.0
_CACHE_MB = 256

BASE = Settings(
    quorum=1.0,  # how fast a step comes must not decide here
    budget=Budget(steps=6, step_tokens=64, reasoning_tokens=320, answer_tokens=48, deadline_s=1e9),
)
FIRST_STEP = replace(BASE, budget=replace(BASE.budget, steps=1, answer_tokens=1))
"""To see how scores order sampled siblings, for a small part of the cost of whole searches."""
FIRST_STEP_SAMPLES = 5
SEGMENTATION = Segmentation()
Strategy = Literal["beam", "curation"]


@dataclass(frozen=True, slots=True)
class Method:
    """A search by one score; `samples` are proposals a teacher and prefix, as many as the panel says by default."""

    name: str
    strategy: Strategy
    score: str = "predictive"
    beam_width: int = 1
    max_children_per_parent: int | None = None

    @property
    def needs_reference(self) -> bool:
        return self.score.startswith(("predictive", "lookahead"))


@dataclass(frozen=True, slots=True)
class Panel:
    """Teachers by the names of `bench.models`, and how often each is asked under a prefix."""

    name: str
    teachers: tuple[str, ...]
    samples: int

    def rows(self, label: str) -> tuple[str, ...]:
        """What a curation by one score tells: one trace alone of each teacher, votes, and the best of several."""
        curations = tuple(f"curation×{samples}, {label}" for samples in range(1, self.samples + 1))
        alone = tuple(f"{name} alone" for name in self.teachers)
        return (*alone, f"majority vote of {self.samples * len(self.teachers)}", *curations)


PANELS = (Panel("coder ×3", ("coder",), 3), Panel("coder and smollm", ("coder", "smollm"), 2))
METHODS = (
    Method("curation, reference", "curation"),
    Method("curation, step", "curation", "step"),
    Method("greedy, reference", "beam"),
    Method("greedy, reference, lookahead", "beam", "lookahead"),
    Method("greedy, reference, lookahead + step", "beam", "lookahead + step"),
    Method("greedy, step", "beam", "step"),
    Method("greedy, reference, lookahead-rollout", "beam", "lookahead-rollout"),
    Method("beam B=2, reference, one child a parent", "beam", "predictive", 2, 1),
    Method("beam B=2, reference, lookahead, one child a parent", "beam", "lookahead", 2, 1),
)
PAIRS = (
    ("greedy, reference, lookahead", "greedy, reference"),
    ("greedy, reference, lookahead + step", "greedy, reference"),
    ("greedy, reference, lookahead-rollout", "greedy, reference"),
    ("greedy, step", "majority vote of 3"),
    ("greedy, step", "majority vote of 4"),
)
"""Of which the difference is told, on the same problems; beside each search against curation."""


@dataclass(frozen=True, slots=True)
class ServedTeacher:
    """A `bench.panel.Writer`: a GGUF file behind llama.cpp's server."""

    teacher: CompatibleTeacher

    @property
    def name(self) -> str:
        return self.teacher.name

    async def write(self, ask: TeacherRequest) -> tuple[Continuation, float]:
        """Continue the turn; with the seconds on the clock, other searches' included."""
        began = time.monotonic()
        written = await self.teacher.write(ask)
        return written, time.monotonic() - began


@dataclass(slots=True)
class MetaProver:
    """`bench.panel.Judges`: one model in memory, with an engine and a cache of its own for every way to score."""

    batchers: dict[Hashable, Batcher] = field(default_factory=dict)

    @classmethod
    def load(cls, methods: Iterable[Method], group: TaskGroup, console: Console) -> MetaProver:
        """With all engines that these methods need: a model cannot be made ready while another engine runs it."""
        model, tokenizer = load_checkpoint(
            _causal(), converted(MODELS[META], console), "cpu", "float32"
        )
        found = cls()
        for method in methods:
            for name in blend(method.score):
                objective = "predictive" if isinstance(OBJECTIVES[name], LookAhead) else name
                way = ((method.strategy, method.score), objective, 1)
                if way not in found.batchers:
                    pool = MemoryPool(_CACHE_MB << 20)
                    judge = Judge(META, model, tokenizer, pool=pool, elicitation=Elicitation())
                    found.batchers[way] = Batcher(ScoringEngine({META: judge}, pool))
        for batcher in found.batchers.values():
            group.start_soon(batcher.run)
        return found

    def batcher(self, way: Hashable) -> Batcher:
        return self.batchers[way]


@dataclass(frozen=True, slots=True)
class WritingAhead:
    """A `proxy.scorer.ScoringService` in which llama.cpp writes what the meta-prover goes on with to look ahead.

    The scoring engine would write it itself (`scoring.objective.LookAhead`), but on a CPU it takes four times as long a
    token. It is the same model, greedy, to the same end, from the same prompt; only its activations are rounded
    differently. What is written counts as scored tokens.
    """

    service: SharingService
    writer: SharingTeacher

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Score; a look ahead as predictive perplexity after what was written."""
        looking = OBJECTIVES[request.objective]
        if not isinstance(looking, LookAhead):
            return await self.service.score(request)
        tree = request.tree
        reasoning = tree.prefix + "".join(tree.candidates)
        written = await self.writer.write(
            TeacherRequest(
                messages=tuple(Message(message.role, message.content) for message in tree.messages),
                reasoning=reasoning,
                answer=None,
                stop=() if looking.to_end else ("\n#",),
                max_tokens=looking.tokens,
                temperature=0.0,
                top_p=1.0,
                seed=0,
            )
        )
        if written.text.strip():
            tree = replace(tree, prefix=reasoning, candidates=(f"{written.text.strip()}\n\n",))
        reply = await self.service.score(replace(request, objective="predictive", tree=tree))
        self.service.meter.scored += written.completion_tokens
        return replace(reply, tokens_forwarded=reply.tokens_forwarded + written.completion_tokens)


@asynccontextmanager
async def serving(
    names: Sequence[str], console: Console
) -> AsyncIterator[dict[str, ServedTeacher]]:
    """llama.cpp's servers for these models, once they answer; ended by their process ids."""
    async with AsyncExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cord-real-")))
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        teachers = {}
        for name in names:
            file = fetch(MODELS[name], console)
            child = Child(
                name, "serving.llama", [str(file), "--name", name], sockets / f"{name}.sock"
            )
            group.start_soon(child.supervise)
            transport = PooledTransport(str(child.socket))
            client = httpx.AsyncClient(
                transport=transport, base_url="http://teacher/v1/", timeout=None
            )
            await stack.enter_async_context(client)
            template = ChatTemplate.load(str(file))
            teachers[name] = ServedTeacher(
                CompatibleTeacher(name, name, client, template, PROVIDERS["llama_cpp"])
            )
            with anyio.fail_after(_START_S):
                while not await _answers(client):  # noqa: ASYNC110 (a server's start can only be asked for)
                    await anyio.sleep(0.2)
        yield teachers


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("models")).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass(frozen=True, slots=True)
class Bench:
    """What all searches need."""

    teachers: dict[str, ServedTeacher]
    judges: MetaProver
    problems: dict[str, Problems]
    base: Settings = BASE

    async def decode(
        self, table: str, task: Task, panel: Panel, method: Method, number: int, shared: Shared
    ) -> list[Run]:
        """One problem by one method; a run for each of its rows."""
        drawn = self.problems[task.name][number]
        meter = Meter()
        service = SharingService(self.judges, (method.strategy, method.score), shared, meter)
        writer = SharingTeacher(self.teachers[META], shared, Meter())
        scorer = RemoteScorer(WritingAhead(service, writer), META, (META,))
        chosen = [SharingTeacher(self.teachers[name], shared, meter) for name in panel.teachers]
        settings = replace(
            self.base,
            strategy=method.strategy,
            score=method.score,
            beam_width=method.beam_width,
            max_children_per_parent=method.max_children_per_parent,
            samples=panel.samples,
            sampling=Sampling(temperature=0.8, seed=number),
        )
        problem = Problem(f"{table} {number}", (Message("user", drawn.text),), (drawn.answer,))
        journal = Journal(time.monotonic)
        try:
            await search(problem, chosen, scorer, settings, SEGMENTATION, journal.emit)
        except (SearchError, ScorerError) as exc:
            print(f"{table} {number}, {method.name}: {exc}", file=sys.stderr)
        events = [stamped.event for stamped in journal.events]
        if method.strategy == "curation":
            return self.curated(table, task, panel, method, number, drawn, events)
        return [self.searched(table, task, method, number, drawn, events, meter)]

    def searched(
        self,
        table: str,
        task: Task,
        method: Method,
        number: int,
        drawn: Drawn,
        events: Sequence[Event],
        meter: Meter,
    ) -> Run:
        """The run of a step-wise search. One that failed is wrong."""
        result = next((event.result for event in events if isinstance(event, Finished)), None)
        marks = mark(events) if task.equations else {}
        marks["unfinished"] = float(result is None or result.stopped != "closed")
        marks["failed"] = float(result is None)
        is_right = self.problems[task.name].is_right
        return Run(
            table=table,
            method=method.name,
            problem=number,
            right=float(result is not None and is_right(drawn, result.answer)),
            log_s=None,
            written=summarise(events).cost.generated_tokens,
            scored=meter.scored,
            seconds=meter.writing + meter.scoring,
            winners=tuple(step.teacher for step in result.winner.candidates) if result else (),
            marks=marks,
            in_reasoning=float(result is not None and is_right(drawn, result.winner.text)),
        )

    def curated(
        self,
        table: str,
        task: Task,
        panel: Panel,
        method: Method,
        number: int,
        drawn: Drawn,
        events: Sequence[Event],
    ) -> list[Run]:
        """Curation of 1 to `samples` traces a teacher; one trace alone and the vote, by the answers the traces end in.

        The vote is for the answer that most traces come to; among equals the first.
        """
        traces = [event.candidate for event in events if isinstance(event, Proposed)]
        by_text = {trace.text: trace for trace in traces}
        scores = {
            trace.text: event.score
            for event in events
            if isinstance(event, Scored)
            for trace in by_text.values()
            if trace.id == event.id
        }
        is_right = self.problems[task.name].is_right
        label = method.name.partition(", ")[2]
        runs = []

        def add(
            name: str, chosen: Candidate | None, among: Sequence[Candidate], scored: bool
        ) -> None:
            right = float(chosen is not None and is_right(drawn, chosen.text))
            written = sum(trace.completion_tokens for trace in among)
            read = (
                sum(scores[trace.text].tokens_forwarded for trace in among if trace.text in scores)
                if scored
                else 0
            )
            runs.append(
                Run(table, name, number, right, None, written, read, 0.0, in_reasoning=right)
            )

        nth: dict[str, list[Candidate]] = defaultdict(list)
        for trace in sorted(traces, key=lambda trace: trace.id):
            nth[trace.teacher].append(trace)
        for samples in range(1, panel.samples + 1):
            among = [trace for mine in nth.values() for trace in mine[:samples]]
            judged = [trace for trace in among if trace.text in scores]
            best = max(
                judged,
                key=lambda t: (scores[t.text].nats / scores[t.text].length, -t.id),
                default=None,
            )
            add(f"curation×{samples}, {label}", best, among, scored=True)
        if method.needs_reference:
            for name in panel.teachers:
                add(f"{name} alone", next(iter(nth[name]), None), nth[name][:1], scored=False)
            voters = [trace for mine in nth.values() for trace in mine]
            answers = [answer_of(trace) for trace in voters]
            elected = max(
                voters, key=lambda trace: (answers.count(answer_of(trace)), -trace.id), default=None
            )
            add(
                f"majority vote of {panel.samples * len(panel.teachers)}",
                elected,
                voters,
                scored=False,
            )
        return runs


def answer_of(trace: Candidate) -> str:
    """The answer that a trace comes to; what has none has one of its own."""
    return answer_in(trace.text) or f"none, {trace.id}"


def mark(events: Sequence[Event]) -> dict[str, float]:
    """How a search's score ordered sampled siblings, as counts: right ones before wrong ones, and before hollow ones.

    A step is right if all its equations hold, wrong if one does not, hollow if it has none (`bench.gym.step_kind`).
    """
    proposed = {
        event.candidate.id: event.candidate for event in events if isinstance(event, Proposed)
    }
    scores = {event.id: event.score for event in events if isinstance(event, Scored)}
    families: dict[int | None, list[Candidate]] = defaultdict(list)
    for id in scores:
        families[proposed[id].parent].append(proposed[id])
    marks: defaultdict[str, float] = defaultdict(float)
    for siblings in families.values():
        for pair in combinations(siblings, 2):
            kinds = {step_kind(step.text): step for step in pair}
            if "right" not in kinds or len(kinds) < 2:
                continue
            ours = scores[kinds.pop("right").id]
            [(kind, other)] = kinds.items()
            theirs = scores[other.id]
            ahead = ours.nats / ours.length - theirs.nats / theirs.length
            name = "hollow" if kind == "hollow" else "right"
            marks[f"{name}_pairs"] += 1
            marks[f"{name}_first"] += 0.5 if ahead == 0 else float(ahead > 0)
    return dict(marks)


def chosen_rows(
    only: Sequence[Any], first_step: bool = False
) -> list[tuple[str, Task, Panel, Method]]:
    """The tables and methods whose "TABLE: METHOD" is asked for."""
    every = [
        (name_of(task, panel), task, panel, method)
        for task in TASKS
        for panel in PANELS
        for method in METHODS
    ]
    if first_step:
        panel = Panel("first step", (META,), FIRST_STEP_SAMPLES)
        greedy = [
            method for method in METHODS if method.strategy == "beam" and method.beam_width == 1
        ]
        every = [
            (name_of(task, panel), task, panel, method)
            for task in TASKS
            if task.equations
            for method in greedy
        ]
    return [
        row
        for row in every
        if not only or any(part.search(f"{row[0]}: {row[3].name}") for part in only)
    ]


def name_of(task: Task, panel: Panel) -> str:
    return f"{task.name}, {panel.name}"


def names(panel: Panel, method: Method) -> tuple[str, ...]:
    """The rows that a method tells."""
    if method.strategy != "curation":
        return (method.name,)
    label = method.name.partition(", ")[2]
    rows = panel.rows(label)
    return (
        rows if method.needs_reference else tuple(row for row in rows if row.startswith("curation"))
    )


def resumed(store: Path) -> list[Run]:
    """What was measured before; a line that was being written when it stopped is cut off."""
    done = stored(store)
    store.parent.mkdir(parents=True, exist_ok=True)
    store.touch()
    os.truncate(store, store.read_bytes().rfind(b"\n") + 1)
    return done


async def measure(options: argparse.Namespace, store: Path, console: Console) -> list[Run]:
    """Search whatever is not stored yet, a few problems at once; everything that was asked for."""
    done = resumed(store)
    known = {(run.table, run.method, run.problem) for run in done}
    rows = chosen_rows(options.only, options.first_step)
    if not rows:
        raise SystemExit("--only finds no row")
    left: dict[tuple[str, int], list[tuple[Task, Panel, Method]]] = defaultdict(list)
    for number in range(options.problems):
        for table, task, panel, method in rows:
            if any((table, name, number) not in known for name in names(panel, method)):
                left[table, number].append((task, panel, method))
    wanted = {META} | {
        name for ways in left.values() for _, panel, _ in ways for name in panel.teachers
    }
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    if left:
        async with serving(sorted(wanted), console) as teachers, anyio.create_task_group() as group:
            problems = {task.name: Problems(task, options.seed, options.problems) for task in TASKS}
            judges = MetaProver.load((method for *_, method in rows), group, console)
            bench = Bench(teachers, judges, problems, FIRST_STEP if options.first_step else BASE)
            places = anyio.CapacityLimiter(options.at_once)
            with Progress(*columns, console=console) as progress, store.open("a") as out:
                bar = progress.add_task("problems", total=len(left))

                async def work(
                    table: str, number: int, ways: Sequence[tuple[Task, Panel, Method]]
                ) -> None:
                    shared = Shared()
                    async with places:
                        for task, panel, method in ways:
                            for run in await bench.decode(
                                table, task, panel, method, number, shared
                            ):
                                done.append(run)
                                out.write(json.dumps(asdict(run)) + "\n")
                            out.flush()
                    progress.update(bar, advance=1, description=f"{table} {number}")

                async with anyio.create_task_group() as searches:
                    for (table, number), ways in left.items():
                        searches.start_soon(work, table, number, ways)
            group.cancel_scope.cancel()
    order = {
        (table, name): i
        for i, (table, _, panel, method) in enumerate(rows)
        for name in names(panel, method)
    }
    asked = [
        run for run in done if (run.table, run.method) in order and run.problem < options.problems
    ]
    return sorted(asked, key=lambda run: (order[run.table, run.method], run.method, run.problem))


def _causal() -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM


def with_pairs(found: Found, runs: Sequence[Run]) -> Found:
    """With the differences of `PAIRS` that were measured."""
    methods: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.table == found.name:
            methods[run.method].append(run)
    pairs = [
        gain(methods, left, right) for left, right in PAIRS if left in methods and right in methods
    ]
    return replace(found, gains=(*found.gains, *pairs))


def preferences(table: str, runs: Sequence[Run]) -> RichTable:
    """By score, how often the right one of two sampled siblings comes first; intervals over problems."""
    shown = RichTable(
        "score",
        "right before wrong, % (95 %)",
        "pairs",
        "right before hollow, % (95 %)",
        "pairs",
        title=table,
    )
    for method in dict.fromkeys(run.method for run in runs if run.table == table):
        mine = [run for run in runs if (run.table, run.method) == (table, method)]
        cells = [method]
        for kind in ("right", "hollow"):
            share, low, high, pairs = ordered(mine, kind)
            cells += [
                f"{100 * share:.0f} ({100 * low:.0f} to {100 * high:.0f})" if pairs else "",
                f"{pairs:.0f}",
            ]
        shown.add_row(*cells)
    return shown


def ordered(runs: Sequence[Run], kind: str) -> tuple[float, float, float, float]:
    """The share of pairs in which the right step came first, its 95 % interval, and how many pairs there were.

    Pairs of one problem are no independent draws, so problems are what the bootstrap draws (2,000 times, seeded).
    """
    counts = [
        (run.marks.get(f"{kind}_first", 0.0), run.marks.get(f"{kind}_pairs", 0.0)) for run in runs
    ]
    pairs = sum(total for _, total in counts)
    if not pairs:
        return 0.0, 0.0, 0.0, 0.0
    draw = random.Random(1)
    shares = []
    for _ in range(2000):
        drawn = draw.choices(counts, k=len(counts))
        if total := sum(count for _, count in drawn):
            shares.append(sum(first for first, _ in drawn) / total)
    shares.sort()
    low, high = shares[int(0.025 * len(shares))], shares[int(0.975 * len(shares)) - 1]
    return sum(first for first, _ in counts) / pairs, low, high, pairs


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.real", description=__doc__)
    parser.add_argument("--problems", type=int, default=100, help="of every task (default: 100)")
    parser.add_argument(
        "--at-once", type=int, default=3, help="problems searched at once (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which problems (default: 1)")
    parser.add_argument(
        "--only",
        action="append",
        type=_pattern,
        metavar="REGEX",
        help="only rows in whose 'TABLE: METHOD' it is found",
    )
    parser.add_argument(
        "--first-step",
        action="store_true",
        help=f"only order {FIRST_STEP_SAMPLES} sampled first steps of each problem: right, wrong and hollow ones",
    )
    parser.add_argument(
        "--out", type=Path, default=cache().parent / "bench", help="default: ~/.cache/cord/bench"
    )
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    console = Console(stderr=True)
    runs = anyio.run(measure, options, options.out / f"real-{options.seed}.jsonl", console)
    if options.first_step:
        Console(width=max(console.width, 120)).print(
            *(preferences(table, runs) for table in {r.table for r in runs})
        )
        return 0
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    found = [with_pairs(table, runs) for table in tables(runs)]
    files = "; ".join(f"{model.title}, GGUF SHA-256 {model.sha256}" for model in MODELS.values())
    report = Report(
        datetime.now(UTC).date().isoformat(),
        f"{machine}; seed {options.seed}; {files}",
        found,
        command="make bench-real",
    )
    Console(width=max(console.width, 170)).print(*report.rendered())
    (options.out / "real.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    (options.out / "real.md").write_text(report.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
