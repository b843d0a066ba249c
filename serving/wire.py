"""The completions wire format: what a request may say, checked once, and how replies and errors are
written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from runtime.errors import error_body

Text = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """What a stream carries beside text."""

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """OpenAI's completions request with vLLM's additions; unknown fields are ignored, as vLLM
    does."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    prompt: Text | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    seed: int | None = None
    stop: str | list[Text] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    add_special_tokens: bool = True
    echo: Annotated[bool, Field(json_schema_extra={"supported": False})] = False
    logprobs: int | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) and self.stop else tuple(self.stop or ())


class BadRequest(Exception):
    """A request that cannot be served; becomes OpenAI's error body."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, param=param, code=code)


def choice(
    index: int,
    text: str,
    finish: str | None,
    stop: str | None,
    prompt_logprobs: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """One choice, whole or a piece of it."""
    said = {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish,
        "stop_reason": stop,
    }
    return said if prompt_logprobs is None else {**said, "prompt_logprobs": prompt_logprobs}


def prompt_logprobs(prompt: Sequence[int], logs: Sequence[float]) -> list[dict[str, Any] | None]:
    """What each token of the prompt had as its log-probability, by its id; nothing precedes the
    first."""
    return [
        None,
        *({str(token): {"logprob": log}} for token, log in zip(prompt[1:], logs, strict=True)),
    ]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": total,
    }


def failure(message: str) -> dict[str, Any]:
    """OpenAI's error body for what is the server's own fault."""
    return error_body(message, kind="server_error")


def event(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data)}\n\n".encode()
