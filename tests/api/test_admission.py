"""Who starts, who waits, and who is turned away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from proxy.api.admission import Admission
from proxy.api.admission_metrics import AdmissionCollector
from proxy.api.auth import Caller, Key, Keyring, master_key, sha256_of
from proxy.api.errors import Busy, Forbidden, Unauthorised
from proxy.api.limits import NOTHING, Cost, RequestLimits, cost_of
from proxy.decoder.settings import Budget, Settings
from proxy.errors import RequestError
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask
from tests.api.test_connections import Connection, request

pytestmark = pytest.mark.anyio

SMALL = Budget(steps=3, step_tokens=10, reasoning_tokens=1000, answer_tokens=5)


@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        (
            Settings(beam_width=4, samples=2, budget=SMALL),
            Cost(1, 4 * 5 * 2 * 3 + 1, 4 * 5 * 2 * 30 + 5),
        ),
        (Settings(strategy="greedy", beam_width=4, budget=SMALL), Cost(1, 5 * 3 + 1, 5 * 30 + 5)),
        (Settings(strategy="single", budget=SMALL), Cost(1, 4, 35)),
        (Settings(strategy="curation", samples=3, budget=SMALL), Cost(1, 16, 15 * 1000 + 5)),
        (
            Settings(strategy="greedy", budget=replace(SMALL, total_tokens=20)),
            Cost(1, 16, 5 * 20 + 5),
        ),
    ],
)
def test_a_cost_is_the_most_a_search_can_come_to(settings: Settings, cost: Cost) -> None:
    assert cost_of(settings, 5) == cost


@dataclass
class Door:
    """Requests that stay until they are let go, and the order in which they came in."""

    admission: Admission
    inside: list[str] = field(default_factory=list)
    refused: dict[str, Exception] = field(default_factory=dict)
    go: dict[str, anyio.Event] = field(default_factory=dict)

    async def come(self, name: str, cost: Cost | None = None, caller: Caller | None = None) -> None:
        self.go[name] = anyio.Event()
        try:
            async with self.admission.place(cost or Cost(), caller or Caller()):
                self.inside.append(name)
                await self.go[name].wait()
        except (Busy, RequestError) as exc:
            self.refused[name] = exc

    async def settle(self) -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def door(admission: Admission, *arrivals: tuple[Any, ...]) -> AsyncIterator[Door]:
    found = Door(admission)
    async with anyio.create_task_group() as group:
        for arrival in arrivals:
            group.start_soon(found.come, *arrival)
            await found.settle()
        yield found
        await found.settle()
        group.cancel_scope.cancel()
    assert admission.held == NOTHING and admission.waiting == 0


async def test_the_oldest_waits_for_a_place_and_gets_it() -> None:
    admission = Admission(RequestLimits(requests=1), queue=2, wait_s=60)
    async with door(admission, ("one",), ("two",), ("three",), ("four",)) as at:
        assert at.inside == ["one"] and admission.waiting == 2
        assert isinstance(at.refused["four"], Busy) and admission.refused == {"queue_full": 1}
        at.go["one"].set()
        await at.settle()
        assert at.inside == ["one", "two"]


async def test_a_key_that_holds_less_is_served_first() -> None:
    many, few = Caller("many"), Caller("few")
    admission = Admission(RequestLimits(requests=2), queue=9, wait_s=60)
    arrivals = [("m1", None, many), ("m2", None, many), ("m3", None, many), ("f1", None, few)]
    async with door(admission, *arrivals) as at:
        at.go["m1"].set()
        await at.settle()
        assert at.inside == ["m1", "m2", "f1"]


async def test_a_key_at_its_own_limit_holds_nobody_else_back() -> None:
    bounded = Caller("bounded", RequestLimits(calls=10))
    admission = Admission(RequestLimits(), queue=9, wait_s=60)
    arrivals = [
        ("b1", Cost(1, 8), bounded),
        ("b2", Cost(1, 8), bounded),
        ("other", Cost(1, 100), Caller("other")),
    ]
    async with door(admission, *arrivals) as at:
        assert at.inside == ["b1", "other"]
        at.go["b1"].set()
        await at.settle()
        assert at.inside == ["b1", "other", "b2"]


async def test_a_large_request_is_not_overtaken_for_ever() -> None:
    admission = Admission(RequestLimits(tokens=100), queue=9, wait_s=60)
    arrivals = [("half", Cost(1, 1, 50)), ("large", Cost(1, 1, 100)), ("small", Cost(1, 1, 10))]
    async with door(admission, *arrivals) as at:
        assert at.inside == ["half"]
        at.go["half"].set()
        await at.settle()
        assert at.inside == ["half", "large"]


async def test_what_could_never_run_is_refused_by_name() -> None:
    admission = Admission(RequestLimits(calls=10), queue=9, wait_s=60)
    async with door(admission, ("huge", Cost(1, 11))) as at:
        assert "11 teacher calls" in str(at.refused["huge"]) and "beam_width" in str(
            at.refused["huge"]
        )


async def test_a_wait_ends_and_says_when_to_come_again_by_what_requests_took() -> None:
    now = 0.0
    admission = Admission(
        RequestLimits(requests=1), queue=1, wait_s=0, retry_after_s=2, clock=lambda: now
    )
    async with door(admission, ("one",), ("two",)) as at:
        assert isinstance(at.refused["two"], Busy) and at.refused["two"].retry_after_s == 2, (
            "nothing is known yet"
        )
        now = 40.0
        at.go["one"].set()
        await at.settle()
    async with door(admission, ("three",), ("four",)) as at:
        assert isinstance(at.refused["four"], Busy) and at.refused["four"].retry_after_s == 40
    assert admission.refused == {"waited_too_long": 2}


async def test_refusals_and_waits_are_told_to_prometheus() -> None:
    admission = Admission(RequestLimits(requests=1), queue=1, wait_s=60)
    registry = CollectorRegistry()
    registry.register(AdmissionCollector(admission))
    async with door(admission, ("one", Cost(1, 7, 9)), ("two",), ("three",)):
        page = generate_latest(registry).decode()
    for line in (
        "cord_requests_waiting 1.0",
        "cord_reserved_calls 7.0",
        "cord_reserved_tokens 9.0",
        'cord_requests_refused_total{reason="queue_full"} 1.0',
    ):
        assert line in page


async def test_the_most_that_an_operator_allows_binds_each_option() -> None:
    panel = Panel(options=replace(OPTIONS, caps={"beam_width": 3.0, "deadline_s": 60.0}))
    async with panel.client() as client:
        within = await client.post(CHAT, json=ask(cord={"beam_width": 3}))
        above = await client.post(CHAT, json=ask(cord={"deadline_s": 61}))
    assert within.status_code == 200
    assert (above.status_code, above.json()["error"]["param"]) == (400, "cord.deadline_s")


async def test_a_request_that_may_come_to_too_much_starts_no_teacher() -> None:
    panel = Panel(options=replace(OPTIONS, limits=RequestLimits(calls=100)))
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(cord={"beam_width": 64, "samples": 16}))
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "request_too_costly")
    assert panel.asks == []


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    begun, release = anyio.Event(), anyio.Event()

    async def gate(_: object) -> None:
        begun.set()
        await release.wait()

    options = replace(OPTIONS, limits=RequestLimits(requests=1), queue=5, queue_wait_s=60)
    panel = Panel(teachers=[Teacher("anna", gate)], options=options)
    app = panel.app
    first, gone, last = Connection(request()), Connection(request()), Connection(request())
    async with anyio.create_task_group() as group:
        group.start_soon(first.run, app)
        await begun.wait()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(gone.run, app)
            gone.hung_up.set()
        group.start_soon(last.run, app)
        release.set()
    assert (first.sent[0]["status"], gone.sent, last.sent[0]["status"]) == (200, [], 200)


KEYS = (
    Key("app", sha256_of(b"app-key"), frozenset({"chat"})),
    Key("old", sha256_of(b"old-key"), frozenset({"chat"}), datetime(2026, 1, 1, tzinfo=UTC)),
    Key("scraper", sha256_of(b"scraper-key"), frozenset({"metrics"})),
    master_key("master"),
)


def test_a_key_opens_what_its_scopes_say() -> None:
    keyring = Keyring(KEYS, now=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    assert keyring.admit("Bearer app-key", "chat").name == "app"
    assert keyring.admit("bearer master", "traces").name == "master"
    with pytest.raises(Forbidden, match="traces"):
        keyring.admit("Bearer app-key", "traces")
    with pytest.raises(Unauthorised, match="expired"):
        keyring.admit("Bearer old-key", "chat")
    for header in (None, "", "Bearer", "Bearer wrong", "Basic app-key", "app-key"):
        with pytest.raises(Unauthorised):
            keyring.admit(header, "chat")
    assert "app-key" not in repr(KEYS)


async def test_paths_ask_for_their_scope() -> None:
    panel = Panel(options=replace(OPTIONS, keys=KEYS, open_metrics=False))
    async with panel.client() as client:

        async def status(path: str, key: str | None) -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return (await client.get(path, headers=headers)).status_code

        assert [await status("/v1/models", key) for key in (None, "app-key", "scraper-key")] == [
            401,
            200,
            403,
        ]
        assert [await status("/v1/cord/searches", key) for key in ("app-key", "master")] == [
            403,
            200,
        ]
        assert [await status("/metrics", key) for key in (None, "scraper-key")] == [401, 200]
        assert await status("/health", None) == 200
