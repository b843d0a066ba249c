"""Compressed segments: gzip that any tool reads, in blocks, with an index beside it to reach one line at once.

A block is a gzip member of whole lines. The index maps places in the uncompressed text to blocks, and ids to the places
of their lines. It can always be made again from the segment.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from proxy.trace.segment import folder_lock, sealed_name, stem

PACKED = ".jsonl.gz"
_INDEX = ".index"
_MAGIC = 0x1C0D_4D1D_0000_0001
_BLOCK_BYTES = 256 << 10
_KIND = re.compile(r"\A(chatcmpl-|cmpl-|resp_)")


@dataclass(frozen=True, slots=True)
class Index:
    """Where the blocks begin in the text (`starts`, and its end) and in the file (`blocks`); `keys`, sorted, and where
    their lines begin in the text.
    """

    starts: array[int]
    blocks: array[int]
    keys: array[int]
    lines: array[int]

    @property
    def size(self) -> int:
        """Bytes of the whole text."""
        return self.starts[-1]

    def places(self, id: str) -> Iterator[int]:
        """Where lines of this id begin in the text, and now and then of another."""
        key = id_key(id)
        at = bisect_left(self.keys, key)
        while at < len(self.keys) and self.keys[at] == key:
            yield self.lines[at]
            at += 1


def short_id(id: str) -> str:
    """An id without its kind: each path of the API puts another in front of the same."""
    return _KIND.sub("", id)


def id_key(id: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(short_id(id).encode("utf-8", "replace"), digest_size=8).digest(), "big"
    )


def pack(lines: Iterable[bytes], packed: Path) -> None:
    """Write lines as a compressed segment with its index, readable by its owner alone, whole or not at all."""
    starts, blocks, entries = array("Q"), array("Q"), list[tuple[int, int]]()
    unfinished = packed.with_name(f".{packed.name}.{os.getpid()}")
    place = written = 0
    with _private(unfinished) as out:
        for block in _blocks(lines):
            starts.append(place)
            blocks.append(written)
            for line in block:
                entries += [(id_key(id), place) for id in _ids(line)]
                place += len(line)
            written += out.write(gzip.compress(b"".join(block), 6, mtime=0))
        out.flush()
        os.fsync(out.fileno())
    starts.append(place)
    entries.sort()
    index = Index(
        starts,
        blocks,
        array("Q", [key for key, _ in entries]),
        array("Q", [line for _, line in entries]),
    )
    _save(index, packed, written)
    unfinished.replace(packed)


def unpack(packed: Path) -> Iterator[bytes]:
    """Its lines."""
    with gzip.open(packed) as lines:
        yield from lines


def index_of(packed: Path) -> Index:
    """The index, made again where it is missing, damaged or of another state of the segment."""
    try:
        return _load(packed)
    except (OSError, ValueError):
        with folder_lock(packed.parent, wait=True):
            try:
                return _load(packed)
            except (OSError, ValueError):
                pack(unpack(packed), packed)
                return _load(packed)


class PackedSegment(io.RawIOBase):
    """A compressed segment as a file that can be read from any place of its text."""

    def __init__(self, packed: Path) -> None:
        super().__init__()
        self.index = index_of(packed)
        self._file = packed.open("rb")
        self._place = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.index.size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        if self._place >= self.index.size:
            return 0
        number = bisect_right(self.index.starts, self._place) - 1
        block, at = self._block(number), self._place - self.index.starts[number]
        count = min(len(view), len(block) - at)
        view[:count] = block[at : at + count]
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if self._held[0] != number:
            self._file.seek(self.index.blocks[number])
            decompressor, parts = zlib.decompressobj(wbits=31), list[bytes]()
            while not decompressor.eof:
                data = self._file.read(64 << 10)
                if not data:
                    break
                parts.append(decompressor.decompress(data))
            self._held = (number, b"".join(parts))
        return self._held[1]


def open_segment(path: Path) -> BinaryIO:
    """A segment, compressed or not, as a file of its text; under its next name where it has just been given one.

    Raises:
        FileNotFoundError: it has been deleted.
    """
    for name in (path, sealed_name(path)):
        if not name.name.endswith(PACKED):
            try:
                return name.open("rb")
            except FileNotFoundError:
                continue
    return io.BufferedReader(PackedSegment(path.with_name(f"{stem(path)}{PACKED}")))


def remove(packed: Path) -> None:
    """Delete a compressed segment and its index."""
    packed.unlink(missing_ok=True)
    _index_file(packed).unlink(missing_ok=True)


def _blocks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line if line.endswith(b"\n") else line + b"\n")
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _ids(line: bytes) -> list[str]:
    try:
        record = json.loads(line)
    except ValueError:
        return []
    if not isinstance(record, dict):
        return []
    return [id for id in (record.get("id"), record.get("request_id")) if isinstance(id, str)]


def _index_file(packed: Path) -> Path:
    return packed.with_name(packed.name + _INDEX)


def _save(index: Index, packed: Path, size: int) -> None:
    file = _index_file(packed)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    head = array("Q", [_MAGIC, size, len(index.blocks), len(index.keys)])
    with _private(unfinished) as out:
        for part in (head, index.starts, index.blocks, index.keys, index.lines):
            out.write(part.tobytes())
    unfinished.replace(file)


def _load(packed: Path) -> Index:
    """Raises `OSError` or `ValueError` if it is missing, damaged or of another state of the segment."""
    numbers = array("Q")
    numbers.frombytes(_index_file(packed).read_bytes())
    if len(numbers) < 4:
        raise ValueError("too short")
    magic, size, blocks, keys = numbers[:4]
    if magic != _MAGIC or len(numbers) != 5 + 2 * blocks + 2 * keys:
        raise ValueError("not an index of this version")
    if size != packed.stat().st_size:
        raise ValueError("the index of another state of the segment")
    ends = (5 + blocks, 5 + 2 * blocks, 5 + 2 * blocks + keys)
    return Index(
        numbers[4 : ends[0]],
        numbers[ends[0] : ends[1]],
        numbers[ends[1] : ends[2]],
        numbers[ends[2] :],
    )


def _private(path: Path) -> BinaryIO:
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb"
    )
