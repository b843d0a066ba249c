"""An OpenAI chat request as it may come in, parsed once and strictly; every fault names its field.

Holds the request's shape. What the fields mean for the search is `proxy.api.job`'s; what cannot be honoured is
`proxy.api.fields`'.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proxy.api.old_names import explain
from proxy.api.options import SearchOptions, with_settings
from proxy.decoder.tool_calls import ToolCall, response
from proxy.decoder.types import Message
from proxy.errors import RequestError

Role = Literal["system", "developer", "user", "assistant"]

_CLOSED_THINKING = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
_INT64 = 2**63


def _content(value: Any) -> Any:
    """Content as one text: a string as it is, text parts joined by newlines (as vLLM joins them)."""
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in value:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise ValueError("a content part must be an object with a 'type'")
        if part["type"] != "text":
            raise ValueError(
                f"content parts of type {part['type'][:64]!r} are not supported, only 'text'"
            )
        if not isinstance(part.get("text"), str) or part.keys() - {"type", "text"}:
            raise ValueError("a text part holds 'type' and 'text', a string, and nothing else")
        texts.append(part["text"])
    return "\n".join(texts)


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Content = Annotated[str, BeforeValidator(_content)]
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(max_length=512)]


class Wire(BaseModel):
    """What came over the wire: strict, and without a field that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CalledFunction(Wire):
    name: Text
    arguments: str


class WireToolCall(Wire):
    """A call that an earlier reply made."""

    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class Function(Wire):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    """What may be called."""

    type: Literal["function"]
    function: Function


class WireMessage(Wire):
    """One message. An assistant's own extras from an earlier reply are taken back and dropped."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[Content | None, Field(validate_default=True)] = None
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: Any = None
    refusal: None = None
    annotations: Any = None
    audio: None = None
    function_call: None = None
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = None

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: str | None, info: ValidationInfo) -> str | None:
        # An earlier reply of ours, cut off by its budget before the answer, comes back with empty content.
        if info.data.get("role") not in ("assistant", "tool") and not (content or "").strip():
            raise ValueError("content is missing or empty")
        return content

    @field_validator("tool_calls", "tool_call_id")
    @classmethod
    def _fits_its_role(cls, value: Any, info: ValidationInfo) -> Any:
        role = "tool" if info.field_name == "tool_call_id" else "assistant"
        if value and info.data.get("role") != role:
            raise ValueError(f"belongs to the role {role!r}")
        return value

    def message(self) -> Message:
        """The message as the teachers see it: text alone, no earlier reasoning, and by roles that templates know."""
        content = self.content or ""
        match self.role:
            case "assistant":
                calls = [
                    ToolCall(call.function.name, call.function.arguments).text
                    for call in self.tool_calls or ()
                ]
                said = _CLOSED_THINKING.sub("", content)
                return Message("assistant", "\n".join(filter(None, [said, *calls])), self.name)
            case "tool":
                return Message("user", response(content))
            case "developer":
                return Message("system", content, self.name)
        return Message(self.role, content, self.name)

    def recorded(self) -> dict[str, Any]:
        """The message as a trace keeps it: as it was sent, but for what an earlier reply of ours carried besides."""
        fields = {"role", "content", "name", "tool_calls", "tool_call_id"}
        told = self.model_dump(include=fields, exclude_none=True)
        return {**told, "content": _CLOSED_THINKING.sub("", self.content or "")}


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: bool | None = None


class JsonSchema(Wire):
    """A schema that an answer is held to; the teacher's server judges it."""

    name: Annotated[str, Field(max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Wire):
    """What the answer must be. Reasoning is free of it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _brings_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type 'json_schema', which needs it")
        return self


Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-_INT64, lt=_INT64)]
Tokens = Annotated[int, Field(ge=1, le=_INT64)]
Stop = Annotated[list[Text], BeforeValidator(_list), Field(max_length=4)]
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)]


@with_settings
class CordOptions(SearchOptions):
    """The `cord` object: search settings, the reference answers, and where the reasoning goes.

    `relay` has been heeded before (`proxy.api.plan`).
    """

    reference: (
        Annotated[list[Text], BeforeValidator(_list), Field(min_length=1, max_length=64)] | None
    ) = None
    inline_reasoning: bool | None = None
    relay: bool | None = None


class ChatRequest(Wire):
    """The body of `POST /v1/chat/completions`, but for the fields in `proxy.api.fields`."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[WireMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    cord: CordOptions | None = None

    metadata: Metadata | None = None
    user: Label | None = None
    store: bool | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    service_tier: Label | None = None
    verbosity: Label | None = None
    reasoning_effort: Label | None = None


RECORDED = (
    "metadata", "user", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
    "verbosity", "reasoning_effort",
)  # fmt: skip
"""Fields that are kept beside the trace and change nothing."""


Body = TypeVar("Body", bound=Wire)


def check(fields: Mapping[str, Any], kind: type[Body]) -> Body:
    """A request body, checked strictly.

    Raises:
        RequestError: a field is wrong, missing or unknown; `param` names the field.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as exc:
        raise _first_fault(exc) from None


def _first_fault(exc: ValidationError) -> RequestError:
    fault = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ""
    for part in fault["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    param = path[:256]  # keys are the client's, and may be of any length
    match fault["type"]:
        case "extra_forbidden":
            told = explain(str(fault["loc"][-1]))
            message = f"unknown field {param!r}" if told is None else f"{param}: {told}"
            return RequestError(message, param=param, code="unknown_parameter")
        case "missing":
            return RequestError(
                f"{param!r} is missing", param=param, code="missing_required_parameter"
            )
        case "model_type":
            return RequestError(f"{param}: must be an object", param=param, code="invalid_value")
    message = fault["msg"].removeprefix("Value error, ")
    return RequestError(f"{param}: {message}", param=param, code="invalid_value")
