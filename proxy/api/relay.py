"""Relays a request to one teacher's own server: the body unchanged, the reply byte by byte.

For requests that name a single teacher, for paths that are not decoded together, and for what several teachers
cannot write together (tools, images, JSON schemas, …), which goes to one of the ensemble and is told in a header.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.requests import Request
from starlette.types import Send

from proxy import sse
from proxy.api.admission import Admission, held_while_connected
from proxy.api.auth import caller_of
from proxy.api.body import to_json
from proxy.api.errors import ErrorReply, UpstreamFailed, describe
from proxy.api.limits import Cost
from proxy.api.plan import Relay
from runtime.disconnects import while_connected

log = logging.getLogger(__name__)

_KEPT_BACK = frozenset(
    {"host", "authorization", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "upgrade",
     "proxy-authorization", "proxy-connection", "expect", "x-request-id",
     "cookie", "x-api-key", "api-key", "forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip"}
)  # fmt: skip
"""Request headers that are between the client and us. The key is the teacher's own, which its client carries."""

_FORWARDING = ("x-forwarded-", "x-envoy-", "x-original-")
"""What proxies before us tell of the client."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "server", "date"}
)

RELAYED = ("embeddings",)
"""Paths that are answered by single models only."""

Told = Callable[[str, str, str, float], None]
"""Is told every relayed request: teacher, path, outcome and seconds."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A teacher's own server. `model` is its name there, `paths` what it answers below its base URL."""

    name: str
    model: str
    client: httpx.AsyncClient
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class Received:
    """A request's body, as bytes and as the fields of a JSON object."""

    body: bytes
    fields: Mapping[str, Any]

    def for_server(self, model: str) -> bytes:
        """The body for a teacher's server, which has its own name for the model and does not know `cord`."""
        if self.fields["model"] == model and "cord" not in self.fields:
            return self.body
        fields = {name: value for name, value in self.fields.items() if name != "cord"}
        return to_json({**fields, "model": model}).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Forwarder:
    """Passes requests on to the teachers' own servers."""

    upstreams: Mapping[str, Upstream]
    admission: Admission
    told: Told

    async def pass_on(
        self, to: Relay, path: str, received: Received, request: Request, id: str, send: Send
    ) -> None:
        """Pass a request on and its reply back, until either side closes.

        Raises:
            UpstreamFailed: the teacher's server could not be reached; nothing was sent.
            ClientGone: the client left; the teacher's connection was closed.
        """
        upstream = self.upstreams[to.model]
        kept = {name: value for name, value in request.headers.items() if _goes_on(name)}
        # What the client does not say, httpx would: a reply must not be compressed for one who did not ask for it.
        headers = {"accept-encoding": "identity", **kept, "x-request-id": id}
        sent = upstream.client.build_request(
            "POST", path, content=received.for_server(upstream.model), headers=headers
        )
        own = {"x-request-id": id, "x-cord-relayed": upstream.name}
        if to.why is not None:
            own["x-cord-relayed-for"] = to.why
        began = time.monotonic()
        outcome = "cancelled"

        async def exchange() -> None:
            nonlocal outcome
            try:
                reply = await upstream.client.send(sent, stream=True)
            except httpx.HTTPError as exc:
                outcome = "unreachable"
                raise UpstreamFailed(f"{upstream.name}: {type(exc).__name__}: {exc}") from exc
            try:
                outcome = f"{reply.status_code // 100}xx"
                await send(
                    {
                        "type": "http.response.start",
                        "status": reply.status_code,
                        "headers": _headers(reply, own),
                    }
                )
                await _pass_back(reply, send, id)
            finally:
                await reply.aclose()

        place = self.admission.place(Cost(), caller_of(request))
        async with held_while_connected(request.receive, place):
            try:
                await while_connected(request.receive, exchange)
            finally:
                self.told(upstream.name, path, outcome, time.monotonic() - began)


def _goes_on(header: str) -> bool:
    """Whether a request header is the teacher's business."""
    return header not in _KEPT_BACK and not header.startswith(_FORWARDING)


async def _pass_back(reply: httpx.Response, send: Send, id: str) -> None:
    """The bytes of a reply as they come. One that breaks off is told as an error where it is a stream of events."""
    try:
        async for chunk in reply.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError as exc:
        log.warning("request %s: the teacher's reply broke off: %s", id, exc)
        told: ErrorReply = describe(UpstreamFailed(f"the reply broke off: {type(exc).__name__}"))
        events = reply.headers.get("content-type", "").startswith("text/event-stream")
        tail = told.frame + sse.encode("[DONE]") if events else b""
        await send({"type": "http.response.body", "body": tail, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(reply: httpx.Response, own: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    kept = [
        (name, value)
        for name, value in reply.headers.raw
        if name.decode().lower() not in {*_HOP_BY_HOP, *own}
    ]
    return kept + [
        (name.encode(), value.encode("latin-1", "replace")) for name, value in own.items()
    ]
