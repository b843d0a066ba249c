"""`/v1/completions` for what is decoded: the prompt is one user's message, the answer is the text. Pure, no I/O.

A single teacher continues the prompt itself, raw: that goes straight to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy import sse
from proxy.api.body import to_json
from proxy.api.chat import THINK, THOUGHT, cord_object, suffix, usage_object
from proxy.api.dialect import Asked, Dialect
from proxy.api.errors import ErrorReply
from proxy.api.fields import COMPLETIONS, drop_neutral
from proxy.api.schema import (
    ChatRequest,
    CordOptions,
    Label,
    Metadata,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    Text,
    Tokens,
    TopP,
    Wire,
    WireMessage,
    parse,
)
from proxy.decoder.events import AnswerDelta, Committed
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary
from proxy.decoder.types import Result
from proxy.errors import RequestError
from proxy.service import Ensemble, Job


class CompletionRequest(Wire):
    """The body of `POST /v1/completions`, but for the fields in `proxy.api.fields`. `max_tokens` bounds it all."""

    model: Text
    prompt: Text
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    max_tokens: Tokens | None = None
    user: Label | None = None
    metadata: Metadata | None = None
    cord: CordOptions | None = None

    def chat(self) -> ChatRequest:
        """The same as a chat."""
        fields = {name: getattr(self, name) for name in self.model_fields_set - {"prompt"}}
        return ChatRequest.model_construct(**fields, messages=[WireMessage(role="user", content=self.prompt)])


@dataclass(slots=True)
class CompletionStream:
    """Turns events into chunks as they come; `finish` adds the last ones."""

    job: Job
    inline: bool
    include_usage: bool
    push: Callable[[bytes], None]
    thought: bool = False
    answering: bool = False

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        match stamped.event:
            case Committed(candidate) if self.inline:
                self._say(candidate.text if self.thought else THINK + candidate.text)
                self.thought = True
            case AnswerDelta(text):
                self._say(THOUGHT + text if self.thought and not self.answering else text)
                self.answering = True

    def finish(self, result: Result, summary: Summary, request_id: str) -> None:
        """The chunk with the finish reason and the summary, and the one with the usage if it was asked for."""
        self._say("", result.finish_reason, cord=cord_object(self.job, result, summary, request_id))
        if self.include_usage:
            self._push({"choices": [], "usage": usage_object(summary.usage)})

    def failure(self, reply: ErrorReply) -> bytes:
        """An error in the middle of a stream."""
        return reply.frame

    def _say(self, text: str, finish_reason: str | None = None, **extra: Any) -> None:
        self._push({"choices": [_choice(text, finish_reason)], **extra})

    def _push(self, body: dict[str, Any]) -> None:
        self.push(sse.encode(to_json({**_head(self.job), **body})))


def completion(job: Job, result: Result, summary: Summary, request_id: str, *, inline: bool) -> dict[str, Any]:
    """The whole reply as a `text_completion`."""
    text = f"{THINK}{result.winner.text}{THOUGHT}{result.answer}" if inline else result.answer
    return {
        **_head(job),
        "choices": [_choice(text, result.finish_reason)],
        "usage": usage_object(summary.usage),
        "cord": cord_object(job, result, summary, request_id),
    }


def _choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _head(job: Job) -> dict[str, Any]:
    return {
        "id": f"cmpl-{suffix(job)}",
        "object": "text_completion",
        "created": int(job.received),
        "model": job.ensemble.name,
    }


def _read(body: bytes) -> Asked:
    return Asked(parse(body, CompletionRequest, COMPLETIONS).chat())


def _needs_one(asked: Mapping[str, Any], ensemble: Ensemble) -> str | None:
    """Tokens, several prompts, and what asks for more than the answer."""
    try:
        drop_neutral(asked, COMPLETIONS)
    except RequestError as exc:
        return exc.param
    return "prompt" if isinstance(asked.get("prompt"), list) else None


def _stream(job: Job, asked: Asked, inline: bool, push: Callable[[bytes], None]) -> CompletionStream:
    options = asked.chat.stream_options
    return CompletionStream(job, inline, bool(options and options.include_usage), push)


DIALECT = Dialect(
    path="completions",
    read=_read,
    needs_one=_needs_one,
    whole=lambda job, asked, result, summary, id, inline: completion(job, result, summary, id, inline=inline),
    stream=_stream,
)
