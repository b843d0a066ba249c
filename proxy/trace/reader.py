"""Reads traces back: a file, or a folder's segments, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.trace.archive import open_segment, short_id
from proxy.trace.codec import UnreadableRecord, from_json
from proxy.trace.feedback import joined, read_feedback
from proxy.trace.record import TraceRecord
from proxy.trace.store import trace_files


@dataclass(slots=True)
class TraceReader:
    """Iterates over records; `skipped` says which lines could not be read, and why."""

    source: Path
    skipped: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The segments.

        Raises:
            ConfigError: there is nothing at this place.
        """
        return trace_files(self.source)

    def __iter__(self) -> Iterator[TraceRecord]:
        feedback = read_feedback(self.source) if self.source.is_dir() else {}
        for file in self.files:
            with open_segment(file) as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        record = from_json(line)
                    except UnreadableRecord as exc:
                        self.skipped.append(f"{file.name}:{number}: {exc}")
                        continue
                    said = feedback.get(short_id(record.id))
                    yield joined(record, said) if said else record
