"""Records to JSON and back, those of earlier versions included.

`cord.trace/1` had a plain-text conversation and other names for some fields; it is read as if it had been written
today. A field that this version does not know is ignored, a schema that it does not know is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from proxy.decoder.settings import Settings
from proxy.decoder.summary import Cost
from proxy.decoder.types import Score
from proxy.errors import CordError
from proxy.trace.fold import SCHEMA
from proxy.trace.record import TraceRecord

_READABLE = frozenset({"cord.trace/1", SCHEMA})

_RENAMED = {
    Settings: {"siblings": "max_children_per_parent", "alike": "similarity_threshold"}
    | {"read_ahead": "prefill_partial_steps"},
    Score: {"adds_up": "additive", "parts": "per_model", "beside": "blended"},
    Cost: {"spared": "skipped"},
}
"""Old names of fields, by the type that has them."""

_RECORD = TypeAdapter(TraceRecord)


class UnreadableRecord(CordError):
    """A line that is not a record of a schema this version reads."""


def to_json(record: TraceRecord) -> str:
    """One line of JSON."""
    return json.dumps(asdict(record), ensure_ascii=False, separators=(",", ":"))


def from_json(line: str | bytes) -> TraceRecord:
    """Read a record back.

    Raises:
        UnreadableRecord: it is torn, malformed, or of another schema.
    """
    try:
        raw = json.loads(line)
        schema = raw.get("schema") if isinstance(raw, Mapping) else None
        if schema not in _READABLE:
            raise UnreadableRecord(
                f"schema {schema!r} is not one of {', '.join(sorted(_READABLE))}"
            )
        return _RECORD.validate_python(_upgraded(raw))
    except (ValueError, RecursionError, ValidationError) as exc:
        raise UnreadableRecord(str(exc)) from exc


def _upgraded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A record by the names of this version. What is not of the shape it should be is left for the validation."""
    found = {**raw, "schema": SCHEMA}
    if raw["schema"] == "cord.trace/1":
        metadata = dict(raw.get("metadata") or {})
        found["request_id"], found["tools"] = (
            metadata.pop("request_id", None),
            metadata.pop("tools", ()),
        )
        found["metadata"] = metadata
        found["messages"] = [_without_nulls(message) for message in raw.get("messages") or ()]
        if "spared" in raw:
            found["skipped"] = raw["spared"]
    found["settings"] = _renamed(raw.get("settings"), Settings)
    found["cost"] = _renamed(raw.get("cost"), Cost)
    found["candidates"] = [_candidate(candidate) for candidate in raw.get("candidates") or ()]
    return found


def _candidate(raw: Any) -> Any:
    return {**raw, "score": _score(raw.get("score"))} if isinstance(raw, Mapping) else raw


def _score(raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    found = _renamed(raw, Score)
    for several in ("blended", "beside"):
        if several in found:
            found[several] = [_score(score) for score in found[several] or ()]
    return found


def _renamed(raw: Any, kind: type[Settings] | type[Score] | type[Cost]) -> Any:
    if not isinstance(raw, Mapping):
        return raw
    known = {field.name for field in fields(kind)}
    names = _RENAMED[kind]
    return {
        names[key] if key in names and names[key] in known else key: value
        for key, value in raw.items()
    }


def _without_nulls(message: Any) -> Any:
    return (
        {k: v for k, v in message.items() if v is not None}
        if isinstance(message, Mapping)
        else message
    )
