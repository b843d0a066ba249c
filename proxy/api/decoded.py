"""A path whose requests are decoded: from the connection to a job, from the job's search to the reply.

What is for one teacher alone goes straight to it instead (`proxy.api.relay`). How requests and replies look is the
path's `Dialect`.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Send

from proxy.api.admission import Admission
from proxy.api.body import JsonReply, read_json
from proxy.api.chat import result_value
from proxy.api.dialect import Asked, Dialect, Stream
from proxy.api.errors import report
from proxy.api.job import ApiOptions, make_job
from proxy.api.relay import Relay
from proxy.api.stream import Push, stream_events
from proxy.decoder.events import TeacherFailed
from proxy.decoder.journal import Listener, Stamped
from proxy.decoder.summary import Summary, summarise
from proxy.decoder.types import Result
from proxy.errors import RequestError, SearchError
from proxy.service import Job, Service
from runtime.disconnects import while_connected

log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own request id where it can be repeated safely, else a new one."""
    sent = headers.get("x-request-id", "")
    return sent if _SANE_ID.fullmatch(sent) else f"req-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """The endpoint. A request that is refused has started no teacher."""

    dialect: Dialect
    service: Service
    options: ApiOptions
    admission: Admission
    relay: Relay

    async def __call__(self, request: Request, id: str, send: Send) -> None:
        """Answer one request.

        Raises:
            CordError: the request cannot be answered; nothing was sent.
            ClientGone: the client left, and the search was cancelled.
        """
        received = time.time()
        body = await read_json(request, self.options.max_body_bytes)
        handover = self.relay.handover(body, self.dialect.path, self.service.ensembles, self.dialect.needs_one)
        if handover is not None:
            await self.relay.pass_on(handover, self.dialect.path, request, id, send)
            return
        asked = self.dialect.read(body)
        chat = asked.chat
        job = make_job(chat, self.service.ensembles, self.options, id, received)
        wish = chat.cord.inline_reasoning if chat.cord else None
        inline = self.options.inline_reasoning if wish is None else wish
        warnings = chat.cord.warnings if chat.cord else ()
        for warning in warnings:
            log.warning("request %s: cord: %s", id, warning)
        with self.admission.place():
            await (self._stream if chat.stream else self._whole)(job, asked, id, request, send, inline)

    async def _whole(self, job: Job, asked: Asked, id: str, request: Request, send: Send, inline: bool) -> None:
        result, journal = await while_connected(request.receive, lambda: self._decode(job))
        summary = summarise(stamped.event for stamped in journal)
        headers = {**_headers(job, asked, id), **_result_headers(result, summary)}
        reply = JsonReply(self.dialect.whole(job, asked, result, summary, id, inline), headers=headers)
        await reply(request.scope, request.receive, send)

    async def _stream(self, job: Job, asked: Asked, id: str, request: Request, send: Send, inline: bool) -> None:
        streams: list[Stream] = []

        async def produce(push: Push) -> None:
            stream = self.dialect.stream(job, asked, inline, push)
            streams.append(stream)
            result, journal = await self._decode(job, stream.hear)
            stream.finish(result, summarise(stamped.event for stamped in journal), id)

        def explain(exc: Exception) -> bytes:
            return streams[0].failure(report(exc, id))

        headers, tail = _headers(job, asked, id), self.dialect.tail
        await stream_events(request.receive, send, produce, headers, self.options.keepalive_s, explain, tail)

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


def _headers(job: Job, asked: Asked, id: str) -> dict[str, str]:
    warnings = asked.chat.cord.warnings if asked.chat.cord else ()
    told = {"x-cord-warning": "; ".join(warnings)} if warnings else {}
    return {
        **told,
        "x-request-id": id,
        "x-cord-search-id": job.problem.id,
        "x-cord-model": _header_text(job.ensemble.name),
        "x-cord-strategy": job.settings.strategy,
    }


def _result_headers(result: Result, summary: Summary) -> dict[str, str]:
    """What only a whole reply can tell before its body: the winner's value, its teachers, the score's source."""
    teachers = dict.fromkeys(step.candidate.teacher for step in summary.steps)
    value = result_value(result, summary)
    told = {} if value is None else {"x-cord-value": f"{value:.6g}"}
    return {**told, "x-cord-teachers": _header_text(",".join(teachers)), "x-cord-source": summary.source.value}


def _header_text(text: str) -> str:
    """Configured names may hold anything; a header may hold printable ASCII."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)
