"""Teachers behind an OpenAI-compatible completions endpoint: vLLM, llama.cpp, the embedded server and their like.

The turn is rendered with the teacher's own template and continued raw. What sets one server apart from another
is a `Provider`, data; there is one code path.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import jinja2

from proxy import sse
from proxy.decoder.ports import OnText
from proxy.decoder.types import Continuation, Ended, TeacherRequest
from proxy.errors import FailureKind, TeacherError
from proxy.teachers.template import ChatTemplate
from proxy.teachers.tokens import approximate_tokens
from runtime.stopping import StopScanner


@dataclass(frozen=True, slots=True)
class Provider:
    """How one family of servers differs.

    Attributes:
        reports_stop: the reply names the stop text that ended it (vLLM's `stop_reason`). Without it the reply is
            streamed and the proxy looks for the stop texts itself, since a step's end and the thinking's end
            must be told apart.
        supports_response_format: completions take `response_format`.
        extra: fields sent with every call.
    """

    reports_stop: bool = False
    supports_response_format: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


PROVIDERS = {
    # The template already holds the BOS token; a second one would be added without this.
    "local": Provider(reports_stop=True, extra={"add_special_tokens": False}),
    "hosted_vllm": Provider(reports_stop=True, supports_response_format=True, extra={"add_special_tokens": False}),
    # llama.cpp's Python server penalises repetition by default, even when greedy, and cuts the distribution.
    "llama_cpp": Provider(extra={"repeat_penalty": 1.0, "top_k": 0, "min_p": 0.0}),
    "openai": Provider(),
    "ollama": Provider(supports_response_format=True),
}
"""By the provider prefix of `litellm_params.model`."""


class CompatibleTeacher:
    """One served model. The client carries base URL, key and transport; closing it is its owner's business.

    Servers that stream in words of their own override what a stream is asked with, where, and how it is read.
    """

    _streaming: ClassVar[Mapping[str, Any]] = {"stream": True, "stream_options": {"include_usage": True}}

    def __init__(
        self, name: str, model: str, client: httpx.AsyncClient, template: ChatTemplate, provider: Provider
    ) -> None:
        self._name = name
        self._model = model
        self._client = client
        self._template = template
        self._provider = provider

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
            payload = self._payload(ask, stops)
            if on_text is None and self._provider.reports_stop:
                return await self._whole(payload, ask)
            return await self._streamed(payload, ask, stops, on_text)
        except jinja2.TemplateError as exc:
            raise TeacherError(self._name, "refused", f"its chat template refuses this conversation: {exc}") from exc
        except httpx.TimeoutException as exc:
            raise TeacherError(self._name, "timeout", f"{type(exc).__name__} at {self._client.base_url}") from exc
        except httpx.ConnectError as exc:
            raise TeacherError(self._name, "unreachable", f"cannot connect to {self._client.base_url}: {exc}") from exc
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as exc:
            raise TeacherError(self._name, "broken", f"unreadable reply: {type(exc).__name__}: {exc}") from exc

    def _payload(self, ask: TeacherRequest, stops: tuple[str, ...]) -> dict[str, Any]:
        served: dict[str, Any] = {"stop": list(stops)} if stops and self._provider.reports_stop else {}
        if self._template.markup.special:
            served["skip_special_tokens"] = False
        if ask.format is not None:
            served["response_format"] = ask.format
        return {
            "model": self._model,
            "prompt": self._template.turn(ask),
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
            **served,
            **self._provider.extra,
        }

    async def _whole(self, payload: dict[str, Any], ask: TeacherRequest) -> Continuation:
        reply = await self._client.post("completions", json=payload)
        if reply.status_code != 200:
            raise failure(self._name, reply)
        body = reply.json()
        choice = body["choices"][0]
        ended = ended_by(choice.get("finish_reason"), choice.get("stop_reason"), ask)
        return self._continuation(choice["text"], ended, body.get("usage"), payload["prompt"])

    async def _streamed(
        self, payload: dict[str, Any], ask: TeacherRequest, stops: tuple[str, ...], on_text: OnText | None
    ) -> Continuation:
        payload |= self._streaming
        scanner = StopScanner(() if self._provider.reports_stop else stops)
        pieces: list[str] = []
        usage: dict[str, Any] | None = None
        finish = stop = None

        def hear(text: str) -> None:
            pieces.append(text)
            if text and on_text is not None:
                on_text(text)

        async with self._client.stream("POST", self._url, json=payload) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise failure(self._name, reply)
            async for chunk in self._chunks(reply):
                if "error" in chunk:
                    raise TeacherError(self._name, "broken", f"failed while writing: {chunk['error']}")
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", ())[:1]:
                    hear(scanner.feed(choice.get("text") or ""))
                    finish = choice.get("finish_reason") or finish
                    stop = scanner.hit or choice.get("stop_reason") or stop
                if scanner.hit is not None:
                    finish = "stop"
                    break
            else:
                hear(scanner.flush())
        if finish is None:
            if not any(pieces):
                await self._raise_reason(payload)
            raise TeacherError(self._name, "broken", "the stream broke off before its end")
        return self._continuation("".join(pieces), ended_by(finish, stop, ask), usage, payload["prompt"])

    @property
    def _url(self) -> httpx.URL | str:
        return "completions"

    def _chunks(self, reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
        """What a stream says, in the form of OpenAI's chunks."""
        return _chunks(reply)

    async def _raise_reason(self, payload: dict[str, Any]) -> None:
        """Ask again without streaming: llama.cpp's Python server refuses a stream by ending it, without a word."""
        whole = {**payload, "stream": False, "max_tokens": 1}
        try:
            reply = await self._client.post("completions", json=whole)
        except httpx.ReadError:
            reply = await self._client.post("completions", json=whole)
        if reply.status_code != 200:
            raise failure(self._name, reply)

    def _continuation(self, text: str, ended: Ended, usage: Mapping[str, Any] | None, prompt: str) -> Continuation:
        if usage is None:
            return Continuation(text, ended, approximate_tokens(prompt), approximate_tokens(text))
        return Continuation(text, ended, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def ended_by(finish: object, stop: object, ask: TeacherRequest) -> Ended:
    """Why a completion ended, from its finish reason and the stop text that was hit, if any."""
    if finish == "length":
        return "length"
    if stop in ask.stop:
        return "marker"
    return "closed" if isinstance(stop, str) else "eos"


async def _chunks(reply: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of an event stream."""
    decoder = sse.Decoder()
    async for received in reply.aiter_bytes():
        for event in decoder.feed(received):
            if event.data != "[DONE]":
                yield json.loads(event.data)


def failure(teacher: str, reply: httpx.Response) -> TeacherError:
    """An HTTP error as the typed failure it means."""
    try:
        error = reply.json()["error"]
        message, code = str(error["message"]), str(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = reply.text[:500], ""
    return TeacherError(teacher, _kind(reply.status_code, message, code), f"HTTP {reply.status_code}: {message}")


def _kind(status: int, message: str, code: str) -> FailureKind:
    if code == "context_length_exceeded" or "maximum context length" in message:
        return "context_overflow"
    match status:
        case 404:
            return "unknown_model"
        case 408 | 504:
            return "timeout"
        case 429:
            return "rate_limited"
        case 502 | 503 | 529:
            return "overloaded"
        case _:
            return "refused" if status < 500 else "broken"
