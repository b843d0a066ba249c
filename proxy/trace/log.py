"""Traces on disk: append-only segments of JSON lines, one line a request, readable by anything that reads JSONL.

A line is written by one call and handed to the operating system at once (some 50 µs for a typical record, less
than waking a thread would cost); a kill loses at most the line it falls into, which readers skip and count.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from proxy.decoder.journal import Stamped
from proxy.errors import ConfigError
from proxy.service import Job
from proxy.trace.record import Provenance, Record, UnreadableRecord, from_json, record, to_json

log = logging.getLogger(__name__)

_SUFFIX = ".jsonl"


class TraceLog:
    """Appends to this process's own segment. A failing disk is counted and logged; it never fails a request."""

    def __init__(self, folder: Path, *, rotate_bytes: int, provenance: Provenance) -> None:
        """Raises `ConfigError` if the folder cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError("traces.folder", f"cannot make {folder}: {exc.strerror}") from exc
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._provenance = provenance
        self._file: BinaryIO | None = None
        self._segments = 0
        self.failures = 0

    def keep(self, job: Job, journal: Sequence[Stamped]) -> None:
        """Write one search's record; a `proxy.service.Keeper`."""
        try:
            line = to_json(record(job, journal, self._provenance)).encode("utf-8", "replace") + b"\n"
            self._open().write(line)
        except (OSError, ValueError):
            self.failures += 1
            log.exception("the trace of %s was not written", job.problem.id)

    def close(self) -> None:
        """Close the segment."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        """The segment to write to: a new one at first, and when the old one has grown too large."""
        if self._file is not None and self._file.tell() >= self._rotate_bytes:
            self.close()
        if self._file is None:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = f"{stamp}-{os.getpid()}-{self._segments}{_SUFFIX}"
            self._segments += 1
            self._file = (self._folder / name).open("ab", buffering=0)
        return self._file


@dataclass(slots=True)
class Reader:
    """Reads the records of a file or of a folder's segments, oldest first; `skipped` counts unreadable lines."""

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
        return sorted(self.source.glob(f"*{_SUFFIX}")) if self.source.is_dir() else [self.source]

    def __iter__(self) -> Iterator[Record]:
        for file in self.files:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        yield from_json(line)
                    except UnreadableRecord as exc:
                        self.skipped.append(f"{file.name}:{number}: {exc}")
