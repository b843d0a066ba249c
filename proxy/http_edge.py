"""The edge of the server: a request's head is bounded in length and in time, before any of it is looked at.

uvicorn's parser keeps a head as long as it grows and waits for it for ever. A body is bounded in `proxy.api.body`.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0


def _refusal(status: str, message: str, code: str) -> bytes:
    error = f'{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{code}"}}'
    body = f'{{"error":{error}}}'.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


TOO_LONG = _refusal(
    "431 Request Header Fields Too Large", "the request's head is too long", "head_too_large"
)
TOO_SLOW = _refusal(
    "408 Request Timeout", "the request's head took too long to come", "request_timeout"
)


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose next request's head is too long or does not come.

    Attributes:
        max_head_bytes: of the request line and all headers.
        head_timeout_s: from the connection's start, or a head's first byte, to the head's end.
    """

    max_head_bytes = MAX_HEAD_BYTES
    head_timeout_s = HEAD_TIMEOUT_S

    _head_bytes = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > self.max_head_bytes:
            self._refuse(TOO_LONG)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:  # a later request on this connection
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._stop_timer()
        self._timer = self.loop.call_later(self.head_timeout_s, self._refuse, TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, reply: bytes) -> None:
        self._stop_timer()
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(reply)
            self.transport.close()
