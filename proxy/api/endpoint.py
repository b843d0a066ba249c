"""What one path's requests and replies look like. What happens in between is the same for all (`proxy.api.decoded`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.api.errors import ErrorReply
from proxy.api.plan import Wish
from proxy.api.schema import ChatRequest
from proxy.api.stream import Push
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary
from proxy.decoder.types import Result
from proxy.service import Job


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that is decoded, and how its reply is to look: with `inline`, the reasoning goes into the content."""

    job: Job
    request_id: str
    inline: bool


class ReplyStream(Protocol):
    """A reply on its way: turns events into frames as they come, and pushes them."""

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        ...

    def finish(self, result: Result, summary: Summary) -> None:
        """Push what comes last."""
        ...

    def failure(self, reply: ErrorReply) -> bytes:
        """How a failure is told once something was sent."""
        ...


class ParsedRequest(Protocol):
    """A checked request, which knows how its reply looks."""

    @property
    def chat(self) -> ChatRequest:
        """The same request as a chat."""
        ...

    def reply(self, exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
        """The reply at once."""
        ...

    def stream(self, exchange: Exchange, push: Push) -> ReplyStream:
        """The reply as it comes."""
        ...


class Endpoint(Protocol):
    """One path below /v1/. `tail` is what its streams end with."""

    @property
    def path(self) -> str: ...

    @property
    def tail(self) -> bytes: ...

    def wishes(self, fields: Mapping[str, Any]) -> list[Wish]:
        """What a body asks for beyond one text, read before its fields are checked."""
        ...

    def parse(self, fields: Mapping[str, Any]) -> ParsedRequest:
        """A body, checked; raises `RequestError`, which names the field."""
        ...
