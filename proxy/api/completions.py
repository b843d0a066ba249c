"""`/v1/completions` for what is decoded: the prompt is one user's message, the answer is the text. Pure, no I/O.

A single teacher continues the prompt itself, raw: that goes straight to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy import sse
from proxy.api.body import to_json
from proxy.api.chat import THINK, THOUGHT, cord_object, suffix, usage_object
from proxy.api.endpoint import Exchange, ReplyStream
from proxy.api.errors import ErrorReply
from proxy.api.fields import COMPLETIONS, supported, wishes
from proxy.api.plan import Wish
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
    check,
)
from proxy.api.stream import DONE, Push
from proxy.decoder.events import AnswerDelta, Committed
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary
from proxy.decoder.types import Result
from proxy.service import Job


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
        return ChatRequest.model_construct(
            **fields, messages=[WireMessage(role="user", content=self.prompt)]
        )


@dataclass(slots=True)
class CompletionStream:
    """Turns events into chunks as they come; `finish` adds the last ones."""

    exchange: Exchange
    push: Push
    include_usage: bool
    thought: bool = False
    answering: bool = False

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        match stamped.event:
            case Committed(candidate) if self.exchange.inline:
                self._say(candidate.text if self.thought else THINK + candidate.text)
                self.thought = True
            case AnswerDelta(text):
                self._say(THOUGHT + text if self.thought and not self.answering else text)
                self.answering = True

    def finish(self, result: Result, summary: Summary) -> None:
        """The chunk with the finish reason and the summary, and the one with the usage if it was asked for."""
        self._say("", result.finish_reason, cord=cord_object(self.exchange, result, summary))
        if self.include_usage:
            self._push({"choices": [], "usage": usage_object(summary.usage)})

    def failure(self, reply: ErrorReply) -> bytes:
        """An error in the middle of a stream."""
        return reply.frame

    def _say(self, text: str, finish_reason: str | None = None, **extra: Any) -> None:
        self._push({"choices": [_choice(text, finish_reason)], **extra})

    def _push(self, body: dict[str, Any]) -> None:
        self.push(sse.encode(to_json({**_head(self.exchange.job), **body})))


def completion(exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
    """The whole reply as a `text_completion`."""
    text = (
        f"{THINK}{result.winner.text}{THOUGHT}{result.answer}" if exchange.inline else result.answer
    )
    return {
        **_head(exchange.job),
        "choices": [_choice(text, result.finish_reason)],
        "usage": usage_object(summary.usage),
        "cord": cord_object(exchange, result, summary),
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


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """A completion request as a chat."""

    chat: ChatRequest

    def reply(self, exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
        return completion(exchange, result, summary)

    def stream(self, exchange: Exchange, push: Push) -> ReplyStream:
        options = self.chat.stream_options
        return CompletionStream(exchange, push, bool(options and options.include_usage))


@dataclass(frozen=True, slots=True)
class CompletionsEndpoint:
    """`/v1/completions`."""

    path: str = "completions"
    tail: bytes = DONE

    def wishes(self, fields: Mapping[str, Any]) -> list[Wish]:
        """Fields that a panel cannot honour, tokens, and several prompts."""
        found = wishes(fields, COMPLETIONS)
        if isinstance(fields.get("prompt"), list):
            found.append(
                Wish(
                    "prompt", "single", "a panel decodes one prompt of text, no list and no tokens"
                )
            )
        return found

    def parse(self, fields: Mapping[str, Any]) -> ParsedCompletion:
        return ParsedCompletion(check(supported(fields, COMPLETIONS), CompletionRequest).chat())
