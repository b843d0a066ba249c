"""Error messages for a configuration: all errors at once, with line numbers and the nearest valid key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from proxy.api.old_names import explain
from proxy.errors import ConfigError

Path = Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Source:
    """The file that a configuration was read from; without one, complaints have no lines."""

    name: str = ""
    node: yaml.Node | None = None

    def line(self, path: Path) -> int | None:
        """The line of a key, or of the nearest one above it that is there."""
        node, line = self.node, None
        for part in path:
            node, found = _child(node, part)
            if node is None:
                break
            line = found
        return line

    def complain(self, path: Path, message: str) -> str:
        """One complaint as a line of text."""
        key = ".".join(map(str, path))
        line = self.line(path)
        where = f"{self.name}:{line}: " if line is not None else ""
        return f"{where}{key}: {message}" if key else f"{where}{message}"


def explained(exc: ValidationError, model: type[BaseModel]) -> list[tuple[Path, str]]:
    """The complaints of a validation: paths and messages."""
    schema = model.model_json_schema()
    return [(error["loc"], _message(error, schema)) for error in exc.errors()]


def refusal(complaints: Sequence[tuple[Path, str]], source: Source) -> ConfigError:
    """One error for all complaints, of which there is at least one."""
    lines = [source.complain(path, message) for path, message in complaints]
    if len(lines) > 1:
        lines.insert(0, f"{len(lines)} problems:")
    error = ConfigError("", "\n  ".join(lines))
    error.path = ".".join(map(str, complaints[0][0]))
    return error


def _message(error: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    *above, key = error["loc"] or ("",)
    if error["type"] == "extra_forbidden":
        known = _keys(schema, above)
        near = get_close_matches(str(key), known, 1, 0.6)
        if (old := explain(str(key))) is not None:
            return old
        return (
            f"unknown key; did you mean {near[0]}?"
            if near
            else f"unknown key; known are {', '.join(known)}"
        )
    if error["type"] == "missing":
        return "this key is needed"
    return str(error["msg"]).removeprefix("Value error, ")


def _keys(schema: Mapping[str, Any], path: Path) -> list[str]:
    """The keys that may stand at a path, by the schema."""
    at: Mapping[str, Any] = schema
    for part in path:
        at = _resolved(at, schema)
        below = at.get("items") if isinstance(part, int) else at.get("properties", {}).get(part)
        others = [*at.get("patternProperties", {}).values(), at.get("additionalProperties") or {}]
        at = below or others[0]
    return list(_resolved(at, schema).get("properties", {}))


def _resolved(at: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = at.get("$ref")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else at


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node | None, int | None]:
    """The node below a key or index, and the line that it starts at."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line + 1
    return None, None
