"""Removes a person's or a reply's traces from a folder, wherever they are: in segments being written, or compressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from proxy.errors import ConfigError
from proxy.trace.archive import short_id
from proxy.trace.store import TraceFolder


def erase(folder: Path, *, user: str | None = None, id: str | None = None) -> int:
    """Remove what a user sent (as `user` or `safety_identifier`), or one reply by its id or its request's; how many.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError("", f"there is no folder of traces at {folder}")

    def kept(line: bytes) -> bytes | None:
        try:
            record = json.loads(line)
        except ValueError:
            return line
        found = isinstance(record, dict) and (
            (user is not None and user in _users(record)) or (id is not None and _is(record, id))
        )
        return None if found else line

    return TraceFolder(folder).rewrite(kept)


def _users(record: dict[str, Any]) -> list[Any]:
    metadata = record.get("metadata")
    return [metadata.get(name) for name in ("user", "safety_identifier")] if isinstance(metadata, dict) else []


def _is(record: dict[str, Any], id: str) -> bool:
    own = record.get("id")
    request = record.get("request_id") or (record.get("metadata") or {}).get("request_id")
    return (isinstance(own, str) and short_id(own) == short_id(id)) or request == id
