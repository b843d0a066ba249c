"""What one path's requests and replies look like. What happens in between is the same for all (`proxy.api.decoded`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.api.errors import ErrorReply
from proxy.api.schema import ChatRequest
from proxy.api.stream import DONE, Push
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary
from proxy.decoder.types import Result
from proxy.service import Ensemble, Job


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a chat, and whatever else its reply repeats or needs, in the path's own terms."""

    chat: ChatRequest
    own: Any = None


class Stream(Protocol):
    """A reply on its way: turns events into frames as they come, and pushes them."""

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        ...

    def finish(self, result: Result, summary: Summary, request_id: str) -> None:
        """Push what comes last."""
        ...

    def failure(self, reply: ErrorReply) -> bytes:
        """How a failure is told once something was sent."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One path.

    Attributes:
        path: below /v1/.
        read: a body as a request; raises `RequestError`.
        needs_one: the first field of a body that several teachers cannot honour together; None if there is none.
        whole: the reply at once, from job, request, result, summary, request id, and whether reasoning goes inline.
        stream: the reply as it comes, from job, request, whether reasoning goes inline, and where it is pushed.
        tail: what a stream ends with.
    """

    path: str
    read: Callable[[bytes], Asked]
    needs_one: Callable[[Mapping[str, Any], Ensemble], str | None]
    whole: Callable[[Job, Asked, Result, Summary, str, bool], dict[str, Any]]
    stream: Callable[[Job, Asked, bool, Push], Stream]
    tail: bytes = DONE
