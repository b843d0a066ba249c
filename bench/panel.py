"""The embedded panels in this process, with no server in between: what the quality bench searches with.

The same search, templates, engine of the teachers and engine of the scores as behind the proxy; only HTTP is missing.
A teacher asked the same with the same seed writes the same, so all searches of one problem share what is written and
scored for it (common random numbers): it is done once, each pays what it took, and what is compared is how they chose.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from miniature.task import INSTRUCTION
from proxy.decoder.ports import OnText
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, TeacherRequest
from proxy.errors import TeacherError
from proxy.scorer import RemoteScorer
from proxy.teachers.compatible import ended_by
from proxy.teachers.template import ChatTemplate
from runtime.prefix_cache import MemoryPool
from runtime.sampling import Sampler
from scoring.batcher import Batcher
from scoring.engine import ScoringEngine, Task
from scoring.types import ScoreReply, ScoreRequest
from serving.engine import GenerationEngine
from serving.sequence import Delta
from serving.sequence import Sequence as Generated

SEGMENTATION = Segmentation(instruction=INSTRUCTION)
TEACHERS = ("alder", "birch", "cedar")
META = "meta"
_AT_ONCE = 256
_CACHE_MB = 2048

T = TypeVar("T")

_TURN = threading.Lock()
"""A process has one core: whoever computes does so alone, while others gather what they will compute together."""


class _Teacher(GenerationEngine):
    """Tells who waits for a sequence its share of the ticks it was in, in seconds of the core."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.on_end: dict[Generated, Callable[[float], None]] = {}
        self._spent: dict[Generated, float] = {}
        super().__init__(*args, **options)

    def step(self, joining: list[Generated]) -> None:
        with _TURN:
            busy = {*self.running, *joining}
            began = time.thread_time()
            super().step(joining)
            share = (time.thread_time() - began) / max(len(busy), 1)
        for sequence in busy:
            self._spent[sequence] = self._spent.get(sequence, 0.0) + share
        for sequence in busy.difference(self.running):
            self.on_end.pop(sequence)(self._spent.pop(sequence))


class _Judges(ScoringEngine):
    """Tells a task's share of the steps it was in, in seconds of the core, as what it took to compute."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._spent: dict[Task, float] = {}

    def step(self) -> list[Task]:
        with _TURN:
            began = time.thread_time()
            ended = super().step()
            busy = [*self._running, *ended]
            share = (time.thread_time() - began) / max(len(busy), 1)
        for task in busy:
            self._spent[task] = self._spent.get(task, 0.0) + share
        for task in ended:
            assert task.ended is not None
            task.began = task.ended - self._spent.pop(task)
        return ended


class LocalTeacher:
    """A model with an engine of its own."""

    def __init__(self, name: str, folder: Path, dtype: str) -> None:
        self.name = name
        self.engine: Any = _Teacher.load(folder, device="cpu", dtype=dtype, max_batch=_AT_ONCE)
        self._template = ChatTemplate.load(str(folder))

    async def write(self, ask: TeacherRequest) -> tuple[Continuation, float]:
        """Continue the turn, as `decoder.ports.Teacher`; with the seconds it took."""
        prompt = tuple(
            self.engine.tokenizer(self._template.turn(ask), add_special_tokens=False)["input_ids"]
        )
        room = self.engine.max_model_len - len(prompt)
        if room < 1:
            raise TeacherError(self.name, "context_overflow", f"{len(prompt)} tokens are too many")
        loop = asyncio.get_running_loop()
        end: asyncio.Future[float] = loop.create_future()
        deltas: list[Delta] = []
        stops = ask.stop if ask.answer is not None else (*ask.stop, self._template.markup.stop)
        drawn = Sampler.seeded(ask.temperature, ask.top_p, 0, ask.seed)
        sequence = Generated(
            prompt, min(ask.max_tokens, room), 0, drawn, stops, False, False, deltas.append
        )
        self.engine.on_end[sequence] = lambda seconds: loop.call_soon_threadsafe(
            end.set_result, seconds
        )
        self.engine.submit(sequence)
        seconds = await end
        last = deltas[-1]
        text = "".join(delta.text for delta in deltas)
        return Continuation(
            text, ended_by(last.finish, last.stop, ask), len(prompt), last.tokens
        ), seconds


@dataclass(eq=False, slots=True)
class Shared:
    """What has been written and scored for one problem, and is for whoever asks for it again."""

    _known: dict[Hashable, asyncio.Task[Any]] = field(default_factory=dict)

    async def once(self, what: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of this work, which is done when it is first asked for."""
        if what not in self._known:
            self._known[what] = asyncio.create_task(work())
        found: T = await asyncio.shield(self._known[what])
        return found


@dataclass(slots=True)
class Meter:
    """What one search would have cost alone: seconds of the core, and tokens that judges read."""

    writing: float = 0.0
    scoring: float = 0.0
    scored: int = 0


class Writer(Protocol):
    """A model that continues a turn, and tells the seconds it took."""

    @property
    def name(self) -> str: ...

    async def write(self, ask: TeacherRequest) -> tuple[Continuation, float]: ...


class Judges(Protocol):
    """Models that score, with a cache of their own for every way to score."""

    def batcher(self, way: Hashable) -> Batcher: ...


@dataclass(frozen=True, slots=True)
class SharingTeacher:
    """A `decoder.ports.Teacher` for one search."""

    teacher: Writer
    shared: Shared
    meter: Meter
    supports_response_format: bool = False
    supports_tools: bool = False

    @property
    def name(self) -> str:
        return self.teacher.name

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; see `decoder.ports.Teacher`."""
        found, seconds = await self.shared.once((self.name, ask), lambda: self.teacher.write(ask))
        self.meter.writing += seconds
        if on_text is not None:
            on_text(found.text)
        return found


@dataclass(slots=True)
class Panel:
    """Teachers; and judges, loaded anew for every way to score, so that none reads for less what another has read.

    What all of them have read shares one budget: problems that are done give way to those in progress.
    """

    checkpoints: dict[str, Path]
    dtype: str
    group: TaskGroup
    teachers: tuple[LocalTeacher, ...]
    judges: dict[Hashable, Batcher] = field(default_factory=dict)
    pool: MemoryPool = field(default_factory=lambda: MemoryPool(_CACHE_MB << 20))

    def batcher(self, way: Hashable) -> Batcher:
        """The judges for one way to score."""
        if way not in self.judges:
            models = {name: str(folder) for name, folder in self.checkpoints.items()}
            with _TURN:  # others may be using the pool
                engine = _Judges.load(models, device="cpu", dtype=self.dtype, pool=self.pool)
            self.judges[way] = Batcher(engine)
            self.group.start_soon(self.judges[way].run)
        return self.judges[way]

    def asked(self, names: Sequence[str], shared: Shared, meter: Meter) -> list[SharingTeacher]:
        """Some of the teachers, for one search."""
        return [
            SharingTeacher(teacher, shared, meter)
            for teacher in self.teachers
            if teacher.name in names
        ]

    def scorer(
        self, strategy: str, meta_prover: str, judges: tuple[str, ...], shared: Shared, meter: Meter
    ) -> RemoteScorer:
        """A scorer for one search."""
        return RemoteScorer(
            SharingService(self, (strategy, meta_prover, judges), shared, meter),
            meta_prover,
            judges,
        )


@dataclass(frozen=True, slots=True)
class SharingService:
    """A `proxy.scorer.ScoringService` for one search."""

    panel: Judges
    way: Hashable
    shared: Shared
    meter: Meter

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Score, or tell what was scored before."""
        # A consensus drafts answers and weighs them; a panel without the proposer is one of its own.
        kind = "consensus" if request.objective in ("confidence", "expected") else request.objective
        batcher = self.panel.batcher((self.way, kind, len(request.models)))
        same = (self.way, replace(request, request_id=""))
        found = await self.shared.once(same, lambda: batcher.score(request))
        self.meter.scoring += found.compute_s
        self.meter.scored += found.tokens_forwarded
        return found


def folders(checkpoints: Path, panel: str) -> dict[str, Path]:
    """Where a panel's models are; what another panel does not retrain is the independent one's."""
    apart = {name: checkpoints / panel / name for name in (*TEACHERS, META)}
    return {
        name: folder if folder.is_dir() else checkpoints / name for name, folder in apart.items()
    }


@asynccontextmanager
async def running(checkpoints: Path, panel: str, dtype: str) -> AsyncIterator[Panel]:
    """A panel, loaded and at work."""
    found = folders(checkpoints, panel)
    teachers = tuple(LocalTeacher(name, found[name], dtype) for name in TEACHERS)
    async with anyio.create_task_group() as group:
        yield Panel(found, dtype, group, teachers)
        group.cancel_scope.cancel()
    for teacher in teachers:
        teacher.engine.close()
