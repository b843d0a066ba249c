"""`/v1/responses`: OpenAI's newer form of a request, its reply and its stream of events. Pure, no I/O.

The reasoning is an output item of its own, before the message. Nothing is stored, so there is nothing to go back to by
`previous_response_id`: the client sends the whole conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from proxy import sse
from proxy.api.body import to_json
from proxy.api.chat import answer_of, cord_object, suffix, tool_wishes
from proxy.api.endpoint import Exchange, ReplyStream
from proxy.api.errors import ErrorReply
from proxy.api.fields import RESPONSES, supported, wishes
from proxy.api.plan import Wish
from proxy.api.schema import (
    ChatRequest,
    CordOptions,
    Function,
    JsonSchema,
    Label,
    Metadata,
    ResponseFormat,
    Seed,
    Temperature,
    Text,
    Tokens,
    Tool,
    TopP,
    Wire,
    WireMessage,
    WireToolCall,
    check,
)
from proxy.api.stream import Push
from proxy.decoder import tool_calls
from proxy.decoder.events import AnswerDelta, Committed
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import Summary
from proxy.decoder.types import Result
from runtime.stopping import StopScanner

_TEXTS = ("input_text", "output_text", "text")
_TURNS = ("assistant", "tool")  # may be empty: calls, and results that say nothing
_ITEMS = ("message", "reasoning", "function_call", "function_call_output")


class Item(Wire):
    """One message of the conversation, with its text parts joined, or the calls of a turn, or a call's result."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = None

    def message(self) -> WireMessage:
        return WireMessage.model_construct(
            **{name: getattr(self, name) for name in Item.model_fields}
        )


def _items(value: Any) -> Any:
    """The conversation as messages; earlier reasoning is left out, and calls made together are one turn."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        return value
    messages: list[dict[str, Any]] = []
    before: Any = None
    for item in value:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        match kind:
            case "reasoning":
                continue
            case "message":
                messages.append({"role": item.get("role"), "content": _text(item.get("content"))})
            case "function_call":
                function = {"name": item.get("name"), "arguments": item.get("arguments")}
                call = {"id": item.get("call_id"), "type": "function", "function": function}
                if before == "function_call":
                    messages[-1]["tool_calls"].append(call)
                else:
                    messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "function_call_output":
                output, id = _text(item.get("output")), item.get("call_id")
                messages.append({"role": "tool", "content": output, "tool_call_id": id})
            case _:
                raise ValueError(
                    f"items of type {str(kind)[:64]!r} are not supported, only {', '.join(_ITEMS)}"
                )
        before = kind
    return messages


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if (
            not isinstance(part, dict)
            or part.get("type") not in _TEXTS
            or not isinstance(part.get("text"), str)
        ):
            raise ValueError(f"content parts must hold text: {', '.join(_TEXTS)}")
        texts.append(part["text"])
    return "\n".join(texts)


class FunctionTool(Wire):
    """What may be called: a function, named flat."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def chat(self) -> Tool:
        """As chat completions put it."""
        told = {
            name: getattr(self, name) for name in ("name", "description", "parameters", "strict")
        }
        return Tool(type="function", function=Function.model_validate(told))


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
            type=self.type,
            json_schema=JsonSchema.model_validate(self.model_dump(by_alias=True, exclude={"type"})),
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
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
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
        same = self.model_fields_set & ChatRequest.model_fields.keys() - {"stream_options", "tools"}
        fields = {name: getattr(self, name) for name in same}
        told = [Item(role="system", content=self.instructions)] if self.instructions else []
        messages = [
            item.message() for item in (*told, *self.input) if item.content or item.role in _TURNS
        ]
        return ChatRequest.model_construct(
            **fields,
            messages=messages,
            tools=[tool.chat() for tool in self.tools or ()],
            max_completion_tokens=self.max_output_tokens,
            response_format=self.text.format.chat() if self.text and self.text.format else None,
            verbosity=self.text.verbosity if self.text else None,
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
        )


@dataclass(frozen=True, slots=True)
class _Reply:
    """The response object at any point of its life, and the items in it."""

    exchange: Exchange
    asked: ResponsesRequest

    @property
    def suffix(self) -> str:
        return suffix(self.exchange.job)

    def response(self, status: str, output: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        asked, job = self.asked, self.exchange.job
        format = asked.text.format if asked.text else None
        reasoning = asked.reasoning or ReasoningOptions()
        return {
            "id": f"resp_{self.suffix}",
            "object": "response",
            "created_at": int(job.received),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": job.ensemble.name,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
            "store": False,
            "temperature": job.settings.sampling.temperature,
            "text": {
                "format": format.model_dump(by_alias=True, exclude_none=True)
                if format
                else {"type": "text"}
            },
            "tool_choice": asked.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_p": job.settings.sampling.top_p,
            "truncation": asked.truncation or "disabled",
            "usage": None,
            "user": asked.user,
            **more,
        }

    def ended(self, result: Result, summary: Summary) -> dict[str, Any]:
        """The whole response: the reasoning, then what is said, then what is called."""
        usage = summary.usage
        content, called, finish = answer_of(self.exchange.job, result)
        whole = finish != "length"
        output = [self.thought([step.candidate.text for step in summary.steps])]
        if content.strip() or not called:
            output.append(self.message(content, whole=whole))
        output += [self.call(call) for call in called]
        return self.response(
            "completed" if whole else "incomplete",
            output,
            incomplete_details=None if whole else {"reason": "max_output_tokens"},
            usage={
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.total_tokens,
            },
            cord=cord_object(self.exchange, result, summary),
        )

    def thought(self, steps: list[str] | None) -> dict[str, Any]:
        """The reasoning as an item: one text, and a summary part for each step; before its text where that is None."""
        done = steps is not None
        return {
            "id": f"rs_{self.suffix}",
            "type": "reasoning",
            "status": "completed" if done else "in_progress",
            "summary": [_summary_part(step) for step in steps or ()],
            "content": [{"type": "reasoning_text", "text": "".join(steps or ())}] if done else [],
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

    def call(self, call: dict[str, Any], status: str = "completed") -> dict[str, Any]:
        """A call of the answer as an item."""
        return {
            "id": f"fc_{call['id'].removeprefix('call_')}",
            "type": "function_call",
            "status": status,
            "call_id": call["id"],
            **call["function"],
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_part(step: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": step.rstrip()}


@dataclass(slots=True)
class ResponseStream:
    """Turns a search into the events of a response: one item opens, grows and closes, then the next."""

    reply: _Reply
    push: Push
    number: int = 0
    index: int = 0
    began: bool = False
    reasoned: bool = False
    thought: list[str] = field(default_factory=list)
    said: str | None = None
    held: StopScanner = field(default_factory=lambda: StopScanner((tool_calls.OPENING,)))

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        match stamped.event:
            case Committed(candidate):
                self._begin()
                self._think(candidate.text)
            case AnswerDelta(text):
                # What may become a call is held back until it is known whether it is one.
                self._answer(
                    self.held.feed(text) if self.reply.exchange.job.problem.tools else text
                )

    def finish(self, result: Result, summary: Summary) -> None:
        """Close the message, tell the calls, and close the response."""
        response = self.reply.ended(result, summary)
        content, called, _ = answer_of(self.reply.exchange.job, result)
        self._end_thought()
        if self.said is not None or content.strip() or not called:
            self._answer(content[len(self.said or "") :], open=True)
            item = self.reply.message(content, whole=response["status"] == "completed")
            self._say(
                "response.output_text.done",
                **self._at("msg"),
                content_index=0,
                text=content,
                logprobs=[],
            )
            self._say(
                "response.content_part.done",
                **self._at("msg"),
                content_index=0,
                part=_part(content),
            )
            self._say("response.output_item.done", output_index=self.index, item=item)
            self.index += 1
        for call in called:
            self._call(call)
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
        self._say("response.content_part.added", **self._at("rs"), content_index=0, part=part)

    def _think(self, step: str) -> None:
        """A step, as text of the reasoning and as a part of its summary."""
        at, text = {**self._at("rs"), "summary_index": len(self.thought)}, step.rstrip()
        self.thought.append(step)
        self._say("response.reasoning_text.delta", **self._at("rs"), content_index=0, delta=step)
        self._say("response.reasoning_summary_part.added", **at, part=_summary_part(""))
        self._say("response.reasoning_summary_text.delta", **at, delta=text)
        self._say("response.reasoning_summary_text.done", **at, text=text)
        self._say("response.reasoning_summary_part.done", **at, part=_summary_part(step))

    def _end_thought(self) -> None:
        """Close the reasoning, once."""
        self._begin()
        if self.reasoned:
            return
        self.reasoned = True
        text = "".join(self.thought)
        part = {"type": "reasoning_text", "text": text}
        self._say("response.reasoning_text.done", **self._at("rs"), content_index=0, text=text)
        self._say("response.content_part.done", **self._at("rs"), content_index=0, part=part)
        self._say(
            "response.output_item.done", output_index=0, item=self.reply.thought(self.thought)
        )
        self.index = 1

    def _answer(self, text: str, *, open: bool = False) -> None:
        """Say more of the answer, whose item is opened by its first text, or because it is wanted."""
        if not text and not open:
            return
        self._end_thought()
        if self.said is None:
            self.said = ""
            self._say(
                "response.output_item.added", output_index=self.index, item=self.reply.message(None)
            )
            self._say(
                "response.content_part.added", **self._at("msg"), content_index=0, part=_part("")
            )
        if text:
            self.said += text
            self._say(
                "response.output_text.delta",
                **self._at("msg"),
                content_index=0,
                delta=text,
                logprobs=[],
            )

    def _call(self, call: dict[str, Any]) -> None:
        whole = self.reply.call(call)
        at, arguments = {"item_id": whole["id"], "output_index": self.index}, whole["arguments"]
        begun = {**whole, "status": "in_progress", "arguments": ""}
        self._say("response.output_item.added", output_index=self.index, item=begun)
        self._say("response.function_call_arguments.delta", **at, delta=arguments)
        self._say(
            "response.function_call_arguments.done", **at, name=whole["name"], arguments=arguments
        )
        self._say("response.output_item.done", output_index=self.index, item=whole)
        self.index += 1

    def _at(self, kind: str) -> dict[str, Any]:
        return {"item_id": f"{kind}_{self.reply.suffix}", "output_index": self.index}

    def _say(self, kind: str, **body: Any) -> None:
        self.push(self._frame(kind, **body))

    def _frame(self, kind: str, **body: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return sse.encode(to_json({"type": kind, "sequence_number": number, **body}), kind)


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """A response request, as it came and as a chat."""

    chat: ChatRequest
    asked: ResponsesRequest

    def reply(self, exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
        return _Reply(exchange, self.asked).ended(result, summary)

    def stream(self, exchange: Exchange, push: Push) -> ReplyStream:
        return ResponseStream(_Reply(exchange, self.asked), push)


@dataclass(frozen=True, slots=True)
class ResponsesEndpoint:
    """`/v1/responses`."""

    path: str = "responses"
    tail: bytes = b""

    def wishes(self, fields: Mapping[str, Any]) -> list[Wish]:
        """Stored conversations, tools, a format, and input that is not text."""
        found = wishes(fields, RESPONSES)
        tools = fields.get("tools")
        kinds = (
            [tool.get("type") for tool in tools if isinstance(tool, dict)]
            if isinstance(tools, list)
            else []
        )
        hosted = next((kind for kind in kinds if kind != "function"), None)
        if hosted is not None:
            message = (
                f"tools of type {str(hosted)[:64]!r} cannot be called by a panel, only functions"
            )
            found.append(Wish("tools", "single", message))
        found += tool_wishes(fields)
        text = fields.get("text")
        format = text.get("format") if isinstance(text, dict) else None
        if format is not None and not (isinstance(format, dict) and format.get("type") == "text"):
            found.append(
                Wish(
                    "text.format",
                    "format",
                    "text.format: no teacher here can hold an answer to a format",
                )
            )
        try:
            _items(fields.get("input"))
        except ValueError as exc:
            found.append(Wish("input", "single", f"input: {exc}"))
        return found

    def parse(self, fields: Mapping[str, Any]) -> ParsedResponse:
        asked = check(supported(fields, RESPONSES), ResponsesRequest)
        return ParsedResponse(asked.chat(), asked)
