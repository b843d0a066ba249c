"""Clients that leave, and silence that lasts: ordered by events over a bare ASGI connection."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Message

from proxy.api.limits import RequestLimits
from proxy.api.stream import KEEP_ALIVE
from proxy.decoder.events import Cancelled, Finished
from proxy.decoder.types import TeacherRequest
from tests.api.panel import CHAT, OPTIONS, Panel, Scorer, Teacher, ask, events_of, stitched

pytestmark = pytest.mark.anyio


@dataclass
class Connection:
    """A client's side of one request: what it was sent, and when it hangs up."""

    body: bytes
    hung_up: anyio.Event = field(default_factory=anyio.Event)
    sent: list[Message] = field(default_factory=list)
    on_send: Callable[[Message], Awaitable[None]] | None = None
    read: bool = False

    async def receive(self) -> Message:
        if not self.read:
            self.read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self.on_send is not None:
            await self.on_send(message)

    @property
    def stream(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])

    async def run(self, app: ASGIApp) -> None:
        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
            "server": ("cord", 80), "client": ("client", 1), "root_path": "", "state": {},
        }  # fmt: skip
        with anyio.fail_after(10):
            await app(scope, self.receive, self.send)


@dataclass
class Held:
    """A gate that never opens, and knows whether the call behind it was cancelled."""

    where: Callable[[TeacherRequest], bool] = lambda ask: True
    begun: anyio.Event = field(default_factory=anyio.Event)
    cancelled: int = 0

    async def __call__(self, ask: TeacherRequest) -> None:
        if not self.where(ask):
            return
        self.begun.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise


def request(**fields: Any) -> bytes:
    return json.dumps(ask(**fields)).encode()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_every_call_at_once(stream: bool) -> None:
    gate = Held()
    panel = Panel(teachers=[Teacher("anna", gate), Teacher("ben", gate)])
    client = Connection(request(stream=stream))
    async with anyio.create_task_group() as group:
        group.start_soon(client.run, panel.app)
        await gate.begun.wait()
        client.hung_up.set()
    assert client.sent == []
    assert gate.cancelled == len(panel.asks) == 2
    [(_, events)] = panel.kept
    assert events[-1] == Cancelled()


async def test_a_client_that_leaves_in_the_middle_of_a_stream_cancels_the_rest() -> None:
    gate = Held(lambda ask: ask.answer is not None)
    panel = Panel(teachers=[Teacher("anna", gate)])
    client = Connection(request(stream=True, model="anna"))
    async with anyio.create_task_group() as group:
        group.start_soon(client.run, panel.app)
        await gate.begun.wait()
        client.hung_up.set()
    assert gate.cancelled == 1
    assert panel.kept[0][1][-1] == Cancelled()
    assert b"[DONE]" not in client.stream


@pytest.mark.parametrize("stream", [False, True])
async def test_a_place_is_free_again_when_the_client_has_left(stream: bool) -> None:
    gate = Held(lambda ask: len(panel.asks) == 1)
    panel = Panel(
        teachers=[Teacher("anna", gate)], options=replace(OPTIONS, limits=RequestLimits(requests=1))
    )
    app = panel.app
    gone = Connection(request(stream=stream))
    async with anyio.create_task_group() as group:
        group.start_soon(gone.run, app)
        await gate.begun.wait()
        gone.hung_up.set()
    client = Connection(request(stream=stream))
    await client.run(app)
    assert client.sent[0]["status"] == 200


async def test_a_connection_the_server_finds_broken_counts_as_left() -> None:
    async def broken(_: Message) -> None:
        raise OSError("broken pipe")

    for stream in (False, True):
        panel = Panel()
        await Connection(request(stream=stream), on_send=broken).run(panel.app)
        assert len(panel.kept) == 1


async def test_a_request_that_breaks_off_is_not_answered() -> None:
    client = Connection(b"")
    client.read = True
    client.hung_up.set()
    panel = Panel()
    await client.run(panel.app)
    assert (client.sent, panel.kept) == ([], [])


async def test_silence_is_filled_with_comments_that_start_the_reply() -> None:
    heard, go_on = anyio.Event(), anyio.Event()

    async def gate(_: TeacherRequest) -> None:
        await go_on.wait()

    async def hear(message: Message) -> None:
        if message.get("body") == KEEP_ALIVE:
            heard.set()

    panel = Panel(teachers=[Teacher("anna", gate)], options=replace(OPTIONS, keepalive_s=0.001))
    client = Connection(request(stream=True), on_send=hear)
    async with anyio.create_task_group() as group:
        group.start_soon(client.run, panel.app)
        await heard.wait()
        go_on.set()
    assert client.sent[0]["status"] == 200
    assert client.stream.startswith(KEEP_ALIVE)
    assert stitched(events_of(client.stream), "content") == "it is 42 — anna"
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_after_a_comment_a_failure_can_only_be_told_in_the_stream() -> None:
    heard = anyio.Event()

    async def gate(_: TeacherRequest) -> None:
        await heard.wait()
        raise ZeroDivisionError

    async def hear(message: Message) -> None:
        if message.get("body") == KEEP_ALIVE:
            heard.set()

    panel = Panel(teachers=[Teacher("anna", gate)], options=replace(OPTIONS, keepalive_s=0.001))
    client = Connection(request(stream=True), on_send=hear)
    await client.run(panel.app)
    [failure] = events_of(client.stream)
    assert (client.sent[0]["status"], failure["error"]["code"]) == (200, "internal_error")


async def test_a_step_is_sent_while_the_next_is_still_being_written() -> None:
    sent_first_step = anyio.Event()

    async def gate(ask: TeacherRequest) -> None:
        if "thinks 1" in ask.reasoning:
            await sent_first_step.wait()

    async def hear(message: Message) -> None:
        if b"thinks 1" in message.get("body", b""):
            sent_first_step.set()

    client = Connection(request(stream=True, model="anna"), on_send=hear)
    with anyio.fail_after(5):
        await client.run(Panel(teachers=[Teacher("anna", gate)]).app)
    assert stitched(events_of(client.stream), "content") == "it is 42 — anna"


async def test_a_client_that_reads_slowly_slows_nobody_else_down() -> None:
    searched, stuck = anyio.Event(), anyio.Event()
    panel = Panel(teachers=[Teacher("anna")], scorer=Scorer("anna"))

    async def slow(message: Message) -> None:
        stuck.set()
        await searched.wait()

    client = Connection(request(stream=True), on_send=slow)
    async with anyio.create_task_group() as group:
        group.start_soon(client.run, panel.app)
        await stuck.wait()
        while not panel.kept:  # the search goes on although nothing is being read
            await anyio.lowlevel.checkpoint()
        searched.set()
    assert isinstance(panel.kept[0][1][-1], Finished)
    assert events_of(client.stream)[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_client_that_never_reads_gives_its_place_back() -> None:
    """The connection takes nothing: the server's `send` never returns."""

    async def stuck(_: Message) -> None:
        await anyio.sleep_forever()

    options = replace(OPTIONS, limits=RequestLimits(requests=1), write_timeout_s=0.01)
    app = Panel(options=options).app
    await Connection(request(stream=True), on_send=stuck).run(app)
    client = Connection(request())
    await client.run(app)
    assert client.sent[0]["status"] == 200


async def test_a_search_whose_text_nobody_takes_is_cancelled() -> None:
    """What waits for the client is bounded, and the search behind it ends as a cancelled one."""
    aside = " and" * 400_000
    panel = Panel(teachers=[Teacher("anna", aside=aside)])

    async def stuck(_: Message) -> None:
        await anyio.sleep_forever()

    client = Connection(request(stream=True, model="anna"), on_send=stuck)
    await client.run(panel.app)
    [(_, events)] = panel.kept
    assert events[-1] == Cancelled()
