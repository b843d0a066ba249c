"""Searches watched while they run: `GET /v1/cord/searches/{id}/events`, and which there are to watch.

`LiveSearches` listens to every search as the metrics do and keeps the events it hears. A viewer has no buffer: it
reads those events by index, as fast as its own connection takes them, and so can neither slow a search nor miss
anything. Finished searches are kept for a while, within bounds; after that their trace is the source.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from starlette.requests import Request
from starlette.types import Send

from proxy import sse
from proxy.api.body import JsonReply, to_json
from proxy.api.errors import NotFound
from proxy.api.event_json import event_json
from proxy.api.stream import KEEP_ALIVE, Wire
from proxy.decoder.events import Cancelled, Failed, Finished
from proxy.decoder.journal import Listener, Stamped
from proxy.errors import RequestError
from proxy.service import Job
from runtime.disconnects import while_connected

_FRAME_EVENTS = 64
_MAX_WAIT_S = 60.0


@dataclass(slots=True)
class LiveSearch:
    """One search's events so far, and the viewers that wait for more."""

    job: Job
    began: float
    events: list[Stamped] = field(default_factory=list)
    ended: float | None = None
    waiting: set[anyio.Event] = field(default_factory=set)

    @property
    def id(self) -> str:
        return self.job.problem.id

    @property
    def request_id(self) -> str | None:
        """The `x-request-id` the client sent, or was given."""
        return self.job.metadata.get("request_id")

    def wake(self) -> None:
        """Tell those who wait that there is more."""
        for event in self.waiting:
            event.set()

    async def more(self) -> None:
        """Wait until there is more."""
        event = anyio.Event()
        self.waiting.add(event)
        try:
            await event.wait()
        finally:
            self.waiting.discard(event)


@dataclass(slots=True)
class LiveSearches:
    """The searches that run, and the last of those that ended.

    Attributes:
        kept: ended searches to remember at most.
        kept_events: their events to remember at most.
        kept_s: seconds after which an ended search is forgotten.
        clock: seconds, monotonic.
    """

    kept: int = 64
    kept_events: int = 200_000
    kept_s: float = 900.0
    clock: Callable[[], float] = time.monotonic
    _searches: dict[str, LiveSearch] = field(default_factory=dict)  # by id, oldest first
    _begun: anyio.Event = field(default_factory=anyio.Event)

    def watch(self, job: Job) -> Listener:
        """Listen to one search; fits `proxy.service.Watcher`."""
        search = LiveSearch(job, self.clock())
        self._searches[search.id] = search
        self._begun.set()
        self._begun = anyio.Event()
        self._forget()

        def hear(stamped: Stamped) -> None:
            search.events.append(stamped)
            if isinstance(stamped.event, (Finished, Failed, Cancelled)):
                search.ended = self.clock()
            search.wake()

        return hear

    def all(self) -> list[LiveSearch]:
        """Those there are, newest first."""
        self._forget()
        return list(reversed(self._searches.values()))

    def find(self, id: str) -> LiveSearch | None:
        """By the id of its reply or trace, else the newest by its request id."""
        self._forget()
        return self._searches.get(id) or next(
            (found for found in self.all() if found.request_id == id), None
        )

    async def find_within(self, id: str, wait_s: float) -> LiveSearch:
        """Find a search, granting it some time to begin.

        Raises:
            NotFound: there is none.
        """
        with anyio.move_on_after(wait_s):
            while (found := self.find(id)) is None:
                await self._begun.wait()
        if found is None:
            raise NotFound(
                f"no search {id[:256]!r} is running or has just ended; an older one may have left a trace"
            )
        return found

    def _forget(self) -> None:
        """Drop ended searches beyond the bounds, oldest first."""
        ended = [search for search in self._searches.values() if search.ended is not None]
        events = sum(len(search.events) for search in ended)
        for position, search in enumerate(ended):
            left = len(ended) - position
            old = self.clock() - (search.ended or 0.0) > self.kept_s
            if left > self.kept or events > self.kept_events or old:
                del self._searches[search.id]
                events -= len(search.events)


@dataclass(frozen=True, slots=True)
class Events:
    """The endpoint that streams one search's events."""

    searches: LiveSearches
    keepalive_s: float

    async def __call__(self, request: Request, id: str, send: Send) -> None:
        """Stream from the event after the last one the viewer has.

        Raises:
            NotFound: no such search.
            RequestError: what the viewer says it has, or how long it would wait, is no such thing.
            ClientGone: the viewer left; the search goes on.
        """
        start = _after(request)
        wait_s = _number(request.query_params.get("wait_s", "0"), "wait_s", _MAX_WAIT_S)

        async def reply() -> None:
            search = await self.searches.find_within(request.path_params["id"], wait_s)
            if search.ended is not None and start >= len(search.events):
                # The one status that tells an `EventSource` not to come again.
                headers = [(b"x-request-id", id.encode("latin-1"))]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            wire = Wire(send, {"x-request-id": id, "x-cord-search-id": search.id})
            async for frame in self._frames(search, start):
                await wire.write(frame)
            await wire.write(b"", more=False)

        await while_connected(request.receive, reply)

    async def _frames(self, search: LiveSearch, index: int) -> AsyncIterator[bytes]:
        yield KEEP_ALIVE  # the viewer is connected, whether or not there is anything to see yet
        while True:
            batch = search.events[index : index + _FRAME_EVENTS]
            if batch:
                yield b"".join(
                    _frame(search, index + i, stamped) for i, stamped in enumerate(batch)
                )
                index += len(batch)
            elif search.ended is not None:
                return
            else:
                with anyio.move_on_after(self.keepalive_s) as scope:
                    await search.more()
                if scope.cancelled_caught:
                    yield KEEP_ALIVE


@dataclass(frozen=True, slots=True)
class Searches:
    """The endpoint that lists what can be watched."""

    searches: LiveSearches

    async def __call__(self, request: Request, id: str, send: Send) -> None:
        data = [_entry(search, self.searches.clock()) for search in self.searches.all()]
        reply = JsonReply({"object": "list", "data": data}, headers={"x-request-id": id})
        await reply(request.scope, request.receive, send)


def _entry(search: LiveSearch, now: float) -> dict[str, Any]:
    return {
        "id": search.id,
        "request_id": search.request_id,
        "model": search.job.ensemble.name,
        "running": search.ended is None,
        "seconds": round((now if search.ended is None else search.ended) - search.began, 3),
        "events": len(search.events),
    }


def _frame(search: LiveSearch, index: int, stamped: Stamped) -> bytes:
    told = event_json(stamped)
    if told["type"] == "started":
        told |= {
            "model": search.job.ensemble.name,
            "request_id": search.request_id,
            "time": search.job.received,
        }
    return sse.encode(to_json(told), id=str(index))


def _after(request: Request) -> int:
    """The index of the first event the viewer does not have."""
    last = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    return 0 if last is None else int(_number(last, "last_event_id", 2**53)) + 1


def _number(text: str, name: str, limit: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= limit:
        raise RequestError(
            f"{name} is a number from 0 to {limit:g}", param=name, code="invalid_value"
        )
    return number
