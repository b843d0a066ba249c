"""`POST /v1/feedback`: a late reference answer, a rating or a comment for a reply, by its id or its request's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol, Self

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from pydantic import BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.types import Send

from proxy.api.body import JsonReply, parse_json, read_json
from proxy.api.errors import NotFound
from proxy.api.schema import Text, Wire, check
from proxy.api.traces import TraceStore


class FeedbackStore(Protocol):
    """Where feedback is kept. Adding may block."""

    def add(
        self, id: str, references: Sequence[str], rating: float | None, comment: str | None
    ) -> None: ...


class FeedbackRequest(Wire):
    """The body."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    reference: Annotated[
        list[Text],
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        Field(max_length=64),
    ] = []  # noqa: RUF012 - pydantic copies it
    rating: Annotated[float, Field(ge=0, le=1)] | None = None
    comment: Annotated[str, Field(max_length=4096)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.reference and self.rating is None and not self.comment:
            raise ValueError("feedback holds a reference, a rating or a comment")
        return self


@dataclass(frozen=True, slots=True)
class FeedbackEndpoint:
    """Keeps feedback to a reply that has left a trace. The same sent twice counts once."""

    traces: TraceStore | None
    store: FeedbackStore | None
    max_body_bytes: int
    one_at_a_time: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))

    async def __call__(self, request: Request, id: str, send: Send) -> None:
        """Answer with the id that the feedback is kept under.

        Raises:
            RequestError: the body is not as it must be.
            NotFound: there is no trace of this id, or none are kept.
        """
        asked = check(parse_json(await read_json(request, self.max_body_bytes)), FeedbackRequest)
        traces, store = self.traces, self.store
        if traces is None or store is None:
            raise NotFound("no traces are kept, so there is nothing that feedback could belong to")

        def keep() -> str | None:
            line = traces.find(asked.id)
            if line is None:
                return None
            own = str(json.loads(line)["id"])
            store.add(own, asked.reference, asked.rating, asked.comment)
            return own

        own = await run_sync(keep, limiter=self.one_at_a_time)
        if own is None:
            raise NotFound(f"there is no trace {asked.id!r}")
        reply = JsonReply({"object": "feedback", "id": own}, headers={"x-request-id": id})
        await reply(request.scope, request.receive, send)
