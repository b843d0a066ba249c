"""The trace log under pressure: full disks, torn writes, folders that go away."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.decoder.events import Cancelled
from proxy.decoder.journal import Stamped
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.reader import TraceReader
from proxy.trace.record import Provenance
from tests.decoder.scripted import ScriptedTeacher, counts_to
from tests.trace.searches import job

JOB = job(ScriptedTeacher("ada", counts_to(2)))
JOURNAL = [Stamped(1.0, Cancelled())]


PLAIN = LogSettings(compress=False)


def opened(folder: Path, settings: LogSettings = PLAIN, **more: Any) -> TraceLog:
    return TraceLog(folder, settings, provenance=Provenance(), **more)


def read(folder: Path) -> tuple[int, int]:
    """How many records there are, and how many lines that are none."""
    reader = TraceReader(folder)
    return len(list(reader)), len(reader.skipped)


def test_files_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        log = opened(tmp_path / "traces")
        log.record(JOB, JOURNAL)
        log.close()
    finally:
        os.umask(before)
    [segment] = (tmp_path / "traces").glob("*.jsonl")
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "traces").stat().st_mode) == 0o700


@pytest.mark.parametrize("can_cut", [True, False])
def test_a_torn_write_is_counted_and_spoils_no_other_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_cut: bool
) -> None:
    log = opened(tmp_path)
    log.record(JOB, JOURNAL)
    write = os.write
    room = 10

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(fd, data[:room])
        room -= count
        return count

    def cannot_cut(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        if not can_cut:
            patched.setattr(os, "ftruncate", cannot_cut)
        log.record(JOB, JOURNAL)
    assert log.failures == 1
    log.record(JOB, JOURNAL)
    log.close()
    assert read(tmp_path) == (2, 0 if can_cut else 1)


def test_a_write_in_pieces_is_a_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    log = opened(tmp_path)
    log.record(JOB, JOURNAL)
    log.close()
    assert (log.failures, read(tmp_path)) == (0, (1, 0))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_loses_counted_records_and_none_besides(small_disk: Path) -> None:
    log = opened(small_disk / "traces")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 40_000)
    tried = 0
    while log.failures == 0 and tried < 1000:
        log.record(JOB, JOURNAL)
        tried += 1
    assert log.failures == 1
    ballast.unlink()
    log.record(JOB, JOURNAL)
    log.close()
    assert read(small_disk / "traces") == (tried, 0)


def test_a_file_size_limit_loses_counted_records_and_none_besides(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from pathlib import Path
from tests.trace.test_log import JOB, JOURNAL, opened
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, {resource.RLIM_INFINITY}))
log = opened(Path({str(tmp_path)!r}))
for _ in range(10):
    log.record(JOB, JOURNAL)
resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY}, {resource.RLIM_INFINITY}))
log.record(JOB, JOURNAL)
print(log.failures)
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    lost = int(shown.stdout)
    assert 0 < lost < 10 and read(tmp_path) == (11 - lost, 0)


def test_a_folder_that_is_deleted_is_made_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "traces"
    log = opened(folder)
    log.record(JOB, JOURNAL)
    shutil.rmtree(folder)
    log.record(JOB, JOURNAL)
    log.record(JOB, JOURNAL)
    log.close()
    assert (log.failures, read(folder)) == (0, (2, 0))
    assert [entry.levelno for entry in caplog.records] == [
        logging.ERROR
    ] and "is gone" in caplog.text


def test_a_segment_that_is_replaced_is_left_to_whoever_did_it(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.record(JOB, JOURNAL)
    [segment] = tmp_path.glob("*.jsonl")
    segment.unlink()
    segment.write_text("")
    log.record(JOB, JOURNAL)
    log.close()
    assert segment.read_text() == "" and read(tmp_path) == (1, 0)


def test_losses_are_logged_once_a_minute_with_their_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    folder = tmp_path / "traces"
    log = opened(folder, clock=lambda: now)
    folder.rmdir()
    folder.write_text("in the way")
    for _ in range(5):
        log.record(JOB, JOURNAL)
    now = 61.0
    log.record(JOB, JOURNAL)
    said = [entry.getMessage() for entry in caplog.records]
    assert [text.partition(" ")[0] for text in said] == ["1", "5"] and log.failures == 6
    folder.unlink()
    log.record(JOB, JOURNAL)
    log.close()
    assert read(folder) == (1, 0) and "written again; 6 have been lost" in caplog.text
