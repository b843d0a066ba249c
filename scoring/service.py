"""The scoring engine as an HTTP service: POST /score, GET /health, GET /metrics. Stateless to its
callers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.disconnects import ClientGone, while_connected
from runtime.errors import error_body
from scoring.batcher import Batcher
from scoring.engine import ScoringEngine
from scoring.errors import BadScoreRequest, ScorerUnavailable, ScoringError
from scoring.types import ScoreRequest

_REQUEST = TypeAdapter(ScoreRequest)


class _Figures:
    """What the service counts, on a registry of its own."""

    def __init__(self, engine: ScoringEngine) -> None:
        self.registry = CollectorRegistry()
        self.queue = Histogram(
            "scorer_queue_wait_seconds",
            "Time a request waited for the device",
            registry=self.registry,
        )
        self.batch = Histogram(
            "scorer_batch_requests",
            "Requests in progress together",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self.registry,
        )
        self.refused = Counter(
            "scorer_refused_total", "Requests that could not be scored", registry=self.registry
        )
        self._engine = engine
        self.registry.register(self)

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> list[Any]:
        """The engine's own counters, read when asked."""
        labels = ["model"]
        forwarded = CounterMetricFamily(
            "scorer_forwarded_tokens", "Tokens run through a model", labels=labels
        )
        reused = CounterMetricFamily(
            "scorer_reused_tokens", "Tokens whose keys and values were known", labels=labels
        )
        pool = self._engine.pool
        evicted = CounterMetricFamily(
            "scorer_cache_evictions", "Cached runs of tokens dropped", value=pool.evictions
        )
        held = GaugeMetricFamily(
            "scorer_cache_bytes", "Bytes of cached keys, values and states", value=pool.bytes
        )
        for name, judge in self._engine.judges.items():
            forwarded.add_metric([name], judge.forwarded)
            reused.add_metric([name], judge.reused)
        return [forwarded, reused, evicted, held]


def build_app(engine: ScoringEngine) -> Starlette:
    """The service around a loaded engine."""
    batcher = Batcher(engine)
    figures = _Figures(engine)

    async def score(request: Request) -> Response:
        try:
            asked = _REQUEST.validate_json(await request.body())
            reply = await while_connected(request.receive, lambda: batcher.score(asked))
        except ValidationError as exc:
            first = exc.errors()[0]
            return _error(
                BadScoreRequest(first["msg"], param=".".join(str(part) for part in first["loc"]))
            )
        except BadScoreRequest as exc:
            figures.refused.inc()
            return _error(exc)
        except ScorerUnavailable as exc:
            return _error(exc, 503)
        except ClientGone:
            return Response(status_code=499)
        figures.queue.observe(reply.queue_s)
        figures.batch.observe(reply.batch_size)
        return JSONResponse(asdict(reply))

    async def health(_: Request) -> Response:
        return JSONResponse(
            {"status": "ok", "models": list(engine.judges), "revision": engine.revision}
        )

    async def metrics(_: Request) -> Response:
        return Response(
            generate_latest(figures.registry), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(batcher.run)
            yield
            group.cancel_scope.cancel()

    routes = [
        Route("/score", score, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _error(exc: ScoringError, status: int = 400) -> Response:
    if isinstance(exc, BadScoreRequest):
        return JSONResponse(
            error_body(str(exc), param=exc.param, code=exc.code), status_code=status
        )
    return JSONResponse(error_body(str(exc), kind="server_error"), status_code=status)
