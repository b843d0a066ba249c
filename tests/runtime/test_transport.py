"""httpx over aiohttp: what httpx promises, on real sockets."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from runtime.transport import PooledTransport

pytestmark = pytest.mark.anyio

Script = Callable[[SocketStream], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: 1\r\nX-One: 2\r\n\r\nhi"


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    """A TCP server that reads a request's head and then does as scripted; its URL."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                try:
                    head += await stream.receive()
                except anyio.EndOfStream:
                    return
            await script(stream)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


@asynccontextmanager
async def client(url: str, **options: object) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=PooledTransport(), base_url=url, **options) as made:  # type: ignore[arg-type]
        yield made


async def test_a_reply_comes_as_it_was_sent() -> None:
    packed = gzip.compress(b"four")

    async def script(stream: SocketStream) -> None:
        head = "HTTP/1.1 203 Fine\r\nContent-Encoding: gzip\r\nX-A: 1\r\nX-A: 2\r\n"
        head += f"Content-Length: {len(packed)}\r\n\r\n"
        await stream.send(head.encode() + packed)

    async with (
        server(script) as url,
        client(url) as http,
        http.stream("POST", "/x", content=b"body") as reply,
    ):
        assert b"".join([chunk async for chunk in reply.aiter_raw()]) == packed
        assert (reply.status_code, reply.reason_phrase) == (203, "Fine")
        assert reply.headers.get_list("x-a") == ["1", "2"]


async def test_chunks_arrive_before_the_next_is_sent() -> None:
    seen = anyio.Event()

    async def script(stream: SocketStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await seen.wait()
        await stream.send(b"3\r\ntwo\r\n0\r\n\r\n")

    async with server(script) as url, client(url) as http, http.stream("GET", "/") as reply:
        chunks = reply.aiter_raw()
        assert await anext(chunks) == b"one"
        seen.set()
        assert await anext(chunks) == b"two"


async def test_more_requests_at_once_than_aiohttp_allows_by_itself() -> None:
    arrived, go = 0, anyio.Event()

    async def script(stream: SocketStream) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 120:
            go.set()
        await go.wait()
        await stream.send(OK)

    async with server(script) as url, client(url) as http, anyio.create_task_group() as group:
        for _ in range(120):
            group.start_soon(http.get, "/")
    assert arrived == 120


async def test_a_unix_socket(tmp_path: Path) -> None:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(OK)

    path = tmp_path / "s"
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, handle)
        async with httpx.AsyncClient(
            transport=PooledTransport(str(path)), base_url="http://s"
        ) as http:
            assert (await http.get("/")).text == "hi"
        group.cancel_scope.cancel()


async def ends(stream: SocketStream) -> None:
    """Closes the connection without a word."""


async def cuts(stream: SocketStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour")


async def breaks(stream: SocketStream) -> None:
    await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\nzz")


async def babbles(stream: SocketStream) -> None:
    await stream.send(b"nothing that is HTTP\r\n\r\n")


async def waits(stream: SocketStream) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (ends, httpx.ReadError), (cuts, httpx.RemoteProtocolError), (breaks, httpx.RemoteProtocolError),
        (babbles, httpx.RemoteProtocolError), (waits, httpx.ReadTimeout),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_httpx_s_error(script: Script, error: type[Exception]) -> None:
    async with server(script) as url, client(url, timeout=httpx.Timeout(0.2, connect=5)) as http:
        with pytest.raises(error):
            await http.get("/")


async def test_nobody_listens() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    async with client(f"http://127.0.0.1:{port}") as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/")


@pytest.mark.parametrize("begun", [True, False])
async def test_who_leaves_closes_the_connection(begun: bool) -> None:
    asked, left = anyio.Event(), anyio.Event()

    async def script(stream: SocketStream) -> None:
        if begun:
            await stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        asked.set()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
        left.set()

    async def ask(http: httpx.AsyncClient) -> None:
        await http.get("/")

    async with server(script) as url, client(url) as http:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, http)
            await asked.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await left.wait()


class KeepAlive:
    """A server that announces keep-alive and then closes a connection that has served a reply, as
    llama.cpp's does.

    Whoever asks once more on such a connection is read to the end of the request and told
    `parting`, or nothing.
    """

    def __init__(
        self, parting: bytes = b"", *, closes_at_once: bool = False, waits_for: int = 1
    ) -> None:
        self.bodies: list[bytes] = []
        self.connections = 0
        self.never_answers = False
        self._parting = parting
        self._closes_at_once = closes_at_once
        self._waits_for = waits_for
        self._all_here = anyio.Event()

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        async with stream:
            served = False
            while (body := await _request(stream)) is not None:
                self.bodies.append(body)
                if served or self.never_answers:
                    if self._parting:
                        await stream.send(self._parting)
                    return
                if self.connections >= self._waits_for:
                    self._all_here.set()
                await self._all_here.wait()
                head = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n"
                await stream.send(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
                served = True
                if self._closes_at_once:
                    return


async def _request(stream: SocketStream) -> bytes | None:
    """The body of the next request; None where the client has left."""
    received = b""
    try:
        while b"\r\n\r\n" not in received:
            received += await stream.receive()
        head, _, body = received.partition(b"\r\n\r\n")
        _, _, stated = head.lower().partition(b"content-length:")
        while len(body) < int(stated.partition(b"\r\n")[0] or 0):
            body += await stream.receive()
    except anyio.EndOfStream:
        return None
    return body


@asynccontextmanager
async def listening(server: KeepAlive) -> AsyncIterator[str]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, server.serve)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.cancel_scope.cancel()


async def test_call_is_sent_again_when_kept_connection_closes_before_reply() -> None:
    server = KeepAlive()
    async with listening(server) as url, client(url) as http:
        replies = [(await http.post("/", content=f"call {i}")).text for i in range(5)]
    assert replies == ["hi"] * 5
    assert server.bodies == [
        b"call 0",
        b"call 1",
        b"call 1",
        b"call 2",
        b"call 3",
        b"call 3",
        b"call 4",
    ]


async def test_server_that_closes_after_every_reply_loses_no_call() -> None:
    server = KeepAlive(closes_at_once=True)
    async with listening(server) as url, client(url) as http:
        assert [(await http.post("/", content=b"x" * 100_000)).text for _ in range(40)] == [
            "hi"
        ] * 40


async def test_call_is_sent_again_on_new_connection_however_many_are_kept() -> None:
    server = KeepAlive(waits_for=3)
    async with listening(server) as url, client(url) as http:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(http.post, "/")
        assert (await http.post("/", content=b"more")).text == "hi"
    assert server.bodies == [b"", b"", b"", b"more", b"more"] and server.connections == 4


@pytest.mark.parametrize(
    ("first", "parting", "sent"),
    [("answered", b"HTTP/1.1 200", 1), ("answered", b"", 2), ("refused", b"", 1)],
    ids=["a byte came back", "the second call fails too", "the connection was new"],
)
async def test_call_is_sent_again_only_once_and_only_where_safe(
    first: str, parting: bytes, sent: int
) -> None:
    server = KeepAlive(parting)
    async with listening(server) as url, client(url) as http:
        if first == "answered":
            await http.post("/", content=b"first")
        server.never_answers = True
        with pytest.raises(httpx.TransportError):
            await http.post("/", content=b"second")
    assert server.bodies.count(b"second") == sent


async def test_credentials_in_a_url_become_a_header() -> None:
    heads: list[bytes] = []

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):

        async def handle(stream: SocketStream) -> None:
            async with stream:
                heads.append(await stream.receive())
                await stream.send(OK)

        group.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)
        async with client(f"http://me:secret@127.0.0.1:{port}") as http:
            assert (await http.get("/")).text == "hi"
        group.cancel_scope.cancel()
    assert b"Basic bWU6c2VjcmV0" in heads[0]
