"""A folder of segments: which there are, and the work on those that nobody writes to any more.

Whatever compresses, erases or deletes holds the folder's lock, so that it is done by one process at a time; writers
and readers never wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import ConfigError
from proxy.trace.archive import PACKED, open_segment, pack, remove
from proxy.trace.segment import SEALED, SUFFIX, folder_lock, seal, stem

Transform = Callable[[bytes], bytes | None]
"""A line as it shall be, or None to leave it out."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long and how much is kept; None keeps all."""

    days: float | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TraceFolder:
    """The segments under a folder."""

    path: Path

    def segments(self) -> list[Path]:
        """Every segment once, oldest first."""
        found: dict[str, Path] = {}
        # One that is being compressed is there twice for a moment; the compressed one is whole once it is there.
        for pattern in (f"*{SUFFIX}", f"*{PACKED}"):
            for file in self.path.glob(pattern):
                if not file.name.startswith("."):
                    found[stem(file)] = file
        return [found[name] for name in sorted(found)]

    def housekeep(
        self, *, rotate_s: float, compress: bool, retention: Retention, now: float | None = None
    ) -> bool:
        """Seal what nobody has written to for so long, compress what is sealed, delete what is too old or too much.

        Does nothing if somebody else is at it; tells whether it did its work.
        """
        now = time.time() if now is None else now
        with folder_lock(self.path, wait=False) as held:
            if not held:
                return False
            for file in self.path.glob(f"*{SUFFIX}"):
                if file.name.startswith("."):
                    continue
                sealed = file.name.endswith(SEALED)
                if sealed or now - _modified(file, now) > rotate_s:
                    self._close(file, compress=compress)
            self._retain(retention, now)
        return True

    def rewrite(self, transform: Transform) -> int:
        """Pass every line through a function, also those being written now; how many were changed or left out.

        Segments in which nothing changes are left as they are.
        """
        changed = 0
        with folder_lock(self.path, wait=True):
            for file in self.segments():
                with open_segment(file) as lines:
                    touched = any(transform(line) != line for line in lines)
                if touched:
                    changed += self._rewrite(file, transform)
        return changed

    def _close(self, file: Path, *, compress: bool) -> None:
        try:
            sealed = seal(file)
        except FileNotFoundError:
            return
        if compress:
            with sealed.open("rb") as lines:
                _pack(lines, sealed)
            sealed.unlink()

    def _rewrite(self, file: Path, transform: Transform) -> int:
        if file.name.endswith(SUFFIX):
            file = seal(file)
        changed = kept = 0

        def after(lines: Iterable[bytes]) -> Iterator[bytes]:
            nonlocal changed, kept
            for line in lines:
                new = transform(line)
                changed += new != line
                if new is not None:
                    kept += 1
                    yield new

        with open_segment(file) as lines:
            packed = _pack(after(lines), file)
        if not kept:
            remove(packed)
        if file != packed:
            file.unlink()
        return changed

    def _retain(self, retention: Retention, now: float) -> None:
        """Delete closed segments, oldest first. What is being written is never deleted."""
        closed = [file for file in self.segments() if file.name.endswith((PACKED, SEALED))]
        total = sum(file.stat().st_size for file in self.segments())
        for file in closed:
            old = retention.days is not None and now - _modified(file, now) > retention.days * 86400
            if old or (retention.bytes is not None and total > retention.bytes):
                total -= file.stat().st_size
                remove(file)


def trace_files(source: Path) -> list[Path]:
    """The segments at a place: a folder's, or the one file.

    Raises:
        ConfigError: there is nothing.
    """
    if not source.exists():
        raise ConfigError("", f"there are no traces at {source}")
    return TraceFolder(source).segments() if source.is_dir() else [source]


def _pack(lines: Iterable[bytes], file: Path) -> Path:
    """Compress what was a segment's, keeping its time: by that it is deleted one day."""
    packed, moment = file.with_name(f"{stem(file)}{PACKED}"), file.stat()
    pack(lines, packed)
    os.utime(packed, ns=(moment.st_atime_ns, moment.st_mtime_ns))
    return packed


def _modified(file: Path, now: float) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return now
