"""Limits around a teacher: time, concurrency, and the breaker."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest

from proxy.decoder.types import Continuation, TeacherRequest
from proxy.errors import FailureKind, TeacherError
from proxy.teachers.guard import GuardedTeacher, Limits
from tests.decoder.scripted import ScriptedTeacher, says

pytestmark = pytest.mark.anyio

ASK = TeacherRequest((), "", None, (), 8, 1.0, 1.0, 0)


@dataclass
class Patient:
    """A teacher whose health and clock the test controls."""

    kind: FailureKind | None = None
    now: float = 0.0
    calls: list[float] = field(default_factory=list)

    def guarded(self, limits: Limits) -> GuardedTeacher:
        return GuardedTeacher(ScriptedTeacher("t", self.reply), limits, clock=lambda: self.now)

    def reply(self, ask: TeacherRequest) -> Continuation | Exception:
        self.calls.append(self.now)
        return says("ok") if self.kind is None else TeacherError("t", self.kind, "down")


async def fails(teacher: GuardedTeacher) -> FailureKind:
    with pytest.raises(TeacherError) as caught:
        await teacher.write(ASK)
    return caught.value.kind


async def test_a_teacher_that_keeps_failing_is_left_out_and_tried_again_later() -> None:
    patient = Patient(kind="broken")
    teacher = patient.guarded(Limits(trip_after=2, cool_s=10.0))
    assert [await fails(teacher) for _ in range(4)] == ["broken", "broken", "unreachable", "unreachable"]
    patient.now, patient.kind = 11.0, None
    assert (await teacher.write(ASK)).text == "ok"
    assert patient.calls == [0.0, 0.0, 11.0]


async def test_a_failed_retry_leaves_it_out_for_another_while() -> None:
    patient = Patient(kind="timeout")
    teacher = patient.guarded(Limits(trip_after=1, cool_s=10.0))
    await fails(teacher)
    patient.now = 11.0
    assert await fails(teacher) == "timeout"
    assert await fails(teacher) == "unreachable"


@pytest.mark.parametrize("kind", ["context_overflow", "refused", "rate_limited"])
async def test_failures_about_the_question_do_not_count_against_the_teacher(kind: FailureKind) -> None:
    teacher = Patient(kind=kind).guarded(Limits(trip_after=1))
    assert [await fails(teacher) for _ in range(3)] == [kind] * 3


async def test_a_call_that_takes_too_long_is_cancelled() -> None:
    async def hangs() -> Continuation:
        await anyio.sleep_forever()
        raise AssertionError

    teacher = GuardedTeacher(ScriptedTeacher("t", lambda ask: hangs()), Limits(timeout_s=0.0))
    assert await fails(teacher) == "timeout"


async def test_no_more_calls_run_at_once_than_allowed() -> None:
    running, most = 0, 0
    queued = anyio.Event()

    async def works() -> Continuation:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await queued.wait()
        running -= 1
        return says("ok")

    teacher = GuardedTeacher(ScriptedTeacher("t", lambda ask: works()), Limits(concurrency=2))
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(teacher.write, ASK)
        await anyio.wait_all_tasks_blocked()
        queued.set()
    assert most == 2
