"""One file of traces that is being written: whole lines, appended, readable by its owner alone.

`write` may store a part of what it is given, most often on a full disk. Such a part is cut off again, or else ended
by a newline before the next line, so that it spoils no other record.
"""

from __future__ import annotations

import os
from pathlib import Path

SUFFIX = ".jsonl"


class Segment:
    """Appends lines to a new file."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if the file cannot be created; `FileExistsError` if it is there already."""
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._torn = False
        self.size = 0

    @property
    def in_place(self) -> bool:
        """Whether the file is still where it was created: nobody has deleted, moved or replaced it."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def append(self, line: bytes) -> None:
        """Write a line, newline included, and hand it to the operating system.

        Raises:
            OSError: it was not written whole; the file is as it was before, or ends in a torn line.
        """
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

    def close(self) -> None:
        os.close(self._fd)

    def _cut(self) -> None:
        """Take back a line that was written in part."""
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            self._torn = True
            self.size = os.fstat(self._fd).st_size
