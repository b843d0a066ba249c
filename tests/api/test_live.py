"""Watching a search: what a viewer sees, and that no viewer is ever waited for."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import anyio
import pytest
from starlette.types import ASGIApp, Message

from proxy.api.auth import master_key
from proxy.api.event_json import SCHEMA, event_json
from proxy.api.live import LiveSearches
from proxy.decoder import events as all_events
from proxy.decoder.events import Cancelled, Started
from proxy.decoder.journal import Stamped
from proxy.decoder.settings import Settings
from proxy.decoder.types import Problem, TeacherRequest
from proxy.service import Ensemble, Job
from proxy.sse import Decoder, ServerEvent
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask

pytestmark = pytest.mark.anyio


def watching(id: str) -> str:
    return f"/v1/cord/searches/{id}/events"


def told(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in Decoder().feed(body)]


@dataclass
class Viewer:
    """A bare connection that watches; `on_send` may hold up what it is sent."""

    path: str
    query: str = ""
    hung_up: anyio.Event = field(default_factory=anyio.Event)
    on_send: Callable[[list[ServerEvent]], Awaitable[None]] | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0
    connected: anyio.Event = field(default_factory=anyio.Event)
    reads: int = 0

    async def receive(self) -> Message:
        self.reads += 1
        if self.reads == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.connected.set()
            return
        frames = Decoder().feed(message["body"])
        self.seen += [json.loads(frame.data) for frame in frames]
        if self.on_send is not None:
            await self.on_send(frames)

    async def run(self, app: ASGIApp) -> None:
        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": self.path, "raw_path": self.path.encode(),
            "query_string": self.query.encode(), "headers": [], "http_version": "1.1", "scheme": "http",
            "server": ("cord", 80), "client": ("viewer", 1), "root_path": "", "state": {},
        }  # fmt: skip
        with anyio.fail_after(10):
            await app(scope, self.receive, self.send)


async def test_viewer_sees_the_whole_search_in_order() -> None:
    async with Panel().client() as client:
        reply = await client.post(CHAT, json=ask())
        search = reply.headers["x-cord-search-id"]
        assert search == reply.json()["id"]
        live = await client.get(watching(search))
    assert live.headers["content-type"].startswith("text/event-stream")
    frames = Decoder().feed(live.content)
    assert [frame.id for frame in frames] == [str(i) for i in range(len(frames))]
    seen = [json.loads(frame.data) for frame in frames]
    first, last = seen[0], seen[-1]
    assert (first["type"], first["schema"], first["id"], first["model"]) == (
        "started",
        SCHEMA,
        search,
        "cord",
    )
    assert (
        first["teachers"] == ["anna", "ben"] and first["messages"][0]["content"] == "What is 6 × 7?"
    )
    assert (
        last["type"] == "finished"
        and last["answer"] == reply.json()["choices"][0]["message"]["content"]
    )
    requested = [event["id"] for event in seen if event["type"] == "proposal_requested"]
    assert requested == sorted(requested)
    assert {event["teacher"] for event in seen if event["type"] == "proposed"} == {"anna", "ben"}
    scores = [event["score"] for event in seen if event["type"] == "scored"]
    assert scores[0]["per_model"][0]["model"] == "meta" and scores[0]["additive"] is False
    times = [event["at_s"] for event in seen]
    assert times == sorted(times)


async def test_viewer_goes_on_after_the_last_event_it_has() -> None:
    async with Panel().client() as client:
        search = (await client.post(CHAT, json=ask())).json()["id"]
        whole = told((await client.get(watching(search))).content)
        rest = await client.get(watching(search), headers={"last-event-id": "4"})
        assert told(rest.content) == whole[5:]
        same = await client.get(watching(search), params={"last_event_id": "4"})
        assert same.content == rest.content
        after_the_end = await client.get(
            watching(search), headers={"last-event-id": str(len(whole) - 1)}
        )
    assert after_the_end.status_code == 204 and after_the_end.content == b""


async def test_viewer_may_come_first_and_sees_candidates_before_the_step_is_decided() -> None:
    opened, landed = anyio.Event(), anyio.Event()

    async def gate(asked: TeacherRequest) -> None:
        await opened.wait()

    async def on_send(frames: list[ServerEvent]) -> None:
        if any(json.loads(frame.data)["type"] == "proposed" for frame in frames):
            landed.set()

    panel = Panel((Teacher("anna", gate), Teacher("ben")))
    app = panel.app
    viewer = Viewer(watching("my-own-id"), "wait_s=10", on_send=on_send)
    async with panel.client() as client, anyio.create_task_group() as group:
        group.start_soon(viewer.run, app)
        await anyio.wait_all_tasks_blocked()
        assert viewer.status == 0
        group.start_soon(
            lambda: client.post(CHAT, json=ask(), headers={"x-request-id": "my-own-id"})
        )
        await landed.wait()
        assert [event["teacher"] for event in viewer.seen if event["type"] == "proposed"] == ["ben"]
        assert not any(event["type"] == "step_decided" for event in viewer.seen)
        opened.set()
    assert viewer.seen[0]["request_id"] == "my-own-id" and viewer.seen[-1]["type"] == "finished"


async def test_viewer_that_reads_nothing_holds_up_nobody_and_misses_nothing() -> None:
    reading = anyio.Event()

    async def on_send(frames: list[ServerEvent]) -> None:
        await reading.wait()

    panel = Panel()
    viewer = Viewer(watching("slow"), "wait_s=10", on_send=on_send)
    async with panel.client() as client, anyio.create_task_group() as group:
        group.start_soon(viewer.run, panel.app)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            reply = await client.post(CHAT, json=ask(), headers={"x-request-id": "slow"})
        assert reply.status_code == 200 and len(viewer.seen) < len(panel.kept[0][1])
        reading.set()
    assert len(viewer.seen) == len(panel.kept[0][1])


async def test_search_goes_on_when_its_viewer_leaves() -> None:
    opened = anyio.Event()

    async def gate(asked: TeacherRequest) -> None:
        await opened.wait()

    panel = Panel((Teacher("anna", gate),))
    viewer = Viewer(watching("leaves"), "wait_s=10")
    replies = []
    async with panel.client() as client, anyio.create_task_group() as group:

        async def post() -> None:
            replies.append(await client.post(CHAT, json=ask(), headers={"x-request-id": "leaves"}))

        async with anyio.create_task_group() as watching_it:
            watching_it.start_soon(viewer.run, panel.app)
            group.start_soon(post)
            await viewer.connected.wait()
            viewer.hung_up.set()
        (search,) = panel.live.all()
        assert search.ended is None and not search.waiting
        opened.set()
    assert replies[0].status_code == 200


async def test_silence_is_filled_with_comments() -> None:
    chunks: list[bytes] = []
    enough = anyio.Event()
    panel = Panel(
        (Teacher("anna", lambda asked: anyio.sleep_forever()),),
        options=replace(OPTIONS, keepalive_s=0.001),
    )
    viewer = Viewer(watching("silent"), "wait_s=10")

    async def send(message: Message) -> None:
        chunks.append(message.get("body", b""))
        if len([chunk for chunk in chunks if chunk.startswith(b": ")]) > 2:
            enough.set()

    viewer.send = send  # type: ignore[method-assign]
    async with panel.client() as client, anyio.create_task_group() as group:
        group.start_soon(lambda: client.post(CHAT, json=ask(), headers={"x-request-id": "silent"}))
        group.start_soon(viewer.run, panel.app)
        with anyio.fail_after(10):
            await enough.wait()
        group.cancel_scope.cancel()


async def test_what_cannot_be_watched_is_said_so() -> None:
    async with Panel().client() as client:
        missing = await client.get(watching("chatcmpl-none"))
        assert missing.status_code == 404 and missing.json()["error"]["code"] == "not_found"
        for query in (
            {"last_event_id": "x"},
            {"last_event_id": "-1"},
            {"wait_s": "nan"},
            {"wait_s": "999"},
        ):
            bad = await client.get(watching("any"), params=query)
            assert bad.status_code == 400 and bad.json()["error"]["param"] in query
    async with Panel(options=replace(OPTIONS, keys=(master_key("secret"),))).client() as client:
        assert (await client.get(watching("any"))).status_code == 401
        assert (await client.get("/v1/cord/searches")).status_code == 401


async def test_searches_to_watch_are_listed_newest_first() -> None:
    async with Panel().client() as client:
        ids = [(await client.post(CHAT, json=ask())).json()["id"] for _ in range(2)]
        listed = (await client.get("/v1/cord/searches")).json()["data"]
    assert [entry["id"] for entry in listed] == ids[::-1]
    assert (
        listed[0]["running"] is False and listed[0]["model"] == "cord" and listed[0]["events"] > 10
    )


def job(id: str) -> Job:
    return Job(Problem(id, ()), Ensemble("cord", (), Settings()), Settings(), 0.0)


@pytest.mark.parametrize("bound", [{"kept": 2}, {"kept_events": 5}])
def test_ended_searches_are_forgotten_beyond_a_bound(bound: dict[str, int]) -> None:
    searches = LiveSearches(clock=lambda: 0.0, **bound)  # type: ignore[arg-type]
    running = searches.watch(job("runs"))
    for i in range(4):
        hear = searches.watch(job(str(i)))
        hear(Stamped(0.0, Started(Problem("x", ()), Settings(), (), None)))
        hear(Stamped(0.0, Cancelled()))
    assert [search.id for search in searches.all()] == ["3", "2", "runs"]
    running(Stamped(0.0, Cancelled()))
    assert len(searches.all()) < 4


def test_ended_searches_are_forgotten_after_a_while() -> None:
    now = [0.0]
    searches = LiveSearches(kept_s=10.0, clock=lambda: now[0])
    searches.watch(job("runs"))
    searches.watch(job("ended"))(Stamped(0.0, Cancelled()))
    now[0] = 9.0
    assert searches.find("ended") is not None
    now[0] = 11.0
    assert searches.find("ended") is None and searches.find("runs") is not None


def test_unknown_kind_of_event_is_told_by_its_type_alone() -> None:
    class ProposalSkimmedOver:
        pass

    assert event_json(Stamped(1.0, ProposalSkimmedOver())) == {
        "type": "proposal_skimmed_over",
        "at_s": 1.0,
    }  # type: ignore[arg-type]


def test_every_kind_of_event_is_described_in_the_docs() -> None:
    from pathlib import Path

    told_of = (Path(__file__).parents[2] / "docs" / "live.md").read_text()
    source = (Path(event_json.__code__.co_filename)).read_text()
    for kind in get_args(all_events.Event):
        assert f"case {kind.__name__}(" in source, kind
    for name in (
        "started",
        "proposal_requested",
        "step_decided",
        "answer_delta",
        "finished",
        "cancelled",
    ):
        assert f"`{name}`" in told_of
