"""Writes traces to disk: append-only segments of JSON lines, one line a request, readable by anything that reads JSONL.

A line is handed to the operating system at once (some 50 µs for a typical record, less than waking a thread would
cost), so a killed proxy loses only the searches that were running. A disk that fails loses records, never requests:
each is counted, and the log says so, once a minute at most.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from proxy.decoder.journal import Stamped
from proxy.errors import ConfigError
from proxy.service import Job
from proxy.trace.codec import to_json
from proxy.trace.fold import record
from proxy.trace.record import Provenance
from proxy.trace.segment import SUFFIX, Segment

log = logging.getLogger(__name__)

_COMPLAIN_S = 60.0


class TraceLog:
    """Appends to this process's own segment; `failures` counts the records that were lost."""

    def __init__(
        self,
        folder: Path,
        *,
        rotate_bytes: int,
        provenance: Provenance,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `ConfigError` if the folder cannot be made."""
        try:
            _make(folder)
        except OSError as exc:
            raise ConfigError("traces.folder", f"cannot make {folder}: {exc.strerror}") from exc
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        self._provenance = provenance
        self._clock = clock
        self._segment: Segment | None = None
        self._segments = 0
        self._complained: float | None = None
        self._failures_said = 0
        self.failures = 0

    def record(self, job: Job, journal: Sequence[Stamped]) -> None:
        """Write one search's record; a `proxy.service.Recorder`."""
        try:
            line = to_json(record(job, journal, self._provenance)).encode("utf-8", "replace") + b"\n"
            self._open().append(line)
        except (OSError, ValueError) as exc:
            self.failures += 1
            self._complain(job.problem.id, exc)
        else:
            self._recover()

    def close(self) -> None:
        """Close the segment."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _open(self) -> Segment:
        """The segment to write to: a new one at first, when the old one is full, and when it is no longer there."""
        if self._segment is not None and not self._segment.in_place:
            log.error("%s is gone; traces go on in a new file", self._segment.path)
            self.close()
        if self._segment is not None and self._segment.size >= self._rotate_bytes:
            self.close()
        if self._segment is None:
            _make(self._folder)
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._segments += 1
            self._segment = Segment(self._folder / f"{stamp}-{os.getpid()}-{self._segments - 1}{SUFFIX}")
        return self._segment

    def _complain(self, id: str, exc: Exception) -> None:
        now = self._clock()
        if self._complained is not None and now - self._complained < _COMPLAIN_S:
            return
        self._complained, unsaid = now, self.failures - self._failures_said
        self._failures_said = self.failures
        log.error("%d traces were not written, the last of them that of %s", unsaid, id, exc_info=exc)

    def _recover(self) -> None:
        if self._complained is not None:
            log.warning("traces are written again; %d have been lost since the start", self.failures)
            self._complained, self._failures_said = None, self.failures


def _make(folder: Path) -> None:
    """Make the folder, for its owner alone, where it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
