"""A path whose requests are decoded: from the connection to a plan, from the plan to the reply.

How requests and replies look is the path's `Endpoint`; what becomes of a request is `proxy.api.plan`'s.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio.to_thread
from starlette.requests import Request
from starlette.types import Send

from proxy.api.admission import Admission, held_while_connected
from proxy.api.auth import caller_of
from proxy.api.body import JsonReply, parse_json, read_json
from proxy.api.chat import result_value
from proxy.api.endpoint import Endpoint, Exchange, ParsedRequest, ReplyStream
from proxy.api.errors import report
from proxy.api.job import ApiOptions, make_job
from proxy.api.limits import cost_of
from proxy.api.plan import Decode, Models, Refuse, Relay, Wanted, plan
from proxy.api.relay import Forwarder, Received
from proxy.api.stream import Push, stream_events
from proxy.decoder.events import TeacherFailed
from proxy.decoder.journal import Listener, Stamped
from proxy.decoder.summary import Summary, summarise
from proxy.decoder.types import Result
from proxy.errors import RequestError, SearchError
from proxy.service import Job, Service
from runtime.disconnects import while_connected

log = logging.getLogger(__name__)

_LARGE = 64 * 1024
"""Bytes of a body above which it is read in a thread, so that others are answered meanwhile."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own request id where it can be repeated safely, else a new one."""
    sent = headers.get("x-request-id", "")
    return sent if _SANE_ID.fullmatch(sent) else f"req-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class _Relayed:
    """A request for a single teacher's server."""

    to: Relay
    received: Received


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A request for several teachers, checked."""

    exchange: Exchange
    parsed: ParsedRequest
    warnings: tuple[str, ...]

    @property
    def headers(self) -> dict[str, str]:
        """What a reply tells before it has begun."""
        job = self.exchange.job
        told = {"x-cord-warning": "; ".join(self.warnings)} if self.warnings else {}
        return {
            **told,
            "x-request-id": self.exchange.request_id,
            "x-cord-search-id": job.problem.id,
            "x-cord-model": _header_text(job.ensemble.name),
            "x-cord-strategy": job.settings.strategy,
        }


@dataclass(frozen=True, slots=True)
class Answering:
    """The endpoint of one path: reads, plans, and decodes or passes on. A refused request has started no teacher."""

    endpoint: Endpoint
    service: Service
    models: Models
    options: ApiOptions
    admission: Admission
    forwarder: Forwarder

    async def __call__(self, request: Request, id: str, send: Send) -> None:
        """Answer one request.

        Raises:
            CordError: the request cannot be answered; nothing was sent.
            ClientGone: the client left, and the search was cancelled.
        """
        arrived = time.time()
        kept = request.headers.get("x-cord-store", "").strip().lower() != "false"
        body = await read_json(request, self.options.max_body_bytes)
        if len(body) > _LARGE:
            planned = await anyio.to_thread.run_sync(self._prepare, body, id, arrived, kept)
        else:
            planned = self._prepare(body, id, arrived, kept)
        if isinstance(planned, _Relayed):
            await self.forwarder.pass_on(
                planned.to, self.endpoint.path, planned.received, request, id, send
            )
            return
        for warning in planned.warnings:
            log.warning("request %s: cord: %s", id, warning)
        job = planned.exchange.job
        place = self.admission.place(
            cost_of(job.settings, len(job.ensemble.panel)), caller_of(request)
        )
        async with held_while_connected(request.receive, place):
            await (self._stream if planned.parsed.chat.stream else self._whole)(
                planned, request, send
            )

    def _prepare(self, body: bytes, id: str, arrived: float, kept: bool) -> _Decoded | _Relayed:
        """The body, read and checked once, and what becomes of it; `kept` unless no trace of it shall be.

        Raises:
            RequestError: it is refused.
        """
        fields = parse_json(body)
        if not isinstance(fields.get("model"), str) or not fields["model"]:
            self.endpoint.parse(fields)
            raise RequestError(
                "'model' is missing", param="model", code="missing_required_parameter"
            )
        wishes = self.endpoint.wishes(fields)
        wanted = Wanted.of(self.endpoint.path, fields, wishes, self.options.relay_unsupported)
        match plan(wanted, self.models):
            case Relay() as relay:
                return _Relayed(relay, Received(body, fields))
            case Refuse(error):
                raise error
            case Decode(ensemble):
                parsed = self.endpoint.parse(fields)
                job = make_job(parsed.chat, ensemble, self.options, id, arrived)
                if not kept:
                    job = replace(job, metadata={**job.metadata, "store": False})
                cord = parsed.chat.cord
                wish = cord.inline_reasoning if cord else None
                inline = self.options.inline_reasoning if wish is None else wish
                return _Decoded(Exchange(job, id, inline), parsed, cord.warnings if cord else ())

    async def _whole(self, decoded: _Decoded, request: Request, send: Send) -> None:
        exchange = decoded.exchange
        result, journal = await while_connected(request.receive, lambda: self._decode(exchange.job))
        summary = summarise(stamped.event for stamped in journal)
        headers = {**decoded.headers, **_result_headers(result, summary)}
        reply = JsonReply(decoded.parsed.reply(exchange, result, summary), headers=headers)
        await reply(request.scope, request.receive, send)

    async def _stream(self, decoded: _Decoded, request: Request, send: Send) -> None:
        streams: list[ReplyStream] = []

        async def produce(push: Push) -> None:
            stream = decoded.parsed.stream(decoded.exchange, push)
            streams.append(stream)
            result, journal = await self._decode(decoded.exchange.job, stream.hear)
            stream.finish(result, summarise(stamped.event for stamped in journal))

        def explain(exc: Exception) -> bytes:
            return streams[0].failure(report(exc, decoded.exchange.request_id))

        keepalive_s, tail = self.options.keepalive_s, self.endpoint.tail
        await stream_events(
            request.receive, send, produce, decoded.headers, keepalive_s, explain, tail
        )

    async def _decode(self, job: Job, *listeners: Listener) -> tuple[Result, Sequence[Stamped]]:
        """Search; where all that failed was that no teacher could hold the prompt, the request is at fault."""
        failures: set[str] = set()

        def note(stamped: Stamped) -> None:
            if isinstance(stamped.event, TeacherFailed):
                failures.add(stamped.event.kind)

        try:
            return await self.service.decode(job, note, *listeners)
        except SearchError as exc:
            if failures != {"context_overflow"}:
                raise
            raise RequestError(str(exc), param="messages", code="context_length_exceeded") from exc


def _result_headers(result: Result, summary: Summary) -> dict[str, str]:
    """What only a whole reply can tell before its body: the winner's value, its teachers, the score's source."""
    teachers = dict.fromkeys(step.candidate.teacher for step in summary.steps)
    value = result_value(result, summary)
    told = {} if value is None else {"x-cord-value": f"{value:.6g}"}
    return {
        **told,
        "x-cord-teachers": _header_text(",".join(teachers)),
        "x-cord-source": summary.source.value,
    }


def _header_text(text: str) -> str:
    """Configured names may hold anything; a header may hold printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
