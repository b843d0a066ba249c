"""Reads traces back: a file, or a folder's segments, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.errors import ConfigError
from proxy.trace.codec import UnreadableRecord, from_json
from proxy.trace.record import TraceRecord
from proxy.trace.segment import SUFFIX


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
        if not self.source.exists():
            raise ConfigError("", f"there are no traces at {self.source}")
        return sorted(self.source.glob(f"*{SUFFIX}")) if self.source.is_dir() else [self.source]

    def __iter__(self) -> Iterator[TraceRecord]:
        for file in self.files:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        yield from_json(line)
                    except UnreadableRecord as exc:
                        self.skipped.append(f"{file.name}:{number}: {exc}")
