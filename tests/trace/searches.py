"""Searches with every kind of end, run by the real service over scripted teachers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio

from proxy.decoder.journal import Stamped
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, Message, Problem, TeacherRequest
from proxy.errors import TeacherError
from proxy.service import Ensemble, Job, Service
from tests.decoder.scripted import ScriptedScorer, ScriptedTeacher, counts_to, says

SECRET = "SEGMENT PLEASE"


@dataclass
class Kept:
    """What a recorder was handed."""

    jobs: list[Job] = field(default_factory=list)
    journals: list[Sequence[Stamped]] = field(default_factory=list)

    def keep(self, job: Job, journal: Sequence[Stamped]) -> None:
        self.jobs.append(job)
        self.journals.append(list(journal))


def service(kept: Kept, **more: object) -> Service:
    scorer = ScriptedScorer(lambda prefix, step: -1.0 + 0.1 * (prefix + step).count("a"))
    return Service(
        {}, scorer, Segmentation(instruction=SECRET), recorders={"kept": kept.keep}, **more
    )  # type: ignore[arg-type]


def job(*teachers: ScriptedTeacher, **settings: object) -> Job:
    chosen = Settings(score="predictive", beam_width=2, **settings)  # type: ignore[arg-type]
    problem = Problem("chatcmpl-1", (Message("user", "What is it?"),), references=("42",))
    return Job(problem, Ensemble("cord", teachers, chosen), chosen, 1.0e9, {"user": "u-1"})


async def finished(kept: Kept, **more: object) -> None:
    """A good teacher, one that repeats it in its second half, one that is down."""

    def down(ask: TeacherRequest) -> Exception:
        return TeacherError("down", "unreachable", "nobody there")

    teachers = [
        ScriptedTeacher("ada", counts_to(3, "a")),
        ScriptedTeacher("bob", counts_to(3, "b")),
    ]
    teachers += [ScriptedTeacher("twin", counts_to(3, "a")), ScriptedTeacher("down", down)]
    await service(kept, **more).decode(job(*teachers))


async def failed(kept: Kept) -> None:
    def down(ask: TeacherRequest) -> Exception:
        return TeacherError("down", "timeout", "too slow")

    try:
        await service(kept).decode(job(ScriptedTeacher("down", down)))
    except Exception:
        return
    raise AssertionError("the search should have failed")


async def cancelled(kept: Kept) -> None:
    """One teacher has proposed, the other hangs when the client leaves."""
    waiting = anyio.Event()

    async def hangs() -> Continuation:
        waiting.set()
        await anyio.sleep_forever()
        return says("never")

    slow: Callable[[TeacherRequest], Awaitable[Continuation]] = lambda ask: hangs()  # noqa: E731
    async with anyio.create_task_group() as group:
        group.start_soon(
            service(kept).decode,
            job(
                ScriptedTeacher("ada", counts_to(3, "a")),
                ScriptedTeacher("b", slow),
                speculate="off",
            ),
        )
        await waiting.wait()
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
