"""Reaching the scoring service, over a Unix socket or TCP.

The service keeps no state for its callers, so a call that met a dying or restarting service is simply made again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Self

import anyio
import httpx
from pydantic import TypeAdapter

from runtime.transport import PooledTransport
from scoring.errors import BadScoreRequest, ScorerUnavailable
from scoring.types import ScoreReply, ScoreRequest

__all__ = ["BadScoreRequest", "ScorerClient", "ScorerUnavailable"]

_REPLY = TypeAdapter(ScoreReply)
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class ScorerClient:
    """One connection pool to one scoring service; share it between tasks of one event loop."""

    def __init__(self, address: str, *, timeout_s: float = 120.0, retry_s: float = 30.0) -> None:
        """`address` is a URL or the path of a Unix socket; `retry_s` bounds how long a lost service is sought."""
        over_tcp = address.startswith(("http://", "https://"))
        transport = PooledTransport(None if over_tcp else address)
        base_url = address if over_tcp else "http://scorer"
        self._client = httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout_s)
        self._retry_s = retry_s

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Score one request.

        Raises:
            BadScoreRequest: it can never be scored as it is.
            ScorerUnavailable: nobody answered in time.
        """
        deadline = anyio.current_time() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._read(await self._client.post("/score", json=asdict(request)))
            except (httpx.TransportError, ScorerUnavailable) as exc:
                if isinstance(exc, httpx.TimeoutException) or anyio.current_time() + pause_s > deadline:
                    raise ScorerUnavailable(f"{type(exc).__name__}: {exc}") from exc
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @staticmethod
    def _read(reply: httpx.Response) -> ScoreReply:
        if reply.status_code == 200:
            return _REPLY.validate_json(reply.content)
        try:
            error = reply.json()["error"]
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            raise ScorerUnavailable(f"HTTP {reply.status_code}") from None
        if reply.status_code == 400:
            raise BadScoreRequest(message, param=error["param"], code=error["code"])
        raise ScorerUnavailable(message)
