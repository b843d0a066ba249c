"""Teachers behind an OpenAI-compatible completions endpoint: vLLM, llama.cpp, the embedded server and their like.

The turn is rendered with the teacher's own template and continued raw. What sets one server apart from another
is a `Provider`, data; there is one code path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import httpx
import jinja2

from proxy import sse
from proxy.decoder.ports import OnText
from proxy.decoder.types import Continuation, Ended, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers import wire
from proxy.teachers.failures import broken_off, refusal
from proxy.teachers.template import ChatTemplate
from proxy.teachers.tokens import estimated_tokens
from runtime.literal import JOINER, restored
from runtime.stopping import StopScanner

_ERROR_BYTES = 16 << 10
"""What is read of an error's body."""


@dataclass(frozen=True, slots=True)
class Provider:
    """How one family of servers differs.

    Attributes:
        reports_stop: the reply names the stop text that ended it (vLLM's `stop_reason`). Without it the reply is
            streamed and the proxy looks for the stop texts itself, since a step's end and the thinking's end
            must be told apart.
        supports_response_format: completions take `response_format`.
        may_add_bos: the server may put a BOS token before prompts, as the model's file says, and cannot be told not
            to. Where the template writes one too, it is found out once whether there would be two.
        extra: fields sent with every call.
    """

    reports_stop: bool = False
    supports_response_format: bool = False
    may_add_bos: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


PROVIDERS = {
    # The template already holds the BOS token; a second one would be added without this.
    "local": Provider(reports_stop=True, extra={"add_special_tokens": False}),
    "hosted_vllm": Provider(
        reports_stop=True, supports_response_format=True, extra={"add_special_tokens": False}
    ),
    # llama.cpp's Python server penalises repetition by default, even when greedy, and cuts the distribution. Its native
    # one tells its counts with every token if asked to; else they are lost where a stream is stopped.
    "llama_cpp": Provider(
        may_add_bos=True,
        extra={"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0, "timings_per_token": True},
    ),
    "openai": Provider(may_add_bos=True),
    "ollama": Provider(supports_response_format=True, may_add_bos=True),
}
"""By the provider prefix of `litellm_params.model`."""


class CompatibleTeacher:
    """One served model. The client carries base URL, key and transport; closing it is its owner's business.

    Servers that stream in words of their own override what a stream is asked with, where, and how it is read.
    """

    _streaming: ClassVar[Mapping[str, Any]] = {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    _stream_type: ClassVar[str] = "text/event-stream"

    def __init__(
        self,
        name: str,
        model: str,
        client: httpx.AsyncClient,
        template: ChatTemplate,
        provider: Provider,
    ) -> None:
        self._name = name
        self._model = model
        self._client = client
        self._template = template
        self._provider = provider
        self._adds_bos: bool | None = None
        self._finding_out = anyio.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def supports_response_format(self) -> bool:
        return self._provider.supports_response_format

    @property
    def supports_tools(self) -> bool:
        return self._template.supports_tools

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; see `decoder.ports.Teacher`. Cancelling closes the connection, which stops the backend."""
        stops = (*ask.stop, self._template.markup.stop) if ask.answer is None else ask.stop
        try:
            payload = self._payload(ask, await self._prompt(ask), stops)
            if on_text is None and self._provider.reports_stop:
                return await self._whole(payload, ask)
            return await self._streamed(payload, ask, stops, on_text)
        except jinja2.TemplateError as exc:
            raise TeacherError(
                self._name, "refused", f"its chat template refuses this conversation: {exc}"
            ) from exc
        except httpx.TimeoutException as exc:
            raise TeacherError(
                self._name, "timeout", f"{type(exc).__name__} at {self._address}"
            ) from exc
        except httpx.ConnectError as exc:
            raise TeacherError(
                self._name, "unreachable", f"cannot connect to {self._address}: {exc}"
            ) from exc
        except (wire.BadReply, sse.EventTooLong) as exc:
            raise TeacherError(self._name, "broken", f"unusable reply: {exc}") from exc
        except (httpx.HTTPError, ValueError) as exc:
            raise TeacherError(
                self._name, "broken", f"unreadable reply: {type(exc).__name__}: {exc}"
            ) from exc

    @property
    def _address(self) -> httpx.URL:
        return self._client.base_url.copy_with(username=None, password=None)

    async def _prompt(self, ask: TeacherRequest) -> str:
        """The turn as it is sent: with one token that begins the sequence, whoever writes it."""
        prompt, bos = await self._template.prompt(ask), self._template.bos
        if bos and prompt.startswith(bos) and self._provider.may_add_bos:
            async with self._finding_out:
                if self._adds_bos is None:
                    self._adds_bos = await self._finds_bos_added(bos)
            if self._adds_bos:
                return prompt.removeprefix(bos)
        return prompt

    async def _finds_bos_added(self, bos: str) -> bool:
        """Whether the server puts a BOS token before a prompt that has one: by how many tokens it counts."""
        one, two = [await self._prompt_tokens(bos * times) for times in (1, 2)]
        return 0 < two - one < one

    async def _prompt_tokens(self, prompt: str) -> int:
        """How many tokens the server makes of a prompt; 0 where it does not say."""
        payload = {"model": self._model, "prompt": prompt, "max_tokens": 1, "temperature": 0.0}
        try:
            async with self._call("completions", payload) as reply:
                body = await wire.read_whole(reply.aiter_raw(), wire.Bounds.of(1).whole_bytes)
        except TeacherError as exc:
            if exc.kind in ("refused", "unknown_model"):
                return 0  # the call itself will tell why
            raise
        usage = wire.whole(body).usage
        return usage.prompt_tokens if usage else 0

    def _payload(self, ask: TeacherRequest, prompt: str, stops: tuple[str, ...]) -> dict[str, Any]:
        served: dict[str, Any] = (
            {"stop": list(stops)} if stops and self._provider.reports_stop else {}
        )
        if self._template.markup.special:
            served["skip_special_tokens"] = False
        if ask.format is not None:
            served["response_format"] = ask.format
        return {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
            **served,
            **self._provider.extra,
        }

    async def _whole(self, payload: dict[str, Any], ask: TeacherRequest) -> Continuation:
        bounds = wire.Bounds.of(ask.max_tokens)
        async with self._call("completions", payload) as reply:
            found = wire.whole(await wire.read_whole(reply.aiter_raw(), bounds.whole_bytes))
        bounds.check(len(found.text), found.usage)
        text = _read_back(payload)(found.text)
        return await self._continuation(
            text, ended_by(found.finish, found.stop, ask), found.usage, payload
        )

    async def _streamed(
        self,
        payload: dict[str, Any],
        ask: TeacherRequest,
        stops: tuple[str, ...],
        on_text: OnText | None,
    ) -> Continuation:
        payload |= self._streaming
        bounds = wire.Bounds.of(ask.max_tokens)
        scanner = StopScanner(() if self._provider.reports_stop else stops)
        pieces: list[str] = []
        received = 0
        usage = finish = stop = None
        read_back = _read_back(payload)

        def hear(text: str) -> None:
            text = read_back(text)
            pieces.append(text)
            if text and on_text is not None:
                on_text(text)

        async with self._call(self._url, payload) as reply:
            self._check_is_stream(reply)
            async for chunk in self._chunks(
                wire.bounded(reply.aiter_raw(), bounds.stream_bytes), bounds
            ):
                if chunk.error is not None:
                    raise broken_off(self._name, chunk.error)
                usage = chunk.usage or usage
                received += len(chunk.text)
                bounds.check(received, usage)
                hear(scanner.feed(chunk.text))
                finish = chunk.finish or finish
                stop = scanner.hit or chunk.stop or stop
                if scanner.hit is not None:
                    finish = "stop"
                    break
            else:
                hear(scanner.flush())
        if finish is None:
            if not any(pieces):
                await self._raise_reason(payload)
            raise TeacherError(self._name, "broken", "the stream broke off before its end")
        return await self._continuation(
            "".join(pieces), ended_by(finish, stop, ask), usage, payload
        )

    @asynccontextmanager
    async def _call(
        self, url: httpx.URL | str, payload: Mapping[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        """A reply whose body is to be read, uncompressed so that its bounds are those of what is read."""
        headers = {"accept-encoding": "identity"}
        async with self._client.stream("POST", url, json=payload, headers=headers) as reply:
            if reply.status_code != 200:
                body = await wire.read_beginning(reply.aiter_raw(), _ERROR_BYTES)
                raise refusal(self._name, reply.status_code, reply.headers, body)
            yield reply

    def _check_is_stream(self, reply: httpx.Response) -> None:
        stated = reply.headers.get("content-type", self._stream_type)
        if not stated.startswith(self._stream_type):
            raise wire.BadReply(f"content type {stated} instead of {self._stream_type}")

    @property
    def _url(self) -> httpx.URL | str:
        return "completions"

    def _chunks(self, body: AsyncIterator[bytes], bounds: wire.Bounds) -> AsyncIterator[wire.Chunk]:
        """What a stream says, piece by piece."""
        return _chunks(body, bounds)

    async def _raise_reason(self, payload: dict[str, Any]) -> None:
        """Ask again without streaming: llama.cpp's Python server refuses a stream by ending it, without a word."""
        async with self._call("completions", {**payload, "stream": False, "max_tokens": 1}):
            return

    async def _continuation(
        self, text: str, ended: Ended, usage: wire.Usage | None, payload: Mapping[str, Any]
    ) -> Continuation:
        if usage is not None:
            return Continuation(text, ended, usage.prompt_tokens, usage.completion_tokens)
        prompt_tokens, completion_tokens = await estimated_tokens(payload["prompt"], text)
        return Continuation(text, ended, prompt_tokens, completion_tokens, tokens_estimated=True)


def _read_back(payload: Mapping[str, Any]) -> Callable[[str], str]:
    """How a model's words are read that answer this prompt, in which markup may have been broken up."""
    return restored if JOINER in payload["prompt"] else str


def ended_by(finish: str | None, stop: str | None, ask: TeacherRequest) -> Ended:
    """Why a completion ended, from its finish reason and the stop text that was hit, if any."""
    if finish == "length":
        return "length"
    if stop in ask.stop:
        return "marker"
    return "eos" if stop is None else "closed"


async def _chunks(body: AsyncIterator[bytes], bounds: wire.Bounds) -> AsyncIterator[wire.Chunk]:
    """The chunks of an event stream."""
    decoder = sse.Decoder(bounds.whole_bytes)
    async for received in body:
        for event in decoder.feed(received):
            if event.data != "[DONE]":
                yield wire.chunk(event.data)
