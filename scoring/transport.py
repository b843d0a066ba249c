"""httpx over aiohttp's connections, which take a fraction of the CPU time of httpx's own.

Several requests at once cost httpcore's pool more than a millisecond each; through this they cost a third of one
(`bench/overhead.py`). Everything else of httpx stays as it is, errors included.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from yarl import URL

_IDLE_S = 5.0
"""How long an unused connection is kept; a server's own patience is often not much longer."""


class PooledTransport(httpx.AsyncBaseTransport):
    """Connections to one server, over TCP or a Unix socket, for the tasks of one event loop."""

    def __init__(self, socket: str | None = None) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its reply's body is read as it comes, as it was sent.

        Raises:
            httpx.TransportError: ConnectError, ReadError, RemoteProtocolError or a TimeoutException.
        """
        if self._session is None:
            self._session = self._opened(encrypted=request.url.scheme == "https")
        timeouts = request.extensions.get("timeout", {})
        timeout = aiohttp.ClientTimeout(None, sock_connect=timeouts.get("connect"), sock_read=timeouts.get("read"))
        content = await request.aread()
        with _translated():
            reply = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=content or None,
                allow_redirects=False,
                timeout=timeout,
            )
        stated = {"http_version": b"HTTP/1.1", "reason_phrase": (reply.reason or "").encode()}
        return httpx.Response(reply.status, headers=list(reply.raw_headers), stream=_Body(reply), extensions=stated)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self, *, encrypted: bool) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._socket is not None:
            connector = aiohttp.UnixConnector(self._socket, limit=0, keepalive_timeout=_IDLE_S)
        else:
            secure = httpx.create_ssl_context() if encrypted else True  # reading the certificates takes its time
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, ssl=secure)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
        )


class _Body(httpx.AsyncByteStream):
    """A reply's bytes as they arrive. Closed before its end, it closes the connection, which the server notices."""

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
