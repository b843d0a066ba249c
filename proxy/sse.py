"""Server-sent events as pure functions of bytes, both ways (WHATWG HTML, section 9.2).

It knows the framing only. Senders and readers interpret the data, `[DONE]` included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_LINE_END = re.compile(r"\r\n|\n|\r")
_LINE_END_BYTES = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `event` is its type; `id` is the last id the stream has named, empty when none was."""

    data: str
    event: str = "message"
    id: str = ""


def encode(data: str, event: str | None = None, id: str | None = None) -> bytes:
    """One event on the wire. Data of several lines becomes several `data` fields; lone surrogates become `?`."""
    lines = [f"id: {id}"] if id is not None else []
    lines += [f"event: {event}"] if event is not None else []
    lines += [f"data: {line}" for line in _LINE_END.split(data)]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def comment(text: str) -> bytes:
    """A comment of one line: readers skip it, connections are kept alive by it."""
    return f": {_LINE_END.sub(' ', text)}\n\n".encode("utf-8", "replace")


class EventTooLong(ValueError):
    """An event is longer than its reader allows."""


@dataclass(slots=True)
class Decoder:
    """Reads events from bytes that may be cut anywhere, inside a character or a line end too.

    As the standard has it, an event is complete at its blank line, an event without data is none, and what is
    unfinished when the stream ends is lost: a caller that needs to know looks for its own last event.
    `max_event_bytes` bounds what is held of an event that is not complete.
    """

    max_event_bytes: int | None = None

    _partial: list[bytes] = field(default_factory=list)
    _data: list[str] = field(default_factory=list)
    _event: str = ""
    _id: str = ""
    _after_cr: bool = False
    _at_start: bool = True
    _held: int = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that these bytes complete, in order.

        Raises:
            EventTooLong: an event, or a line of one, is longer than `max_event_bytes`.
        """
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[
                1:
            ]  # the second half of a CRLF whose first half has already ended the line
        self._after_cr = chunk.endswith(b"\r")
        *ends, rest = _LINE_END_BYTES.split(chunk)
        events = []
        for end in ends:
            line = b"".join((*self._partial, end))
            self._partial.clear()
            self._hold(len(end))
            if (event := self._line(line)) is not None:
                events.append(event)
        if rest:
            self._partial.append(rest)
            self._hold(len(rest))
        return events

    def _hold(self, bytes_: int) -> None:
        self._held += bytes_
        if self.max_event_bytes is not None and self._held > self.max_event_bytes:
            raise EventTooLong(
                f"an event of the stream is longer than {self.max_event_bytes:,} bytes"
            )

    def _line(self, raw: bytes) -> ServerEvent | None:
        if self._at_start:
            raw = raw.removeprefix(_BOM)
            self._at_start = False
        if not raw:
            return self._dispatch()
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
        return None  # comments have an empty name; `retry` and unknown fields mean nothing here

    def _dispatch(self) -> ServerEvent | None:
        data, kind = self._data, self._event or "message"
        self._data, self._event, self._held = [], "", 0
        return ServerEvent("\n".join(data), kind, self._id) if data else None
