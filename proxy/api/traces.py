"""Stored traces over HTTP: `GET /v1/cord/traces`, a page of a filtered list, and `GET /v1/cord/traces/{id}`.

Reading files takes a while, so it is done in a thread, one request at a time: listing must not starve searches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from proxy.api.body import JsonReply
from proxy.api.errors import NotFound
from proxy.errors import RequestError
from proxy.trace.query import MAX_LIMIT, TracePage, TraceQuery

T = TypeVar("T")

_NAMES = tuple(spec.name for spec in fields(TraceQuery))


class TraceStore(Protocol):
    """Where traces are kept. Both methods may block."""

    def page(self, query: TraceQuery) -> TracePage: ...

    def find(self, id: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Traces:
    """The two endpoints; without a store they say that no traces are kept."""

    store: TraceStore | None
    one_at_a_time: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    async def list(self, request: Request, id: str, send: Send) -> None:
        """Answer with a page of the list.

        Raises:
            RequestError: a filter cannot be read.
            NotFound: no traces are kept.
        """
        query = read_query(request.query_params)
        store = self._kept()
        page = await self._in_thread(lambda: store.page(query))
        body = {
            "object": "list",
            "data": [asdict(entry) for entry in page.entries],
            "next": page.next,
            "skipped": page.skipped,
        }
        await JsonReply(body, headers={"x-request-id": id})(request.scope, request.receive, send)

    async def one(self, request: Request, id: str, send: Send) -> None:
        """Answer with a trace as it is stored.

        Raises:
            NotFound: there is none of this id.
        """
        wanted, store = request.path_params["id"], self._kept()
        line = await self._in_thread(lambda: store.find(wanted))
        if line is None:
            raise NotFound(f"there is no trace {wanted[:256]!r}")
        reply = Response(line, media_type="application/json", headers={"x-request-id": id})
        await reply(request.scope, request.receive, send)

    def _kept(self) -> TraceStore:
        if self.store is None:
            raise NotFound("no traces are kept: traces.folder is null in the configuration")
        return self.store

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await run_sync(work, limiter=self.one_at_a_time)


def read_query(params: QueryParams) -> TraceQuery:
    """A query string as a query.

    Raises:
        RequestError: a name is unknown, or a value is not of its kind.
    """
    for name in params:
        if name not in _NAMES:
            message = f"unknown filter {name[:256]!r}; known are {', '.join(_NAMES)}"
            raise RequestError(message, param=name[:256], code="unknown_parameter")
    given = {name: value for name, value in params.items() if value}
    limit = given.get("limit", "50")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MAX_LIMIT:
        raise RequestError(
            f"limit is a whole number from 1 to {MAX_LIMIT}", param="limit", code="invalid_value"
        )
    return TraceQuery(
        since=_moment("since", given.get("since")),
        until=_moment("until", given.get("until")),
        model=given.get("model"),
        outcome=given.get("outcome"),
        teacher=given.get("teacher"),
        source=given.get("source"),
        min_value=_number("min_value", given.get("min_value")),
        max_value=_number("max_value", given.get("max_value")),
        text=given.get("text"),
        limit=int(limit),
        cursor=given.get("cursor"),
    )


def _number(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as exc:
        raise RequestError(f"{name} is a number", param=name, code="invalid_value") from exc


def _moment(name: str, text: str | None) -> float | None:
    """Seconds since the epoch, of a time as ISO 8601 has it; UTC where it names no zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        message = f"{name} is a time such as 2026-01-31 or 2026-01-31T12:00:00Z"
        raise RequestError(message, param=name, code="invalid_value") from exc
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
