"""What people say of a reply after it was given: a late reference answer, a rating, a comment.

One line of JSON each, in a file of its own beside the segments, so that what was recorded of a search never changes.
Readers of traces join both.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from proxy.trace.archive import short_id
from proxy.trace.record import Feedback, TraceRecord
from proxy.trace.redact import Redaction
from proxy.trace.segment import folder_lock

SCHEMA = "cord.feedback/1"
_FOLDER, _FILE = "feedback", "feedback.jsonl"
_FEEDBACK = TypeAdapter(Feedback)


@dataclass(frozen=True, slots=True)
class FeedbackLog:
    """Writes feedback under a folder of traces."""

    traces: Path
    redaction: Redaction = field(default_factory=Redaction)

    def add(
        self, id: str, references: Sequence[str], rating: float | None, comment: str | None
    ) -> None:
        """Append what was said of a reply; may wait while segments are being compressed.

        Raises:
            OSError: it was not written.
        """
        text = self.redaction.text
        told = Feedback(
            id,
            datetime.now(UTC).isoformat(),
            tuple(text(reference) for reference in references),
            rating,
            None if comment is None else text(comment),
        )
        line = (
            json.dumps({"schema": SCHEMA, **asdict(told)}, ensure_ascii=False).encode(
                "utf-8", "replace"
            )
            + b"\n"
        )
        file = feedback_file(self.traces)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with folder_lock(self.traces, wait=True), open(file, "ab", opener=_private) as out:
            # A line that a full disk tore spoils no other.
            out.write(line if out.tell() == 0 or _ends_in_newline(file) else b"\n" + line)


def feedback_file(traces: Path) -> Path:
    return traces / _FOLDER / _FILE


def read_feedback(traces: Path) -> dict[str, tuple[Feedback, ...]]:
    """All feedback by the short id of its reply, oldest first; what was sent twice counts once."""
    found: dict[str, dict[Feedback, Feedback]] = defaultdict(dict)
    file = feedback_file(traces)
    if not file.is_file():
        return {}
    with file.open("rb") as lines:
        for line in lines:
            try:
                raw = json.loads(line)
                feedback = _FEEDBACK.validate_python(raw)
            except (ValueError, ValidationError):
                continue
            found[short_id(feedback.id)].setdefault(replace(feedback, time=""), feedback)
    return {id: tuple(entries.values()) for id, entries in found.items()}


def joined(record: TraceRecord, feedback: tuple[Feedback, ...]) -> TraceRecord:
    """The record with what was said of it; late references are references, and `feedback` says that they came late."""
    late = tuple(reference for entry in feedback for reference in entry.references)
    references = tuple(dict.fromkeys((*record.references, *late)))
    return replace(record, references=references, feedback=feedback)


def _ends_in_newline(file: Path) -> bool:
    with file.open("rb") as written:
        written.seek(-1, os.SEEK_END)
        return written.read(1) == b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
