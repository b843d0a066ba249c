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
    takes_s: float = 0.0
    retry_after_s: float | None = None
    hangs: bool = False
    calls: list[float] = field(default_factory=list)

    def guarded(self, limits: Limits) -> GuardedTeacher:
        return GuardedTeacher(ScriptedTeacher("t", self.reply), limits, clock=lambda: self.now)

    async def reply(self, ask: TeacherRequest) -> Continuation:
        self.calls.append(self.now)
        self.now += self.takes_s
        if self.hangs:
            await anyio.sleep_forever()
        if self.kind is not None:
            raise TeacherError("t", self.kind, "down", retry_after_s=self.retry_after_s)
        return says("ok")


async def fails(teacher: GuardedTeacher) -> FailureKind:
    with pytest.raises(TeacherError) as caught:
        await teacher.write(ASK)
    return caught.value.kind


async def test_a_teacher_that_keeps_failing_is_left_out_and_tried_again_later() -> None:
    patient = Patient(kind="broken")
    teacher = patient.guarded(Limits(trip_after=2, cool_s=10.0))
    assert [await fails(teacher) for _ in range(4)] == [
        "broken",
        "broken",
        "unreachable",
        "unreachable",
    ]
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


async def test_teacher_is_left_out_from_when_its_last_call_failed() -> None:
    """Also where a call takes longer than a teacher is left out for."""
    patient = Patient(kind="timeout", takes_s=30.0)
    teacher = patient.guarded(Limits(trip_after=3, cool_s=10.0))
    assert [await fails(teacher) for _ in range(5)] == ["timeout"] * 3 + ["unreachable"] * 2
    patient.now += 9.0
    assert await fails(teacher) == "unreachable"
    patient.now += 2.0
    assert [await fails(teacher) for _ in range(2)] == ["timeout", "unreachable"]


@pytest.mark.parametrize("comes_back", [True, False])
async def test_teacher_that_was_left_out_is_tried_by_one_call(comes_back: bool) -> None:
    kinds: list[FailureKind] = []
    gate, now = anyio.Event(), 0.0
    script = iter([TeacherError("t", "broken", "down"), gate])

    async def works() -> Continuation:
        step = next(script, None)
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await step.wait()
            if not comes_back:
                raise TeacherError("t", "broken", "still down")
        return says("ok")

    scripted = ScriptedTeacher("t", lambda ask: works())
    teacher = GuardedTeacher(scripted, Limits(trip_after=1, cool_s=10.0), clock=lambda: now)
    await fails(teacher)
    now = 11.0

    async def ask() -> None:
        try:
            await teacher.write(ASK)
        except TeacherError as exc:
            kinds.append(exc.kind)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        now = 30.0  # the trial takes longer than a teacher is left out for
        for _ in range(3):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert kinds == ["unreachable"] * 3 and len(scripted.history) == 2
        gate.set()
    assert kinds[3:] == ([] if comes_back else ["broken"])
    if comes_back:
        assert (await teacher.write(ASK)).text == "ok"
    else:
        assert await fails(teacher) == "unreachable"


async def test_trial_that_is_cancelled_leaves_another_to_try() -> None:
    patient = Patient(kind="broken")
    teacher = patient.guarded(Limits(trip_after=1, cool_s=10.0))
    await fails(teacher)
    patient.now, patient.hangs = 11.0, True
    with anyio.move_on_after(0):
        await teacher.write(ASK)
    patient.hangs, patient.kind = False, None
    assert (await teacher.write(ASK)).text == "ok"


async def test_calls_that_wait_for_a_place_fail_once_the_teacher_is_left_out() -> None:
    gate = anyio.Event()
    kinds: list[FailureKind] = []

    async def breaks() -> Continuation:
        await gate.wait()
        raise TeacherError("t", "broken", "down")

    scripted = ScriptedTeacher("t", lambda ask: breaks())
    teacher = GuardedTeacher(scripted, Limits(trip_after=1, concurrency=1))

    async def ask() -> None:
        kinds.append(await fails(teacher))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert sorted(kinds) == ["broken"] + ["unreachable"] * 3 and len(scripted.history) == 1


async def test_being_rate_limited_does_not_end_a_row_of_failures() -> None:
    patient = Patient()
    teacher = patient.guarded(Limits(trip_after=2))
    found = []
    for kind in ("broken", "rate_limited", "broken", "broken"):
        patient.kind = kind  # type: ignore[assignment]
        found.append(await fails(teacher))
    assert found == ["broken", "rate_limited", "broken", "unreachable"]


@pytest.mark.parametrize(
    ("kind", "waits"), [("rate_limited", True), ("overloaded", True), ("refused", False)]
)
async def test_teacher_is_left_out_until_its_server_wants_to_be_asked_again(
    kind: FailureKind, waits: bool
) -> None:
    patient = Patient(kind=kind, retry_after_s=20.0)
    teacher = patient.guarded(Limits())
    await fails(teacher)
    patient.kind, patient.now = None, 19.0
    if not waits:
        assert (await teacher.write(ASK)).text == "ok"
        return
    with pytest.raises(TeacherError) as caught:
        await teacher.write(ASK)
    assert (caught.value.kind, caught.value.retry_after_s) == ("rate_limited", 1.0)
    patient.now = 20.0
    assert (await teacher.write(ASK)).text == "ok"


async def test_wait_that_a_server_asks_for_is_bounded() -> None:
    patient = Patient(kind="rate_limited", retry_after_s=1e9)
    teacher = patient.guarded(Limits(longest_wait_s=60.0))
    await fails(teacher)
    patient.kind, patient.now = None, 61.0
    assert (await teacher.write(ASK)).text == "ok"


async def test_bug_in_an_adapter_is_a_failure_of_its_teacher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    teacher = GuardedTeacher(
        ScriptedTeacher("t", lambda ask: RuntimeError("a\nb")), Limits(trip_after=1)
    )
    assert [await fails(teacher) for _ in range(2)] == ["broken", "unreachable"]
    assert "unexpected failure" in caplog.text


@pytest.mark.parametrize("kind", ["context_overflow", "refused", "rate_limited"])
async def test_failures_about_the_question_do_not_count_against_the_teacher(
    kind: FailureKind,
) -> None:
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
