"""Straight through to one teacher's own server: the body as it came, the reply byte by byte.

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
from pydantic_core import from_json
from starlette.requests import Request
from starlette.types import Send

from proxy import sse
from proxy.api.admission import Admission
from proxy.api.body import read_json, to_json
from proxy.api.errors import ErrorReply, UpstreamFailed, describe
from proxy.errors import RequestError, UnknownModel
from proxy.service import Ensemble
from runtime.disconnects import while_connected

log = logging.getLogger(__name__)

_KEPT_BACK = frozenset(
    {"host", "authorization", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "upgrade",
     "proxy-authorization", "proxy-connection", "expect", "x-request-id"}
)  # fmt: skip
"""Request headers that are between the client and us. The key is the teacher's own, which its client carries."""

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "server", "date"})

RELAYED = ("embeddings",)
"""Paths that are answered by single models only."""

NeedsOne = Callable[[Mapping[str, Any], Ensemble], str | None]
"""The field of a request that these teachers cannot honour together; None if there is none."""

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
class Handover:
    """A request's body on its way to one teacher, in whose words it names the model.

    `why` is the field that kept it from being decoded together, if one did.
    """

    upstream: Upstream
    body: bytes
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Relay:
    """The teachers that can be asked directly, and how they are."""

    upstreams: Mapping[str, Upstream]
    admission: Admission
    max_body_bytes: int
    told: Told

    def handover(
        self, body: bytes, path: str, ensembles: Mapping[str, Ensemble], needs_one: NeedsOne
    ) -> Handover | None:
        """Whom a request goes to; none if it is to be decoded, or is nothing that can be read.

        What says how to search (`cord`) is decoded, and then refused where it cannot be.
        """
        asked = _fields(body)
        if asked is None or asked.get("cord") is not None or not isinstance(asked.get("model"), str):
            return None
        name = asked["model"]
        if self._answers(name, path):
            return _handover(self.upstreams[name], body, asked)
        ensemble = ensembles.get(name)
        if ensemble is None or (why := needs_one(asked, ensemble)) is None:
            return None
        names = [ensemble.settings.answerer, *(teacher.name for teacher in ensemble.panel)]
        able = (name for name in names if name and self._answers(name, path))
        chosen = next(able, None)
        return None if chosen is None else _handover(self.upstreams[chosen], body, asked, why)

    def endpoint(self, path: str) -> Callable[[Request, str, Send], Any]:
        """An endpoint that is relayed and nothing else."""

        async def answer(request: Request, id: str, send: Send) -> None:
            body = await read_json(request, self.max_body_bytes)
            asked = _fields(body)
            if asked is None:
                raise RequestError("the body is not a JSON object", code="invalid_json")
            name = asked.get("model")
            if not isinstance(name, str):
                raise RequestError("model is missing or not a name", param="model", code="missing_required_parameter")
            if not self._answers(name, path):
                able = ", ".join(name for name in self.upstreams if self._answers(name, path)) or "none is configured"
                raise UnknownModel(
                    f"no single model {name[:256]!r} answers /v1/{path}; these do: {able}", param="model"
                )
            await self.pass_on(_handover(self.upstreams[name], body, asked), path, request, id, send)

        return answer

    async def pass_on(self, handover: Handover, path: str, request: Request, id: str, send: Send) -> None:
        """Pass a request on and its reply back, until either side closes.

        Raises:
            UpstreamFailed: the teacher's server could not be reached; nothing was sent.
            ClientGone: the client left; the teacher's connection was closed.
        """
        upstream = handover.upstream
        kept = {name: value for name, value in request.headers.items() if name not in _KEPT_BACK}
        # What the client does not say, httpx would: a reply must not be compressed for one who did not ask for it.
        headers = {"accept-encoding": "identity", **kept, "x-request-id": id}
        sent = upstream.client.build_request("POST", path, content=handover.body, headers=headers)
        own = {"x-request-id": id, "x-cord-relayed": upstream.name}
        if handover.why is not None:
            own["x-cord-relayed-for"] = handover.why
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
                    {"type": "http.response.start", "status": reply.status_code, "headers": _headers(reply, own)}
                )
                await _pass_back(reply, send, id)
            finally:
                await reply.aclose()

        with self.admission.place():
            try:
                await while_connected(request.receive, exchange)
            finally:
                self.told(upstream.name, path, outcome, time.monotonic() - began)

    def _answers(self, name: str, path: str) -> bool:
        return name in self.upstreams and path in self.upstreams[name].paths


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
    kept = [(name, value) for name, value in reply.headers.raw if name.decode().lower() not in {*_HOP_BY_HOP, *own}]
    return kept + [(name.encode(), value.encode("latin-1", "replace")) for name, value in own.items()]


def _fields(body: bytes) -> dict[str, Any] | None:
    try:
        fields = from_json(body)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def _handover(upstream: Upstream, body: bytes, asked: dict[str, Any], why: str | None = None) -> Handover:
    if asked["model"] != upstream.model:
        body = to_json({**asked, "model": upstream.model}).encode("utf-8", "replace")
    return Handover(upstream, body, why)
