"""Removes a person's or a reply's traces from a folder, wherever they are: in segments being written, or compressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proxy.errors import ConfigError
from proxy.trace.archive import short_id
from proxy.trace.feedback import feedback_file
from proxy.trace.segment import folder_lock
from proxy.trace.store import TraceFolder


def erase(folder: Path, *, user: str | None = None, id: str | None = None) -> int:
    """Remove what a user sent (as `user` or `safety_identifier`), or one reply by its id or its request's; how many.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError("", f"there is no folder of traces at {folder}")

    gone: set[str] = set()

    def kept(line: bytes) -> bytes | None:
        try:
            record = json.loads(line)
        except ValueError:
            return line
        found = isinstance(record, dict) and (
            (user is not None and user in _users(record)) or (id is not None and _is(record, id))
        )
        if found and isinstance(record.get("id"), str):
            gone.add(short_id(record["id"]))
        return None if found else line

    count = TraceFolder(folder).rewrite(kept)
    _erase_feedback(folder, gone)
    return count


def _erase_feedback(folder: Path, gone: set[str]) -> None:
    """Remove what was said of the erased replies."""
    file = feedback_file(folder)
    with folder_lock(folder, wait=True):
        if not gone or not file.is_file():
            return
        lines = file.read_bytes().splitlines(keepends=True)
        rest = [
            line for line in lines if not any(id in line for id in (one.encode() for one in gone))
        ]
        unfinished = file.with_name(f".{file.name}")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(b"".join(rest))
        unfinished.replace(file)


def _users(record: dict[str, Any]) -> list[Any]:
    metadata = record.get("metadata")
    return (
        [metadata.get(name) for name in ("user", "safety_identifier")]
        if isinstance(metadata, dict)
        else []
    )


def _is(record: dict[str, Any], id: str) -> bool:
    own = record.get("id")
    request = record.get("request_id") or (record.get("metadata") or {}).get("request_id")
    return (isinstance(own, str) and short_id(own) == short_id(id)) or request == id
