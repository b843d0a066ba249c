"""Replying over a connection that may close at any moment, and may have to be kept open through long silence.

A search is raced against the client's `http.disconnect`, and cancelled the moment it comes: Starlette's own
streaming response would notice only when it next has something to send. Knows nothing of what is sent.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.types import Receive, Send

from proxy import sse
from runtime.disconnects import ClientGone, leaf, while_connected

Push = Callable[[bytes], None]
"""Hands a piece of the stream on; never blocks, never fails."""

KEEP_ALIVE = sse.comment("keep-alive")
MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""What waits for a slow client at most. Far more than any reply has, unless its steps are huge."""

DONE = sse.encode("[DONE]")


async def stream_events(
    receive: Receive,
    send: Send,
    produce: Callable[[Push], Awaitable[None]],
    headers: Mapping[str, str],
    keepalive_s: float,
    explain: Callable[[Exception], bytes],
    tail: bytes = DONE,
    max_unsent_bytes: int = MAX_UNSENT_BYTES,
) -> None:
    """Send what `produce` pushes as server-sent events, then the tail.

    The status line waits for the first piece, or for `keepalive_s` seconds: a failure before that is raised, so
    that it can still have a status of its own; a later one is sent as `explain` puts it.

    Raises:
        ClientGone: the client left, or reads so slowly that `max_unsent_bytes` wait for it; `produce` was cancelled.
        Exception: what `produce` raised before anything was sent.
    """
    tube, pieces = anyio.create_memory_object_stream[bytes | Exception](math.inf)
    wire = Wire(send, headers)

    async def reply() -> None:
        pushed = 0
        async with anyio.create_task_group() as group:

            def push(piece: bytes) -> None:
                nonlocal pushed
                pushed += len(piece)
                tube.send_nowait(piece)
                if pushed - wire.taken > max_unsent_bytes:
                    group.cancel_scope.cancel()

            group.start_soon(_fill, tube, produce, tail, push)
            await _drain(pieces, wire, keepalive_s, lambda exc: explain(exc) + tail)
        if not wire.ended:
            raise ClientGone

    with tube, pieces:
        await while_connected(receive, reply)


async def _fill(
    tube: MemoryObjectSendStream[bytes | Exception],
    produce: Callable[[Push], Awaitable[None]],
    tail: bytes,
    push: Push,
) -> None:
    """Run the producer; its end, good or bad, is the last thing in the tube."""
    try:
        await produce(push)
        tube.send_nowait(tail)
    except Exception as exc:
        tube.send_nowait(leaf(exc))
    tube.close()


async def _drain(
    pieces: MemoryObjectReceiveStream[bytes | Exception],
    wire: Wire,
    keepalive_s: float,
    explain: Callable[[Exception], bytes],
) -> None:
    while True:
        piece: bytes | Exception = KEEP_ALIVE
        with anyio.move_on_after(keepalive_s):
            try:
                piece = await pieces.receive()
            except anyio.EndOfStream:
                break
        if isinstance(piece, Exception):
            if not wire.started:
                raise piece
            piece = explain(piece)
        await wire.write(piece)
    await wire.write(b"", more=False)


@dataclass(slots=True)
class Wire:
    """The response as ASGI messages; the first write starts it. `taken` bytes have been handed to the connection."""

    send: Send
    headers: Mapping[str, str]
    started: bool = False
    taken: int = 0
    ended: bool = False

    async def write(self, body: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            await self.send(
                {"type": "http.response.start", "status": 200, "headers": self._raw_headers}
            )
        await self.send({"type": "http.response.body", "body": body, "more_body": more})
        self.taken += len(body)
        self.ended = not more

    @property
    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        # Proxies in between (nginx) must neither buffer the stream nor keep it.
        fixed = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        headers = {**fixed, **self.headers}
        return [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ]
