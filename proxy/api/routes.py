"""The paths, and what every endpoint shares: a request id, the key, and failures told in OpenAI's form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from proxy.api.admission import Admission
from proxy.api.auth import Keyring, Scope
from proxy.api.body import JsonReply, parse_json, read_json
from proxy.api.chat import ChatEndpoint
from proxy.api.completions import CompletionsEndpoint
from proxy.api.decoded import Answering, request_id
from proxy.api.docs_page import docs_page
from proxy.api.endpoint import Endpoint as Path
from proxy.api.errors import ErrorReply, report
from proxy.api.feedback import FeedbackEndpoint, FeedbackStore
from proxy.api.health import ComponentState, is_ready
from proxy.api.job import ApiOptions
from proxy.api.live import Events, LiveSearches, Searches
from proxy.api.openapi import describe_api
from proxy.api.plan import Models, Refuse, Relay, Wanted, plan
from proxy.api.relay import RELAYED, Forwarder, Received, Told, Upstream
from proxy.api.responses import ResponsesEndpoint
from proxy.api.traces import Traces, TraceStore
from proxy.decoder.settings import SETTINGS
from proxy.errors import RequestError, UnknownModel
from proxy.service import Ensemble, Service
from runtime.disconnects import ClientGone

Ready = Callable[[], Mapping[str, ComponentState]]
Metrics = Callable[[], tuple[bytes, str]]
"""The metrics page and its content type."""

Endpoint = Callable[[Request, str, Send], Awaitable[None]]
"""Answers a request, given its id, over `send`; raises before anything is sent, or not at all."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """An ASGI app around an endpoint: asks for the key first, turns what the endpoint raises into a reply."""

    endpoint: Endpoint
    keyring: Keyring
    scope: Scope
    write_timeout_s: float

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        id = request_id(request.headers)

        async def send_or_leave(message: Message) -> None:
            try:
                with anyio.fail_after(self.write_timeout_s):
                    await send(message)
            except (
                OSError
            ) as exc:  # how servers tell that the connection is gone; a time-out is one, too
                raise ClientGone from exc

        with suppress(ClientGone, ClientDisconnect):
            try:
                header = request.headers.get("authorization")
                scope["cord.caller"] = self.keyring.admit(header, self.scope)
                await self.endpoint(request, id, send_or_leave)
            except (ClientGone, ClientDisconnect):
                raise
            except Exception as exc:
                await _error(report(exc, id), id)(scope, receive, send_or_leave)


def make_admission(options: ApiOptions) -> Admission:
    """The door of these options."""
    return Admission(options.limits, options.queue, options.queue_wait_s, options.retry_after_s)


def routes(
    service: Service,
    options: ApiOptions,
    ready: Ready,
    metrics: Metrics,
    upstreams: Sequence[Upstream] = (),
    told: Told = lambda *_: None,
    live: LiveSearches | None = None,
    traces: TraceStore | None = None,
    healthy: Callable[[], bool] = lambda: True,
    admission: Admission | None = None,
    feedback: FeedbackStore | None = None,
) -> list[BaseRoute]:
    """The API's routes. `/health`, `/ready`, `/metrics`, `/openapi.json` and `/docs` ask for no key.

    `upstreams` are the models that can be asked directly; `told` hears of every request that was. `live` holds the
    searches that can be watched; it must be one of the service's listeners. `traces` is where traces are
    kept, if they are, and `feedback` where feedback is. `/health` is 503 unless the proxy is `healthy`.
    """

    live = live or LiveSearches()
    stored = Traces(traces)
    known = {
        name: _model(ensemble, options.created) for name, ensemble in service.ensembles.items()
    }
    for upstream in upstreams:
        known.setdefault(upstream.name, _entry(upstream.name, options.created))

    async def models(request: Request, id: str, send: Send) -> None:
        data = list(known.values())
        reply = JsonReply({"object": "list", "data": data}, headers={"x-request-id": id})
        await reply(request.scope, request.receive, send)

    async def model(request: Request, id: str, send: Send) -> None:
        name = request.path_params["id"]
        if name not in known:
            raise UnknownModel(f"the model {name[:256]!r} is not configured", param="model")
        reply = JsonReply(known[name], headers={"x-request-id": id})
        await reply(request.scope, request.receive, send)

    async def health(request: Request) -> Response:
        ok = healthy()
        return JsonReply({"status": "ok" if ok else "failed"}, status_code=200 if ok else 503)

    async def readiness(request: Request) -> Response:
        components = ready()
        ok = is_ready(components)
        body = {
            "status": "ready" if ok else "not_ready",
            "components": {k: _state(v) for k, v in components.items()},
        }
        return JsonReply(body, status_code=200 if ok else 503)

    description = describe_api(list(known))

    async def openapi(request: Request) -> Response:
        return JsonReply(description)

    async def docs(request: Request) -> Response:
        policy = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(docs_page(description), headers=policy)

    async def metrics_page(request: Request, id: str, send: Send) -> None:
        body, content_type = metrics()
        reply = Response(body, headers={"content-type": content_type})
        await reply(request.scope, request.receive, send)

    admission = admission or make_admission(options)
    forwarder = Forwarder({upstream.name: upstream for upstream in upstreams}, admission, told)
    models_there_are = Models(
        service.ensembles, {upstream.name: upstream.paths for upstream in upstreams}
    )
    paths: list[Path] = [ChatEndpoint(), CompletionsEndpoint(), ResponsesEndpoint()]

    def relayed(path: str) -> Endpoint:
        """An endpoint that is passed on and nothing else."""

        async def answer(request: Request, id: str, send: Send) -> None:
            body = await read_json(request, options.max_body_bytes)
            fields = parse_json(body)
            if not isinstance(fields.get("model"), str):
                message = "model is missing or not a name"
                raise RequestError(message, param="model", code="missing_required_parameter")
            planned = plan(Wanted(path, fields["model"]), Models({}, models_there_are.paths))
            if isinstance(planned, Refuse):
                raise planned.error
            if isinstance(planned, Relay):
                await forwarder.pass_on(planned, path, Received(body, fields), request, id, send)

        return answer

    keyring = Keyring(options.keys)
    take_feedback = FeedbackEndpoint(traces, feedback, options.max_body_bytes)

    def guarded(
        path: str, endpoint: Endpoint, method: str, name: str, scope: Scope = "chat"
    ) -> Route:
        guard = Guarded(endpoint, keyring, scope, options.write_timeout_s)
        return Route(path, guard, methods=[method], name=name)

    unguarded = Guarded(metrics_page, Keyring(), "metrics", options.write_timeout_s)
    open_metrics = Route("/metrics", unguarded, methods=["GET"], name="metrics")
    return [
        *(
            guarded(
                f"/v1/{path.path}",
                Answering(path, service, models_there_are, options, admission, forwarder),
                "POST",
                path.path,
            )
            for path in paths
        ),
        *(guarded(f"/v1/{path}", relayed(path), "POST", path) for path in RELAYED),
        guarded("/v1/models", models, "GET", "models"),
        guarded("/v1/models/{id:path}", model, "GET", "model"),
        guarded("/v1/cord/traces", stored.list, "GET", "traces", "traces"),
        guarded("/v1/cord/traces/{id:path}", stored.one, "GET", "trace", "traces"),
        guarded("/v1/feedback", take_feedback, "POST", "feedback", "feedback"),
        guarded("/v1/cord/searches", Searches(live), "GET", "searches", "traces"),
        guarded(
            "/v1/cord/searches/{id:path}/events",
            Events(live, options.keepalive_s),
            "GET",
            "events",
            "traces",
        ),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/docs", docs, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/ready", readiness, methods=["GET"]),
        open_metrics
        if options.open_metrics
        else guarded("/metrics", metrics_page, "GET", "metrics", "metrics"),
    ]


async def on_error(request: Request, exc: Exception) -> Response:
    """An exception handler for the app around the routes: unknown paths, wrong methods, bugs elsewhere."""
    id = request_id(request.headers)
    return _error(report(exc, id), id)


def create(
    service: Service,
    options: ApiOptions,
    ready: Ready,
    metrics: Metrics,
    upstreams: Sequence[Upstream] = (),
    told: Told = lambda *_: None,
    live: LiveSearches | None = None,
    traces: TraceStore | None = None,
    feedback: FeedbackStore | None = None,
) -> Starlette:
    """The API as an app of its own; the parameters are those of `routes`."""
    handlers = {HTTPException: on_error, Exception: on_error}
    return Starlette(
        routes=routes(
            service, options, ready, metrics, upstreams, told, live, traces, feedback=feedback
        ),
        exception_handlers=handlers,
    )


def _error(reply: ErrorReply, id: str) -> Response:
    return JsonReply(
        reply.body, status_code=reply.status, headers={**reply.headers, "x-request-id": id}
    )


def _model(ensemble: Ensemble, created: int) -> dict[str, Any]:
    teachers = [teacher.name for teacher in ensemble.panel]
    cord = {
        "teachers": teachers,
        "strategy": ensemble.settings.strategy,
        "score": ensemble.settings.score,
    }
    return {**_entry(ensemble.name, created), "cord": {**cord, "settings": _configured(ensemble)}}


def _configured(ensemble: Ensemble) -> dict[str, Any]:
    """The settings of an ensemble by their names outside, but for those that are left to what fits the score."""
    settings = ensemble.settings
    return {
        name: getattr(getattr(settings, one.section) if one.section else settings, one.field)
        for name, one in SETTINGS.items()
        if name not in ensemble.unset
    }


def _entry(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "cord"}


def _state(state: ComponentState) -> dict[str, Any]:
    return {
        "name": state.name,
        "ok": state.ok,
        "status": state.status,
        "required": state.required,
        "detail": state.detail,
    }
