"""Segments: closed by size and age, compressed, found in, erased from and deleted, while others write."""

from __future__ import annotations

import gzip
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.trace.archive import PACKED, index_of, open_segment
from proxy.trace.codec import to_json
from proxy.trace.finder import TraceFinder
from proxy.trace.fold import record
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.query import TraceQuery
from proxy.trace.reader import TraceReader
from proxy.trace.record import Provenance
from proxy.trace.store import Retention, TraceFolder
from tests.trace.test_log import JOB, JOURNAL, opened, read

SMALL = LogSettings(rotate_bytes=1)
RECORD = record(JOB, JOURNAL, Provenance())


def line(id: str, **more: object) -> bytes:
    return to_json(replace(RECORD, id=id, **more)).encode() + b"\n"  # type: ignore[arg-type]


def packed(folder: Path, *ids: str) -> TraceFolder:
    """A folder with one compressed segment."""
    (folder / "20260101T000000-1-0.sealed.jsonl").write_bytes(b"".join(line(id) for id in ids))
    found = TraceFolder(folder)
    found.housekeep(rotate_s=1e9, compress=True, retention=Retention())
    return found


def test_full_segments_are_compressed_and_read_by_any_tool(tmp_path: Path) -> None:
    log = opened(tmp_path, SMALL)
    for _ in range(3):
        log.record(JOB, JOURNAL)
    log.close()
    TraceFolder(tmp_path).housekeep(rotate_s=1e9, compress=True, retention=Retention())
    assert read(tmp_path) == (3, 0)
    compressed = sorted(tmp_path.glob(f"*{PACKED}"))
    assert len(compressed) == 2 and not list(tmp_path.glob("*.sealed.jsonl"))
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for file in compressed:
        assert b'"cord.trace/2"' in gzip.decompress(file.read_bytes())


def test_an_old_segment_is_closed_when_the_next_record_comes(tmp_path: Path) -> None:
    now = 0.0
    log = TraceLog(
        tmp_path,
        LogSettings(rotate_s=10.0, compress=False),
        provenance=Provenance(),
        clock=lambda: now,
    )
    for now in (0.0, 9.0, 11.0):  # noqa: B007
        log.record(JOB, JOURNAL)
    log.close()
    assert len(TraceReader(tmp_path).files) == 2 and read(tmp_path) == (3, 0)


def test_an_id_is_found_without_reading_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"chatcmpl-{i:04}" for i in range(2000)]
    packed(tmp_path, *ids)
    [segment] = tmp_path.glob(f"*{PACKED}")
    assert len(index_of(segment).blocks) > 2
    read_bytes = 0
    pread = gzip.zlib.decompressobj  # type: ignore[attr-defined]

    def counted(**options: int) -> object:
        nonlocal read_bytes
        read_bytes += 1
        return pread(**options)

    monkeypatch.setattr("proxy.trace.archive.zlib.decompressobj", counted)
    finder = TraceFinder(tmp_path)
    for id in ("chatcmpl-0000", "resp_1234", "cmpl-1999"):
        found = finder.find(id)
        assert found is not None and id[-4:].encode() in found
    assert read_bytes <= 6
    assert finder.find("chatcmpl-nobody") is None


@pytest.mark.parametrize(
    "damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"x" * 64)]
)
def test_a_lost_index_is_made_again(tmp_path: Path, damage: object) -> None:
    packed(tmp_path, *(f"chatcmpl-{i}" for i in range(10)))
    [index] = tmp_path.glob("*.index")
    damage(index)  # type: ignore[operator]
    assert TraceFinder(tmp_path).find("chatcmpl-7") is not None


def test_a_record_is_found_by_the_id_of_its_request(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        line("chatcmpl-1", request_id="req-1") + line("chatcmpl-2", request_id="req-2")
    )
    finder = TraceFinder(tmp_path)
    assert b"chatcmpl-2" in (finder.find("req-2") or b"")
    TraceFolder(tmp_path).housekeep(rotate_s=-1.0, compress=True, retention=Retention())
    assert b"chatcmpl-2" in (finder.find("req-2") or b"")


def test_pages_go_backwards_through_compressed_segments(tmp_path: Path) -> None:
    ids = [f"chatcmpl-{i}" for i in range(500)]
    packed(tmp_path, *ids)
    finder, seen, cursor = TraceFinder(tmp_path), list[str](), None
    while True:
        page = finder.page(TraceQuery(limit=200, cursor=cursor))
        seen += [entry.id for entry in page.entries]
        cursor = page.next
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_a_compressed_segment_is_read_from_any_place(tmp_path: Path) -> None:
    packed(tmp_path, *(f"chatcmpl-{i}" for i in range(1000)))
    [segment] = tmp_path.glob(f"*{PACKED}")
    text = gzip.decompress(segment.read_bytes())
    with open_segment(segment) as file:
        assert file.seek(0, os.SEEK_END) == len(text)
        for place in (0, 1, 300_000, len(text) - 5, len(text) + 5):
            file.seek(place)
            assert file.read(1000) == text[place : place + 1000]


def test_old_and_surplus_segments_are_deleted_and_what_is_written_is_not(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        file = tmp_path / f"2026010{day}T000000-1-0.sealed.jsonl"
        file.write_bytes(line(f"chatcmpl-{day}"))
        os.utime(file, (day * 86400, day * 86400))
    folder = TraceFolder(tmp_path)
    folder.housekeep(rotate_s=1e9, compress=True, retention=Retention(days=1.5), now=4 * 86400)
    assert [found.id for found in TraceReader(tmp_path)] == ["chatcmpl-3"]
    log = opened(tmp_path)
    log.record(JOB, JOURNAL)
    while not folder.housekeep(rotate_s=1e9, compress=True, retention=Retention(bytes=0)):
        pass  # the log's own housekeeper is at it
    log.record(JOB, JOURNAL)
    log.close()
    assert read(tmp_path) == (2, 0)


def test_what_is_erased_is_erased_everywhere_while_others_write(tmp_path: Path) -> None:
    folder = packed(tmp_path, "chatcmpl-a", "chatcmpl-b")
    log = opened(tmp_path)
    log.record(JOB, JOURNAL)
    assert (
        folder.rewrite(lambda raw: None if b"chatcmpl-a" in raw or b"chatcmpl-1" in raw else raw)
        == 2
    )
    log.record(JOB, JOURNAL)
    log.close()
    assert [found.id for found in TraceReader(tmp_path)] == ["chatcmpl-b", "chatcmpl-1"]
    for file in tmp_path.iterdir():
        text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert b"chatcmpl-a" not in text
    assert log.failures == 0


def test_a_killed_writer_has_lost_nothing_it_had_recorded(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from tests.trace.test_log import JOB, JOURNAL, opened
log = opened(Path({str(tmp_path)!r}))
for i in range(200):
    log.record(JOB, JOURNAL)
    print(i, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert shown.returncode == -9 and read(tmp_path) == (len(shown.stdout.splitlines()), 0)


def test_two_logs_share_a_folder(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from proxy.trace.log import LogSettings
from tests.trace.test_log import JOB, JOURNAL, opened
log = opened(Path({str(tmp_path)!r}), LogSettings(rotate_bytes=5000))
for i in range(100):
    log.record(JOB, JOURNAL)
log.close()
print(log.failures)
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in both] == ["0", "0"]
    assert read(tmp_path) == (200, 0)
