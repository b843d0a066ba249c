"""Reaching the scoring service, over a Unix socket or TCP.

The service keeps no state for its callers, so a call that met a dying or restarting service is
simply made again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Self

import anyio
import httpx

from runtime.transport import PooledTransport
from scoring import replies
from scoring.errors import BadScoreReply, BadScoreRequest, ScorerUnavailable
from scoring.types import ScoreReply, ScoreRequest

__all__ = ["BadScoreReply", "BadScoreRequest", "ScorerClient", "ScorerUnavailable"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class ScorerClient:
    """One connection pool to one scoring service; share it between tasks of one event loop."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 120.0,
        retry_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`address` is a URL or the path of a Unix socket; `retry_s` bounds how long a lost service
        is sought."""
        over_tcp = address.startswith(("http://", "https://"))
        self._client = httpx.AsyncClient(
            transport=transport or PooledTransport(None if over_tcp else address),
            base_url=address if over_tcp else "http://scorer",
            timeout=timeout_s,
        )
        self._retry_s = retry_s

    async def score(self, request: ScoreRequest) -> ScoreReply:
        """Score one request.

        Raises:
            BadScoreRequest: it can never be scored as it is.
            ScorerUnavailable: nobody answered in time.
            BadScoreReply: the answer cannot be right, and is not accepted.
        """
        deadline = anyio.current_time() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._asked(request)
            except BadScoreReply:
                raise
            except (httpx.TransportError, ScorerUnavailable) as exc:
                if (
                    isinstance(exc, httpx.TimeoutException)
                    or anyio.current_time() + pause_s > deadline
                ):
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

    async def _asked(self, request: ScoreRequest) -> ScoreReply:
        headers = {"accept-encoding": "identity"}
        async with self._client.stream(
            "POST", "/score", json=asdict(request), headers=headers
        ) as reply:
            if reply.status_code == 200:
                return await replies.read(reply.aiter_raw(), request)
            await reply.aread()
        raise _failure(reply)


def _failure(reply: httpx.Response) -> BadScoreRequest | ScorerUnavailable:
    try:
        error = reply.json()["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        return ScorerUnavailable(f"HTTP {reply.status_code}")
    if reply.status_code == 400:
        return BadScoreRequest(message, param=error.get("param"), code=error.get("code"))
    return ScorerUnavailable(message)
