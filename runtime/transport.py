"""httpx over aiohttp's connections, which take a fraction of the CPU time of httpx's own.

Several requests at once cost httpcore's pool more than a millisecond each; through this they cost a
third of one (`bench/overhead.py`). Everything else of httpx stays as it is, errors included.

Some servers announce keep-alive and close the connection all the same (llama.cpp's does so after
each streamed reply). So a call that fails on a kept connection before a byte of its reply has come
is sent once more, on a new one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
from yarl import URL

_IDLE_S = 5.0
"""How long an unused connection is kept; a server's own patience is often not much longer."""


_GONE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""How a connection fails that its server has closed."""


@dataclass(slots=True)
class _Attempt:
    """One sending of a request: `reused` is whether it went over a connection that had served
    another before."""

    reused: bool = False


class PooledTransport(httpx.AsyncBaseTransport):
    """Connections to one server, over TCP or a Unix socket, for the tasks of one event loop."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its reply's body is read as it comes, as it was sent.

        Raises:
            httpx.TransportError: ConnectError, ReadError, RemoteProtocolError or a
            TimeoutException.
        """
        content = await request.aread()
        with _translated():
            reply = await self._sent(request, content)
        stated = {"http_version": b"HTTP/1.1", "reason_phrase": (reply.reason or "").encode()}
        return httpx.Response(
            reply.status, headers=list(reply.raw_headers), stream=_Body(reply), extensions=stated
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for session in (self._session, self._unpooled):
            if session is not None:
                await session.close()

    async def _sent(self, request: httpx.Request, content: bytes) -> aiohttp.ClientResponse:
        """The reply's head; asked for again where the server had closed the connection before it
        read the request."""
        encrypted = request.url.scheme == "https"
        if self._session is None:
            self._session = self._opened(encrypted)
        attempt = _Attempt()
        try:
            return await _send(self._session, request, content, attempt)
        except _GONE as exc:
            if not attempt.reused or _had_begun(exc):
                raise
        if self._unpooled is None:
            self._unpooled = self._opened(encrypted, pooled=False)
        return await _send(self._unpooled, request, content, _Attempt())

    def _opened(self, encrypted: bool, *, pooled: bool = True) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        kept: dict[str, Any] = {"keepalive_timeout": _IDLE_S} if pooled else {"force_close": True}
        if self._socket is not None:
            connector = aiohttp.UnixConnector(self._socket, limit=0, **kept)
        else:
            secure = (
                httpx.create_ssl_context() if encrypted else True
            )  # reading the certificates takes its time
            connector = aiohttp.TCPConnector(limit=0, ssl=secure, **kept)
        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
            trace_configs=[reuse] if pooled else [],
        )


async def _send(
    session: aiohttp.ClientSession, request: httpx.Request, content: bytes, attempt: _Attempt
) -> aiohttp.ClientResponse:
    timeouts = request.extensions.get("timeout", {})
    url = request.url
    if url.userinfo:  # httpx has made a header of it
        url = url.copy_with(username=None, password=None)
    return await session.request(
        request.method,
        URL(str(url), encoded=True),
        headers=request.headers.multi_items(),
        data=content or None,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(
            None, sock_connect=timeouts.get("connect"), sock_read=timeouts.get("read")
        ),
        trace_request_ctx=attempt,
    )


async def _note_reuse(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceConnectionReuseconnParams
) -> None:
    context.trace_request_ctx.reused = True


def _had_begun(exc: aiohttp.ClientError) -> bool:
    """Whether the reply had begun when the connection was lost."""
    return isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str)


class _Body(httpx.AsyncByteStream):
    """A reply's bytes as they arrive. Closed before its end, it closes the connection, which the
    server notices."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated():
            async for chunk in self._reply.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        self._reply.close()


@contextmanager
def _translated() -> Iterator[None]:
    """aiohttp's errors as httpx's."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as exc:
        raise httpx.ConnectTimeout(str(exc)) from exc
    except aiohttp.ServerTimeoutError as exc:
        raise httpx.ReadTimeout(str(exc)) from exc
    except aiohttp.ClientConnectorError as exc:
        raise httpx.ConnectError(str(exc)) from exc
    except aiohttp.ClientConnectionError as exc:
        raise httpx.ReadError(str(exc)) from exc
    except aiohttp.ClientError as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
