"""Writes traces to disk: append-only segments of JSON lines, one line a request, readable by anything that reads JSONL.

A line is handed to the operating system at once (some 50 µs for a typical record, less than waking a thread would
cost), so a killed proxy loses only the searches that were running. A disk that fails loses records, never requests:
each is counted, and the log says so, once a minute at most.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from proxy.decoder.journal import Stamped
from proxy.errors import ConfigError
from proxy.service import Job
from proxy.trace.codec import to_json
from proxy.trace.fold import record
from proxy.trace.record import Provenance
from proxy.trace.redact import Redaction
from proxy.trace.segment import SUFFIX, Segment, SegmentMoved, seal
from proxy.trace.store import Retention, TraceFolder

log = logging.getLogger(__name__)

_COMPLAIN_S = 60.0
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """When a segment is closed, and what becomes of it then.

    Attributes:
        rotate_bytes, rotate_s: the size and the age at which the next record begins a new segment.
        compress: whether closed segments are compressed.
        retention: how long and how much is kept.
        redaction: what is taken out of a record before it is written.
    """

    rotate_bytes: int = 256 << 20
    rotate_s: float = 86400.0
    compress: bool = True
    retention: Retention = field(default_factory=Retention)
    redaction: Redaction = field(default_factory=Redaction)


class TraceLog:
    """Appends to this process's own segment; `failures` counts the records that were lost.

    Closed segments are compressed, and old ones deleted, in a thread: at the start and whenever a segment is closed.
    """

    def __init__(
        self,
        folder: Path,
        settings: LogSettings = LogSettings(),
        *,
        provenance: Provenance,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `ConfigError` if the folder cannot be made."""
        try:
            _make(folder)
        except OSError as exc:
            raise ConfigError("traces.folder", f"cannot make {folder}: {exc.strerror}") from exc
        self._folder = TraceFolder(folder)
        self._settings = settings
        self._provenance = provenance
        self._clock = clock
        self._segment: Segment | None = None
        self._opened = 0.0
        self._segments = 0
        self._housekeeper: threading.Thread | None = None
        self._complained: float | None = None
        self._failures_said = 0
        self.failures = 0
        if self._folder.segments():
            self._housekeep()

    def record(self, job: Job, journal: Sequence[Stamped]) -> None:
        """Write one search's record, unless its client wants none kept; a `proxy.service.Recorder`.

        A record that cannot be redacted is lost, not written.
        """
        if job.metadata.get("store") is False:
            return
        try:
            redacted = self._settings.redaction(record(job, journal, self._provenance))
            self._append(to_json(redacted).encode("utf-8", "replace") + b"\n")
        except Exception as exc:
            self.failures += 1
            self._complain(job.problem.id, exc)
        else:
            self._recover()

    def close(self) -> None:
        """Close the segment, and wait a little for what is being compressed; the next start goes on with the rest."""
        self._close_segment()
        if self._housekeeper is not None:
            self._housekeeper.join(_CLOSE_S)

    def _append(self, line: bytes) -> None:
        try:
            self._open().append(line)
        except SegmentMoved as exc:
            if self._segment is not None and not self._segment.was_sealed:
                log.error("%s; traces go on in a new file", exc)
            self._close_segment()
            self._open().append(line)

    def _open(self) -> Segment:
        """The segment to write to: a new one at first, and when the old one is full or old."""
        now = self._clock()
        if self._segment is not None and (
            self._segment.size >= self._settings.rotate_bytes
            or now - self._opened >= self._settings.rotate_s
        ):
            path = self._segment.path
            self._close_segment()
            with suppress(FileNotFoundError):
                seal(path)
            self._housekeep()
        if self._segment is None:
            _make(self._folder.path)
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            self._segments += 1
            name = f"{stamp}-{os.getpid()}-{self._segments - 1:06}{SUFFIX}"
            self._segment, self._opened = Segment(self._folder.path / name), now
        return self._segment

    def _close_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _housekeep(self) -> None:
        """Begin to compress and delete what is due, unless that is going on already."""
        if self._housekeeper is None or not self._housekeeper.is_alive():
            self._housekeeper = threading.Thread(target=self._work, name="traces", daemon=True)
            self._housekeeper.start()

    def _work(self) -> None:
        settings = self._settings
        try:
            self._folder.housekeep(
                rotate_s=settings.rotate_s, compress=settings.compress, retention=settings.retention
            )
        except Exception:
            # What is not compressed is still read, and tried again.
            log.exception("segments under %s were not compressed", self._folder.path)

    def _complain(self, id: str, exc: Exception) -> None:
        now = self._clock()
        if self._complained is not None and now - self._complained < _COMPLAIN_S:
            return
        self._complained, unsaid = now, self.failures - self._failures_said
        self._failures_said = self.failures
        log.error(
            "%d traces were not written, the last of them that of %s", unsaid, id, exc_info=exc
        )

    def _recover(self) -> None:
        if self._complained is not None:
            log.warning(
                "traces are written again; %d have been lost since the start", self.failures
            )
            self._complained, self._failures_said = None, self.failures


def _make(folder: Path) -> None:
    """Make the folder, for its owner alone, where it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
