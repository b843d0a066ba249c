"""The server's routes: completions whole or streamed, models, health, metrics. A client that leaves
stops its sequences."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from runtime.disconnects import ClientGone, while_connected
from runtime.sampling import Sampler
from serving import wire
from serving.engine import GenerationEngine
from serving.metrics import MetricsPage
from serving.sequence import Delta, Sequence
from serving.wire import BadRequest, CompletionRequest

Indexed = tuple[int, Delta]


def build_app(engine: GenerationEngine, name: str) -> Starlette:
    """The application around a loaded engine, which it closes at its end."""
    created = int(time.time())

    async def completions(request: Request) -> Response:
        try:
            asked = _parse(await request.body(), name)
            sequences, deltas = _sequences(engine, asked)
        except BadRequest as exc:
            return JSONResponse(exc.body, status_code=exc.status)
        return _Completion(engine, asked, name, sequences, deltas)

    async def models(_: Request) -> Response:
        model = {"id": name, "object": "model", "created": created, "owned_by": "local"}
        return JSONResponse(
            {"object": "list", "data": [{**model, "max_model_len": engine.max_model_len}]}
        )

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    page = MetricsPage(engine)

    async def metrics(_: Request) -> Response:
        return Response(page.render(), media_type=page.content_type)

    async def no_route(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        refusal = BadRequest(
            f"{request.method} {request.url.path}: {exc.detail}", status=exc.status_code
        )
        return JSONResponse(refusal.body, status_code=refusal.status, headers=exc.headers)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(engine.close)

    routes = [
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: no_route})


def _parse(body: bytes, name: str) -> CompletionRequest:
    try:
        asked = CompletionRequest.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        raise BadRequest(
            first["msg"], param=".".join(str(part) for part in first["loc"][:1]) or None
        ) from exc
    if asked.model != name:
        raise BadRequest(
            f"the model {asked.model!r} is not served here",
            param="model",
            code="model_not_found",
            status=404,
        )
    streamed_logs = asked.stream and asked.prompt_logprobs is not None
    unsupported = {
        "echo": asked.echo,
        "logprobs": asked.logprobs is not None,
        "prompt_logprobs": streamed_logs,
    }
    for field, wanted in unsupported.items():
        if wanted:
            raise BadRequest(f"{field} is not supported", param=field)
    return asked


def _sequences(
    engine: GenerationEngine, asked: CompletionRequest
) -> tuple[list[Sequence], asyncio.Queue[Indexed]]:
    """The request's sequences, and the stream on which their text will arrive."""
    prompt = asked.prompt
    if isinstance(prompt, str):
        prompt = engine.tokenizer(prompt, add_special_tokens=asked.add_special_tokens)["input_ids"]
    if not prompt:
        raise BadRequest("the prompt has no tokens", param="prompt")
    room = engine.max_model_len - len(prompt)
    if room < 1 or any(token >= len(engine.tokenizer) for token in prompt):
        message = f"This model's maximum context length is {engine.max_model_len}; the prompt has {len(prompt)} tokens"
        code = "context_length_exceeded" if room < 1 else None
        raise BadRequest(
            message if room < 1 else "a token id is out of range", param="prompt", code=code
        )
    loop = asyncio.get_running_loop()
    deltas: asyncio.Queue[Indexed] = asyncio.Queue()

    def sink(index: int) -> Callable[[Delta], None]:
        def post(delta: Delta) -> None:
            with suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(deltas.put_nowait, (index, delta))

        return post

    sequences = [
        Sequence(
            prompt=tuple(prompt),
            max_tokens=min(asked.max_tokens or room, room),
            min_tokens=asked.min_tokens,
            sampler=Sampler.seeded(
                asked.temperature,
                asked.top_p,
                asked.top_k,
                None if asked.seed is None else asked.seed + index,
            ),
            stops=asked.stops,
            keep_stop=asked.include_stop_str_in_output,
            ignore_eos=asked.ignore_eos,
            sink=sink(index),
            wants_logs=asked.prompt_logprobs is not None,
        )
        for index in range(asked.n)
    ]
    return sequences, deltas


class _Completion(Response):
    """The reply to one request, written while its sequences run; they are cancelled when the client
    leaves."""

    def __init__(
        self,
        engine: GenerationEngine,
        asked: CompletionRequest,
        name: str,
        sequences: list[Sequence],
        deltas: asyncio.Queue[Indexed],
    ) -> None:
        self._engine = engine
        self._asked = asked
        self._sequences = sequences
        self._deltas = deltas
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
        }
        self._head["model"] = name
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for sequence in self._sequences:
            self._engine.submit(sequence)
        reply = (
            partial(self._stream, send)
            if self._asked.stream
            else partial(self._whole, scope, receive, send)
        )
        try:
            with suppress(ClientGone):
                await while_connected(receive, reply)
        finally:
            for sequence in self._sequences:
                sequence.cancelled = True

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        texts = [""] * len(self._sequences)
        ends: dict[int, Delta] = {}
        while len(ends) < len(self._sequences):
            index, delta = await self._deltas.get()
            texts[index] += delta.text
            if delta.finish is not None:
                ends[index] = delta
        if any(end.finish == "error" for end in ends.values()):
            return await JSONResponse(wire.failure("the model failed"), status_code=500)(
                scope, receive, send
            )
        choices = [
            wire.choice(
                i, text, ends[i].finish, ends[i].stop, self._prompt_logs(self._sequences[i])
            )
            for i, text in enumerate(texts)
        ]
        body = {**self._head, "choices": choices, "usage": self._usage(ends)}
        await JSONResponse(body)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with_usage = (
            self._asked.stream_options is not None and self._asked.stream_options.include_usage
        )
        ends: dict[int, Delta] = {}
        while len(ends) < len(self._sequences):
            index, delta = await self._deltas.get()
            if delta.finish is not None:
                ends[index] = delta
            if delta.finish == "error":
                data: dict[str, Any] = wire.failure("the model failed")
            else:
                data = {
                    **self._head,
                    "choices": [wire.choice(index, delta.text, delta.finish, delta.stop)],
                }
            await self._send(send, wire.event(data))
        if with_usage:
            await self._send(
                send, wire.event({**self._head, "choices": [], "usage": self._usage(ends)})
            )
        await self._send(send, b"data: [DONE]\n\n", more=False)

    @staticmethod
    def _prompt_logs(sequence: Sequence) -> list[Any] | None:
        return (
            wire.prompt_logprobs(sequence.prompt, sequence.prompt_logs)
            if sequence.wants_logs
            else None
        )

    @staticmethod
    async def _send(send: Send, body: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    def _usage(self, ends: dict[int, Delta]) -> dict[str, int]:
        return wire.usage(len(self._sequences[0].prompt), sum(end.tokens for end in ends.values()))
