"""`/v1/responses`: OpenAI's newer form of a request, its reply and its stream of events. Pure, no I/O.

The reasoning is an output item of its own, before the message. Nothing is stored, so there is nothing to go back to by
`previous_response_id`: the client sends the whole conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from proxy import sse
from proxy.api.body import to_json
from proxy.api.chat import cord_object, suffix
from proxy.api.dialect import Asked, Dialect
from proxy.api.errors import ErrorReply
from proxy.api.fields import RESPONSES, drop_neutral
from proxy.api.schema import (
    ChatRequest,
    CordOptions,
    JsonSchema,
    Label,
    Metadata,
    ResponseFormat,
    Role,
    Seed,
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

_TEXTS = ("input_text", "output_text", "text")


class Item(Wire):
    """One message of the conversation, with its text parts joined."""

    role: Role
    content: str


def _items(value: Any) -> Any:
    """The conversation as messages; earlier reasoning is left out, as its items say only what was thought."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return value
    messages = []
    for item in value:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "reasoning":
            continue
        if kind != "message":
            raise ValueError(f"items of type {str(kind)[:64]!r} are not supported, only 'message' and 'reasoning'")
        messages.append({"role": item.get("role"), "content": _text(item.get("content"))})
    return messages


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXTS or not isinstance(part.get("text"), str):
            raise ValueError(f"content parts must hold text: {', '.join(_TEXTS)}")
        texts.append(part["text"])
    return "\n".join(texts)


class TextFormat(Wire):
    """What the answer must be, as `text.format` puts it."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _brings_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None and self.name is not None):
            raise ValueError("name and schema belong to the type 'json_schema', which needs them")
        return self

    def chat(self) -> ResponseFormat:
        """As chat completions put it."""
        if self.type != "json_schema":
            return ResponseFormat(type=self.type)
        return ResponseFormat(
            type=self.type, json_schema=JsonSchema.model_validate(self.model_dump(by_alias=True, exclude={"type"}))
        )


class TextOptions(Wire):
    format: TextFormat | None = None
    verbosity: Label | None = None


class ReasoningOptions(Wire):
    """Recorded, as far as it says how hard to think; how hard is `cord`'s business."""

    effort: Label | None = None
    summary: Label | None = None
    generate_summary: Label | None = None


class StreamOptions(Wire):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(Wire):
    """The body of `POST /v1/responses`, but for the fields in `proxy.api.fields`. `seed` is an extension."""

    model: Text
    input: Annotated[list[Item], BeforeValidator(_items), Field(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    max_output_tokens: Tokens | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    store: bool | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    service_tier: Label | None = None
    cord: CordOptions | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not any(item.content.strip() for item in self.input if item.role != "assistant"):
            raise ValueError("input: nothing is asked")
        return self

    def chat(self) -> ChatRequest:
        """The same as a chat."""
        same = self.model_fields_set & ChatRequest.model_fields.keys() - {"stream_options"}
        fields = {name: getattr(self, name) for name in same}
        told = [Item(role="system", content=self.instructions)] if self.instructions else []
        messages = [WireMessage(role=item.role, content=item.content) for item in (*told, *self.input) if item.content]
        return ChatRequest.model_construct(
            **fields,
            messages=messages,
            max_completion_tokens=self.max_output_tokens,
            response_format=self.text.format.chat() if self.text and self.text.format else None,
            verbosity=self.text.verbosity if self.text else None,
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
        )


@dataclass(frozen=True, slots=True)
class _Reply:
    """The response object at any point of its life, and the items in it."""

    job: Job
    asked: ResponsesRequest

    @property
    def suffix(self) -> str:
        return suffix(self.job)

    def response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        asked, sampling = self.asked, self.job.settings.sampling
        format = asked.text.format if asked.text else None
        reasoning = asked.reasoning or ReasoningOptions()
        return {
            "id": f"resp_{self.suffix}",
            "object": "response",
            "created_at": int(self.job.received),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self.job.ensemble.name,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.effort, "summary": None},
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": format.model_dump(by_alias=True, exclude_none=True) if format else {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": sampling.top_p,
            "truncation": asked.truncation or "disabled",
            "usage": None,
            "user": asked.user,
            **more,
        }

    def ended(self, result: Result, summary: Summary, request_id: str) -> dict[str, Any]:
        """The whole response."""
        whole, usage = result.finish_reason == "stop", summary.usage
        return self.response(
            "completed" if whole else "incomplete",
            [self.thought(result.winner.text), self.message(result.answer, whole=whole)],
            incomplete_details=None if whole else {"reason": "max_output_tokens"},
            usage={
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.total_tokens,
            },
            cord=cord_object(self.job, result, summary, request_id),
        )

    def thought(self, text: str | None) -> dict[str, Any]:
        """The reasoning as an item; before its text where that is None."""
        done = text is not None
        return {
            "id": f"rs_{self.suffix}",
            "type": "reasoning",
            "status": "completed" if done else "in_progress",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}] if done else [],
        }

    def message(self, text: str | None, *, whole: bool = True) -> dict[str, Any]:
        """The answer as an item; before its text where that is None."""
        status = "in_progress" if text is None else "completed" if whole else "incomplete"
        return {
            "id": f"msg_{self.suffix}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [] if text is None else [_part(text)],
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


@dataclass(slots=True)
class ResponseStream:
    """Turns a search into the events of a response: one item opens, grows and closes, then the next."""

    reply: _Reply
    push: Callable[[bytes], None]
    number: int = 0
    began: bool = False
    thought: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    answering: bool = False

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        match stamped.event:
            case Committed(candidate):
                self._begin()
                self.thought.append(candidate.text)
                self._say("response.reasoning_text.delta", **self._at(0), content_index=0, delta=candidate.text)
            case AnswerDelta(text):
                self._open_answer()
                self.answer.append(text)
                self._say("response.output_text.delta", **self._at(1), content_index=0, delta=text, logprobs=[])

    def finish(self, result: Result, summary: Summary, request_id: str) -> None:
        """Close the message and the response."""
        self._open_answer()
        text = "".join(self.answer)
        response = self.reply.ended(result, summary, request_id)
        self._say("response.output_text.done", **self._at(1), content_index=0, text=text, logprobs=[])
        self._say("response.content_part.done", **self._at(1), content_index=0, part=_part(text))
        self._say("response.output_item.done", output_index=1, item=response["output"][1])
        self._say(f"response.{response['status']}", response=response)

    def failure(self, reply: ErrorReply) -> bytes:
        """An error in the middle of a stream."""
        return self._frame("error", code=reply.code, message=reply.message, param=reply.param)

    def _begin(self) -> None:
        if self.began:
            return
        self.began = True
        response = self.reply.response("in_progress", [])
        self._say("response.created", response=response)
        self._say("response.in_progress", response=response)
        self._say("response.output_item.added", output_index=0, item=self.reply.thought(None))
        part = {"type": "reasoning_text", "text": ""}
        self._say("response.content_part.added", **self._at(0), content_index=0, part=part)

    def _open_answer(self) -> None:
        """Close the reasoning, once, and open the message."""
        self._begin()
        if self.answering:
            return
        self.answering = True
        text = "".join(self.thought)
        part = {"type": "reasoning_text", "text": text}
        self._say("response.reasoning_text.done", **self._at(0), content_index=0, text=text)
        self._say("response.content_part.done", **self._at(0), content_index=0, part=part)
        self._say("response.output_item.done", output_index=0, item=self.reply.thought(text))
        self._say("response.output_item.added", output_index=1, item=self.reply.message(None))
        self._say("response.content_part.added", **self._at(1), content_index=0, part=_part(""))

    def _at(self, index: int) -> dict[str, Any]:
        return {"item_id": f"{('rs', 'msg')[index]}_{self.reply.suffix}", "output_index": index}

    def _say(self, kind: str, **body: Any) -> None:
        self.push(self._frame(kind, **body))

    def _frame(self, kind: str, **body: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return sse.encode(to_json({"type": kind, "sequence_number": number, **body}), kind)


def _read(body: bytes) -> Asked:
    asked = parse(body, ResponsesRequest, RESPONSES)
    return Asked(asked.chat(), asked)


def _needs_one(asked: Mapping[str, Any], ensemble: Ensemble) -> str | None:
    """Tools, stored conversations, schemas that nobody here holds to, and input that is not text."""
    try:
        drop_neutral(asked, RESPONSES)
        _items(asked.get("input"))
    except RequestError as exc:
        return exc.param
    except ValueError:
        return "input"
    text = asked.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    return "text" if wanted not in (None, {"type": "text"}) and not ensemble.supports_response_format else None


DIALECT = Dialect(
    path="responses",
    read=_read,
    needs_one=_needs_one,
    whole=lambda job, asked, result, summary, id, inline: _Reply(job, asked.own).ended(result, summary, id),
    stream=lambda job, asked, inline, push: ResponseStream(_Reply(job, asked.own), push),
    tail=b"",
)
