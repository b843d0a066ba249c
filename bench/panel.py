"""The embedded panels in this process, with no server in between: what the quality bench searches with.

The same search, templates, engine of the teachers and engine of the scores as behind the proxy; only HTTP is missing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from miniature.task import INSTRUCTION
from proxy.decoder.ports import OnText
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Ask, Continuation
from proxy.errors import TeacherError
from proxy.scorer import RemoteScorer
from proxy.teachers.compatible import ended_by
from proxy.teachers.template import ChatTemplate
from scoring.batcher import Batcher
from scoring.engine import Engine as ScoringEngine
from scoring.engine import Task
from serving.engine import Delta, Engine, Job, sampler

SEGMENTATION = Segmentation(instruction=INSTRUCTION)
TEACHERS = ("alder", "birch", "cedar")
META = "meta"
_AT_ONCE = 256


_TURN = threading.Lock()
"""A process has one core: whoever computes does so alone, while others gather what they will compute together."""


class _Teacher(Engine):
    def _tick(self, joining: list[Job]) -> None:
        with _TURN:
            super()._tick(joining)


class _Judges(ScoringEngine):
    def step(self) -> list[Task]:
        with _TURN:
            return super().step()


class LocalTeacher:
    """A `decoder.ports.Teacher` over an engine of its own."""

    formats = False
    calls = False

    def __init__(self, name: str, folder: Path, dtype: str) -> None:
        self.name = name
        self.engine = _Teacher.load(folder, device="cpu", dtype=dtype, max_batch=_AT_ONCE)
        self._template = ChatTemplate.load(str(folder))

    async def write(self, ask: Ask, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; see `decoder.ports.Teacher`."""
        prompt = tuple(self.engine.tokenizer(self._template.turn(ask), add_special_tokens=False)["input_ids"])
        room = self.engine.max_model_len - len(prompt)
        if room < 1:
            raise TeacherError(self.name, "context_overflow", f"{len(prompt)} tokens are too many")
        loop = asyncio.get_running_loop()
        end: asyncio.Future[Delta] = loop.create_future()
        pieces: list[str] = []

        def finish(delta: Delta) -> None:
            if not end.done():
                end.set_result(delta)

        def sink(delta: Delta) -> None:
            pieces.append(delta.text)
            if delta.finish is not None:
                with suppress(RuntimeError):  # the loop has stopped
                    loop.call_soon_threadsafe(finish, delta)

        stops = ask.stop if ask.answer is not None else (*ask.stop, self._template.markup.stop)
        drawn = sampler(ask.temperature, ask.top_p, 0, ask.seed)
        job = Job(prompt, min(ask.max_tokens, room), 0, drawn, stops, False, False, sink)
        self.engine.submit(job)
        try:
            last = await end
        finally:
            job.cancelled = True
        text = "".join(pieces)
        if on_text is not None:
            on_text(text)
        return Continuation(text, ended_by(last.finish, last.stop, ask), len(prompt), last.tokens)


@dataclass(frozen=True, slots=True)
class Panel:
    """Teachers, and an engine that holds them and the meta-prover as judges."""

    teachers: tuple[LocalTeacher, ...]
    engine: ScoringEngine
    scorer: RemoteScorer

    def forget(self) -> None:
        """Empty the caches, so that what one method costs does not depend on what ran before."""
        self.engine.pool.shrink(0)


def folders(checkpoints: Path, panel: str) -> dict[str, Path]:
    """Where a panel's models are; what another panel does not retrain is the independent one's."""
    apart = {name: checkpoints / panel / name for name in (*TEACHERS, META)}
    return {name: folder if folder.is_dir() else checkpoints / name for name, folder in apart.items()}


@asynccontextmanager
async def running(checkpoints: Path, panel: str, dtype: str) -> AsyncIterator[Panel]:
    """A panel, loaded and at work."""
    found = folders(checkpoints, panel)
    engine = _Judges.load({name: str(folder) for name, folder in found.items()}, device="cpu", dtype=dtype)
    batcher = Batcher(engine)
    teachers = tuple(LocalTeacher(name, found[name], dtype) for name in TEACHERS)
    async with anyio.create_task_group() as group:
        group.start_soon(batcher.run)
        yield Panel(teachers, engine, RemoteScorer(batcher, META, (META, *TEACHERS)))
        group.cancel_scope.cancel()
    for teacher in teachers:
        teacher.engine.close()
