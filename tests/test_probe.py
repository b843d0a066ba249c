"""A target's trouble is that target's state, and nobody else's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import httpx
import pytest

from proxy.errors import TeacherError
from proxy.probe import Pace, Probes, Target
from proxy.processes import Child

pytestmark = pytest.mark.anyio

SOON = Pace(
    own_s=0.001,
    others_s=0.001,
    loading_s=0.001,
    unreachable_s=0.001,
    timeout_s=0.05,
    examine_s=0.05,
)
Reply = Callable[[httpx.Request], Awaitable[httpx.Response]]


async def fine(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


async def hang(*_: object) -> None:
    await anyio.sleep_forever()


def status(code: int) -> Reply:
    async def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(code)

    return reply


def fails(error: Exception) -> Reply:
    async def reply(_: httpx.Request) -> httpx.Response:
        raise error

    return reply


def client(reply: Reply, base_url: str = "http://127.0.0.1:1/v1/") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(reply), base_url=base_url)


def teacher(
    name: str, reply: Reply = fine, examine: Callable[[], Awaitable[str | None]] | None = None
) -> Target:
    return Target(name, client(reply), "models", required=False, examine=examine)


def probes(*teachers: Target, scorer: Reply = fine, pace: Pace = SOON) -> Probes:
    return Probes(teachers, Target("scorer", client(scorer), "health", required=True), pace)


@asynccontextmanager
async def running(found: Probes) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        group.start_soon(found.run)
        yield
        group.cancel_scope.cancel()


@dataclass
class Counted:
    """Replies that tell when the n-th has been asked for."""

    reply: Reply
    wanted: int
    asked: int = 0
    enough: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked >= self.wanted:
            self.enough.set()
        return await self.reply(request)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(
            "Cannot combine AUTHORIZATION header with AUTH argument or credentials encoded in URL"
        ),
        httpx.InvalidURL("Invalid port: 'none'"),
        OSError(24, "Too many open files"),
        TypeError("'NoneType' object is not iterable"),
        RecursionError("maximum recursion depth exceeded"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_probe_that_raises_anything_is_a_state_and_the_others_go_on(
    error: Exception,
) -> None:
    others = Counted(fine, 3)
    found = probes(teacher("bad", fails(error)), teacher("good", others))
    async with running(found):
        await others.enough.wait()
        states = found.states()
    assert not states["bad"].ok and str(error) in states["bad"].detail
    assert states["good"].ok and states["scorer"].ok and states["teachers"].ok


@pytest.mark.parametrize(
    "error", [AttributeError("'str' object has no attribute 'get'"), OverflowError("infinity")]
)
async def test_an_examination_that_raises_anything_is_a_state_and_is_logged_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def examine() -> str | None:
        raise error

    others = Counted(fine, 5)
    found = probes(teacher("bad", examine=examine), teacher("good", others))
    with caplog.at_level(logging.ERROR, "proxy.probe"):
        async with running(found):
            await others.enough.wait()
    assert found.states()["bad"].status == "failed" and str(error) in found.states()["bad"].detail
    [record] = [record for record in caplog.records if record.exc_info]
    assert "bad" in record.getMessage()


async def test_a_teacher_that_hangs_in_its_examination_keeps_nobody_waiting() -> None:
    others = Counted(fine, 5)
    found = probes(
        teacher("hung", examine=hang),
        teacher("good", others),
        pace=Pace(own_s=0.001, others_s=0.001),
    )
    async with running(found):
        await others.enough.wait()
        states = found.states()
    assert states["hung"].status == "examining" and states["good"].ok and states["scorer"].ok


async def test_an_examination_is_bounded_in_time() -> None:
    found = probes(teacher("hung", examine=hang))
    await found.once()
    assert (
        found.states()["hung"].status == "failed"
        and "did not end within" in found.states()["hung"].detail
    )


async def test_a_teacher_that_could_not_be_asked_is_examined_again() -> None:
    results: list[TeacherError | None] = [TeacherError("late", "overloaded", "busy"), None]

    async def examine() -> str | None:
        if (result := results.pop(0)) is not None:
            raise result
        return None

    found = probes(teacher("late", examine=examine))
    await found.once()
    assert (found.states()["late"].status, found.states()["late"].detail) == (
        "failed",
        "late: busy",
    )
    await found.once()
    await found.once()
    assert found.states()["late"].ok and not results


async def test_a_reply_without_an_end_is_bounded() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    async def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=endless())

    found = probes(teacher("chatty", reply))
    await found.once()
    assert found.states()["chatty"].ok


async def test_a_scorer_that_has_not_answered_for_seconds_is_not_ready() -> None:
    """The state of a target whose loop is stuck, whatever the reason, grows old."""
    now = [0.0]
    found = Probes(
        (), Target("scorer", client(fine), "health", required=True), Pace(), lambda: now[0]
    )
    await found.once()
    assert found.states()["scorer"].ok
    now[0] = 100.0
    state = found.states()["scorer"]
    assert (state.ok, state.status, state.detail) == (False, "silent", "no answer for 100 s")


async def test_a_child_that_hangs_is_restarted_but_not_while_it_loads(tmp_path: Path) -> None:
    restarts: list[str] = []

    class Known(Child):
        def restart(self, why: str) -> None:
            restarts.append(why)
            self.serving = False

    async def silent(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("")

    child = Known("scorer", "scoring", [], tmp_path / "scorer.sock")
    found = Probes((), Target("scorer", client(silent), "health", required=True, child=child), SOON)
    for _ in range(10):
        await found.once()
    assert not restarts and found.states()["scorer"].status == "silent"
    child.answered()
    for _ in range(10):
        await found.once()
    assert len(restarts) == 1


async def test_a_child_that_does_not_get_to_its_first_answer_is_restarted(tmp_path: Path) -> None:
    """Stopped while it loads, it looks like one that loads for ever."""
    restarts: list[str] = []

    class Loading(Child):
        loading_s = 100.0

        def restart(self, why: str) -> None:
            restarts.append(why)

    child = Loading("scorer", "scoring", [], tmp_path / "scorer.sock")
    target = Target(
        "scorer",
        client(fails(httpx.ConnectError("no socket"))),
        "health",
        required=True,
        child=child,
    )
    await Probes((), target, replace(SOON, load_s=101)).once()
    assert not restarts
    await Probes((), target, replace(SOON, load_s=99)).once()
    assert restarts == ["its model has been loading for 100 s"]


@pytest.mark.parametrize(
    ("code", "base_url", "hint"),
    [
        (404, "http://127.0.0.1:8000/", "try http://127.0.0.1:8000/v1"),
        (404, "http://127.0.0.1:8000/v1/", "check the address"),
        (401, "http://127.0.0.1:8000/v1/", "set api_key"),
    ],
)
async def test_a_wrong_address_says_what_to_change(code: int, base_url: str, hint: str) -> None:
    found = probes(Target("far", client(status(code), base_url), "models", required=False))
    await found.once()
    state = found.states()["far"]
    assert state.status == "wrong_url" and hint in state.detail and found.settled()
