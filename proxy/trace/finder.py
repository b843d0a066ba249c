"""Looks through the traces on disk for the page and `cord view`: newest first, a bounded piece at a time.

Reads segments backwards, so the latest traces are found without reading the others. A cursor says how far a reader
has come: a segment and the byte before which to go on. Segments only grow at their end, so a cursor stays good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from proxy.errors import RequestError
from proxy.trace.archive import PACKED, index_of, open_segment, short_id
from proxy.trace.codec import UnreadableRecord, from_json
from proxy.trace.query import TraceEntry, TracePage, TraceQuery
from proxy.trace.record import TraceRecord, message_text
from proxy.trace.segment import stem
from proxy.trace.store import trace_files

_BLOCK = 1 << 18
_ID_WITHIN = 512
_EXCERPT = 240


@dataclass(frozen=True, slots=True)
class _Line:
    """One stored line and where it is."""

    file: str
    start: int
    raw: bytes


@dataclass(frozen=True, slots=True)
class TraceFinder:
    """Finds traces in a file or in a folder's segments; `page_bytes` bounds what one page reads."""

    source: Path
    page_bytes: int = 64 << 20

    def page(self, query: TraceQuery) -> TracePage:
        """The next entries that match.

        Raises:
            RequestError: the cursor is not one of ours.
        """
        entries: list[TraceEntry] = []
        read = skipped = 0
        needle = _needle(query.text)
        for line in self._lines(query.cursor):
            read += len(line.raw)
            if needle in line.raw.lower():
                try:
                    record = from_json(line.raw)
                except UnreadableRecord:
                    skipped += 1
                else:
                    entry = _entry(record)
                    if _matches(entry, record, query):
                        entries.append(entry)
            if len(entries) == query.limit or read >= self.page_bytes:
                return TracePage(tuple(entries), f"{line.start}:{line.file}", skipped)
        return TracePage(tuple(entries), None, skipped)

    def find(self, id: str) -> bytes | None:
        """The line of one trace, as stored, by the id of its reply (of whatever kind) or of its request.

        Compressed segments are asked by their index, so that they need not be read.
        """
        for file in reversed(trace_files(self.source)):
            for raw in _indexed(file, id) if file.name.endswith(PACKED) else _scanned(file, id):
                try:
                    record = from_json(raw)
                except UnreadableRecord:
                    continue
                if short_id(id) == short_id(record.id) or id == record.request_id:
                    return raw
        return None

    def newest(self) -> bytes | None:
        """The line of the last readable trace."""
        for line in self._lines(None):
            try:
                from_json(line.raw)
            except UnreadableRecord:
                continue
            return line.raw
        return None

    def _lines(self, cursor: str | None) -> Iterator[_Line]:
        """Every line, newest first, from where the cursor stands."""
        name, end = _read_cursor(cursor)
        for file in reversed(trace_files(self.source)):
            if name is not None and stem(file) > name:
                continue
            with open_segment(file) as segment:
                size = segment.seek(0, 2)
                yield from _backwards(
                    segment, stem(file), min(end, size) if stem(file) == name else size
                )


def _backwards(segment: BinaryIO, name: str, end: int) -> Iterator[_Line]:
    """The non-empty lines that begin before byte `end`, last first. A line that is still being written is one too."""
    position, tail = end, b""
    while position:
        step = min(_BLOCK, position)
        position -= step
        segment.seek(position)
        first, *rest = (segment.read(step) + tail).split(b"\n")
        start = position + len(first) + 1 + sum(len(line) + 1 for line in rest)
        for line in reversed(rest):
            start -= len(line) + 1
            if line.strip():
                yield _Line(name, start, line)
        tail = first
    if tail.strip():
        yield _Line(name, 0, tail)


def _indexed(file: Path, id: str) -> Iterator[bytes]:
    with open_segment(file) as segment:
        for place in index_of(file).places(id):
            segment.seek(place)
            yield segment.readline().rstrip(b"\n")


def _scanned(file: Path, id: str) -> Iterator[bytes]:
    needle = json.dumps(short_id(id), ensure_ascii=False)[1:].encode("utf-8", "replace")
    with open_segment(file) as segment:
        for line in _backwards(segment, file.name, segment.seek(0, 2)):
            if needle in line.raw[:_ID_WITHIN]:
                yield line.raw


def _read_cursor(cursor: str | None) -> tuple[str | None, int]:
    if cursor is None:
        return None, 0
    start, _, name = cursor.partition(":")
    if not start.isdecimal() or not start.isascii() or not name or len(start) > 18:
        raise RequestError(
            "the cursor is not one that a page of traces named",
            param="cursor",
            code="invalid_value",
        )
    return name, int(start)


def _needle(text: str | None) -> bytes:
    """The text as it stands in a line of JSON, so that most lines need not be parsed."""
    return json.dumps(text or "", ensure_ascii=False)[1:-1].encode("utf-8", "replace").lower()


def _entry(record: TraceRecord) -> TraceEntry:
    won = record.won
    asked = [message_text(message) for message in record.messages if message.get("role") == "user"]
    return TraceEntry(
        id=record.id,
        time=record.time,
        model=record.model,
        outcome=record.outcome,
        error=record.error,
        strategy=record.settings.strategy,
        objective=record.objective,
        source=record.source,
        value=_value(record),
        teachers=tuple(candidate.teacher for candidate in won),
        steps=len(won),
        candidates=len(record.candidates),
        generated_tokens=record.cost.generated_tokens,
        duration_s=record.duration_s,
        prompt=_excerpt(asked[-1] if asked else ""),
        answer=_excerpt(record.winner.answer.strip() if record.winner else ""),
    )


def _matches(entry: TraceEntry, record: TraceRecord, query: TraceQuery) -> bool:
    moment = datetime.fromisoformat(entry.time).timestamp()
    wanted = (
        (query.model, entry.model),
        (query.outcome, entry.outcome),
        (query.source, entry.source),
    )
    return (
        all(want is None or want == is_ for want, is_ in wanted)
        and (query.since is None or moment >= query.since)
        and (query.until is None or moment <= query.until)
        and (query.teacher is None or query.teacher in entry.teachers)
        and (
            query.min_value is None or (entry.value is not None and entry.value >= query.min_value)
        )
        and (
            query.max_value is None or (entry.value is not None and entry.value <= query.max_value)
        )
        and (query.text is None or query.text.lower() in _text(record).lower())
    )


def _text(record: TraceRecord) -> str:
    said = [message_text(message) for message in record.messages]
    proposed = [candidate.text for candidate in record.candidates]
    answer = [record.winner.answer] if record.winner else []
    return "\n".join((record.id, *said, *record.references, *proposed, *answer))


def _value(record: TraceRecord) -> float | None:
    """exp of the winner's nats per unit of length; None where nothing scored."""
    if record.winner is None or not any(candidate.score for candidate in record.won):
        return None
    try:
        return math.exp(record.winner.value)
    except OverflowError:
        return None


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"
