"""One file of traces that is being written: whole lines, appended, readable by its owner alone.

`append` may store a part of what it is given, most often on a full disk. Such a part is cut off again, or else ended
by a newline before the next line, so that it spoils no other record.

Whoever wants a segment for itself, to compress it or to erase from it, renames it and then waits for the lock that a
line is written under (`seal`). The writer finds its file gone before the next line and begins another.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".jsonl"
SEALED = ".sealed.jsonl"
"""A segment that nobody writes to any more."""
_LOCK = ".lock"


class SegmentMoved(OSError):
    """The file is no longer where it was created."""


class Segment:
    """Appends lines to a new file."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if the file cannot be created; `FileExistsError` if it is there already."""
        self.path = path
        self._fd = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        self._torn = False
        self.size = 0

    def append(self, line: bytes) -> None:
        """Write a line, newline included, and hand it to the operating system.

        Raises:
            SegmentMoved: somebody has moved, deleted or replaced the file; nothing was written.
            OSError: it was not written whole; the file is as it was before, or ends in a torn line.
        """
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if not self._is_at(self.path):
                raise SegmentMoved(f"{self.path} is gone")
            self._append(line)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def was_sealed(self) -> bool:
        """Whether the file lives on under the name of a sealed segment, or did until that was compressed."""
        sealed = sealed_name(self.path)
        return self._is_at(sealed) or sealed.with_name(f"{stem(sealed)}{SUFFIX}.gz").exists()

    def close(self) -> None:
        os.close(self._fd)

    def _is_at(self, path: Path) -> bool:
        try:
            there = os.stat(path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _append(self, line: bytes) -> None:
        data = b"\n" + line if self._torn else line
        written = 0
        try:
            while written < len(data):
                count = os.write(self._fd, data[written:])
                if count == 0:
                    raise OSError("nothing was written")
                written += count
        except OSError:
            if written:
                self._cut()
            raise
        self._torn = False
        self.size += written

    def _cut(self) -> None:
        """Take back a line that was written in part."""
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            self._torn = True
            self.size = os.fstat(self._fd).st_size


@contextmanager
def folder_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """The lock of whoever compresses, erases or deletes segments: whether it is held, always so with `wait`.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
    """
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def stem(path: Path) -> str:
    """A segment's name, the same while it is written, sealed and compressed."""
    return path.name.partition(".")[0]


def sealed_name(path: Path) -> Path:
    return path.with_name(f"{stem(path)}{SEALED}")


def seal(path: Path) -> Path:
    """Take a segment from whoever writes to it; its new name.

    Raises:
        FileNotFoundError: somebody else has taken it.
    """
    if path.name.endswith(SEALED):
        return path
    sealed = path.rename(sealed_name(path))
    with sealed.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a line may be on its way
    return sealed
