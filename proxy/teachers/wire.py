"""Reads and checks replies of teachers' servers, within limits. Code behind this module can trust them.

Bytes become `Chunk`s here, or a `BadReply`. Knows no provider and no template.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

_CHARS_PER_TOKEN = 128
"""The longest tokens of today's vocabularies are runs of so many spaces."""
_CHUNK_BYTES = 2048
"""More than any server wraps around one streamed token."""
_TOLERATED_TOKENS = 16
"""Servers may count an end token or the tokens of a stop text beside those that were asked for."""
_ENVELOPE_BYTES = 64 << 10
_CEILING_BYTES = 64 << 20
_MOST_TOKENS = 1 << 31
_SURROGATE = re.compile("[\ud800-\udfff]")


class BadReply(ValueError):
    """A reply that is not what was asked for; says how it is wrong."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as a server counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a reply may hold, so that a server which ignores `max_tokens` is cut off.

    `tokens` as the server counts them, `chars` of text, bytes of a whole reply or of one event, bytes of a stream.
    """

    max_tokens: int
    tokens: int
    chars: int
    whole_bytes: int
    stream_bytes: int

    @classmethod
    def of(cls, max_tokens: int) -> Bounds:
        """What so many tokens can take at most, with room for what a server wraps around them."""
        chars = max_tokens * _CHARS_PER_TOKEN
        whole_bytes = min(_ENVELOPE_BYTES + 2 * chars, _CEILING_BYTES)
        stream_bytes = min(whole_bytes + max_tokens * _CHUNK_BYTES, _CEILING_BYTES)
        return cls(max_tokens, max_tokens + _TOLERATED_TOKENS, chars, whole_bytes, stream_bytes)

    def check(self, chars: int, usage: Usage | None) -> None:
        """That so much text, by the server's count if there is one, is within bounds.

        Raises:
            BadReply: it is not.
        """
        if chars > self.chars or (usage is not None and usage.completion_tokens > self.tokens):
            raise BadReply(
                f"it goes on past max_tokens ({self.max_tokens}), which its server seems to ignore"
            )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a reply, or all of it. `stop` is the stop text that ended it; `error` a failure while writing."""

    text: str = ""
    finish: str | None = None
    stop: str | None = None
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None


async def read_whole(pieces: AsyncIterable[bytes], most_bytes: int) -> bytes:
    """A body, as long as it is within bounds.

    Raises:
        BadReply: it is longer; the rest is not read.
    """
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > most_bytes:
            raise BadReply(
                f"the reply is longer than {most_bytes:,} bytes, which max_tokens cannot need"
            )
    return bytes(body)


async def read_beginning(pieces: AsyncIterable[bytes], most_bytes: int) -> bytes:
    """The first bytes of a body; the rest is not read."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) >= most_bytes:
            break
    return bytes(body[:most_bytes])


async def bounded(pieces: AsyncIterable[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    """A stream as it comes, as long as it is within bounds.

    Raises:
        BadReply: it is longer.
    """
    seen = 0
    async for piece in pieces:
        seen += len(piece)
        if seen > most_bytes:
            raise BadReply(
                f"the stream is longer than {most_bytes:,} bytes, which max_tokens cannot need"
            )
        yield piece


async def lines(pieces: AsyncIterable[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    """The lines of a stream that are not empty.

    Raises:
        BadReply: a line is longer than `most_bytes`.
    """
    partial = bytearray()
    async for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            line = bytes(partial + end).strip()
            partial.clear()
            if line:
                yield line
        partial += rest
        if len(partial) > most_bytes:
            raise BadReply(f"a line of the stream is longer than {most_bytes:,} bytes")
    if line := bytes(partial).strip():
        yield line


def json_object(data: bytes | str) -> dict[str, Any]:
    """A JSON object from the wire.

    Raises:
        BadReply: it is no JSON, nested too deeply, has numbers or characters that JSON does not know, or no object.
    """
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as exc:
        raise BadReply(f"not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise BadReply(f"a JSON {type(found).__name__} instead of an object")
    return found


def whole(data: bytes) -> Chunk:
    """A completion that came as one body.

    Raises:
        BadReply: it is none.
    """
    found = json_object(data)
    if not isinstance(found.get("choices"), list) or not found["choices"]:
        raise BadReply("no choices")
    if not isinstance(_choice(found).get("text"), str):
        raise BadReply(f"choices[0].text is {_shown(_choice(found).get('text'))}, not a text")
    return _chunk(found)


def chunk(data: bytes | str) -> Chunk:
    """One event of a streamed completion.

    Raises:
        BadReply: it is none.
    """
    found = json_object(data)
    if found.get("error") is not None or found.get("object") == "error":
        return Chunk(error=found)
    return _chunk(found)


def text(value: Any, name: str) -> str:
    """A text, or none where the field is null or absent.

    Raises:
        BadReply: it is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadReply(f"{name} is {_shown(value)}, not a text")
    if not value.isascii() and _SURROGATE.search(value):
        raise BadReply(f"{name} has half a surrogate pair in it")
    return value


def count(value: Any, name: str) -> int:
    """A number of tokens.

    Raises:
        BadReply: it is no integer, negative or beyond reason.
    """
    if type(value) is not int or not 0 <= value < _MOST_TOKENS:
        raise BadReply(f"{name} is {_shown(value)}, not a number of tokens")
    return value


def _chunk(found: Mapping[str, Any]) -> Chunk:
    choice = _choice(found)
    stop = choice.get("stop_reason")
    return Chunk(
        text=text(choice.get("text"), "choices[0].text"),
        finish=text(choice.get("finish_reason"), "choices[0].finish_reason") or None,
        stop=stop if isinstance(stop, str) else None,  # vLLM names a stop token by its id
        usage=_usage(found),
    )


def _choice(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first choice; empty where there is none, as in an event that only tells the usage."""
    choices = found.get("choices")
    if choices is None:
        return {}
    if not isinstance(choices, list):
        raise BadReply(f"choices is {_shown(choices)}, not a list")
    if not choices:
        return {}
    if not isinstance(choices[0], dict):
        raise BadReply(f"choices[0] is {_shown(choices[0])}, not an object")
    return choices[0]


def _usage(found: Mapping[str, Any]) -> Usage | None:
    """As `usage` tells it, or llama.cpp's `timings`, which come with every event."""
    if (usage := _section(found, "usage")) is not None:
        return Usage(
            count(usage.get("prompt_tokens"), "usage.prompt_tokens"),
            count(usage.get("completion_tokens"), "usage.completion_tokens"),
        )
    if (timings := _section(found, "timings")) is not None and "predicted_n" in timings:
        read, cached = count(timings.get("prompt_n"), "timings.prompt_n"), timings.get("cache_n", 0)
        return Usage(
            read + count(cached, "timings.cache_n"),
            count(timings["predicted_n"], "timings.predicted_n"),
        )
    return None


def _section(found: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = found.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadReply(f"{name} is {_shown(value)}, not an object")
    return value


def _shown(value: Any) -> str:
    """A value as a message may quote it."""
    if isinstance(value, (list, dict)):
        return f"a JSON {type(value).__name__}"
    return (
        f"{value!r:.40}"
        if not isinstance(value, int) or abs(value) < 1 << 63
        else "a number of many digits"
    )
