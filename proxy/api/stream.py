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
from runtime.disconnects import leaf, while_connected

Push = Callable[[bytes], None]
"""Hands a piece of the stream on; never blocks, never fails."""

KEEP_ALIVE = sse.comment("keep-alive")
DONE = sse.encode("[DONE]")


async def stream_events(
    receive: Receive,
    send: Send,
    produce: Callable[[Push], Awaitable[None]],
    headers: Mapping[str, str],
    keepalive_s: float,
    explain: Callable[[Exception], bytes],
    tail: bytes = DONE,
) -> None:
    """Send what `produce` pushes as server-sent events, then the tail.

    The status line waits for the first piece, or for `keepalive_s` seconds: a failure before that is raised, so
    that it can still have a status of its own; a later one is sent as `explain` puts it.

    Raises:
        ClientGone: the client left, and `produce` was cancelled.
        Exception: what `produce` raised before anything was sent.
    """
    tube, pieces = anyio.create_memory_object_stream[bytes | Exception](math.inf)

    async def reply() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_fill, tube, produce, tail)
            await _drain(pieces, Wire(send, headers), keepalive_s, lambda exc: explain(exc) + tail)

    with tube, pieces:
        await while_connected(receive, reply)


async def _fill(
    tube: MemoryObjectSendStream[bytes | Exception], produce: Callable[[Push], Awaitable[None]], tail: bytes
) -> None:
    """Run the producer; its end, good or bad, is the last thing in the tube."""
    try:
        await produce(tube.send_nowait)
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
    """The response as ASGI messages; the first write starts it."""

    send: Send
    headers: Mapping[str, str]
    started: bool = False

    async def write(self, body: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            await self.send({"type": "http.response.start", "status": 200, "headers": self._raw_headers})
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    @property
    def _raw_headers(self) -> list[tuple[bytes, bytes]]:
        # Proxies in between (nginx) must neither buffer the stream nor keep it.
        fixed = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        headers = {**fixed, **self.headers}
        return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
