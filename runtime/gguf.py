"""What a GGUF file says about itself: its architecture, context length, chat template and special
tokens.

Reads the metadata at the head of the file and no tensor. Needs neither torch nor the `gguf`
package, so that the proxy can render a teacher's prompts with the template in its file. Format:
github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_CONTROL, _USER_DEFINED = 3, 4
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}


class NotGguf(ValueError):
    """The file is missing, is no GGUF file, or is cut off; the message names it."""


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """`special_tokens` go by the names that chat templates use, such as `bos_token`.

    `control_tokens` are all that are special, `added_tokens` others that were added to the
    vocabulary.
    """

    architecture: str
    context_length: int | None
    chat_template: str | None
    special_tokens: Mapping[str, str]
    control_tokens: tuple[str, ...] = ()
    added_tokens: tuple[str, ...] = ()


def is_gguf(location: str | Path) -> bool:
    """Whether a model's location names a GGUF file, by its ending."""
    return str(location).lower().endswith(".gguf")


def read_metadata(file: Path) -> GgufMetadata:
    """Read the head of a GGUF file.

    Raises:
        NotGguf: there is no such file, or it is no GGUF file of a known version.
    """
    try:
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _parse(data, file)
    except (OSError, ValueError, struct.error, UnicodeDecodeError) as exc:
        if isinstance(exc, NotGguf):
            raise
        reason = exc.strerror if isinstance(exc, OSError) else "it is empty, cut off or damaged"
        raise NotGguf(f"cannot read {file} as GGUF: {reason}") from exc


def _parse(data: mmap.mmap, file: Path) -> GgufMetadata:
    if data[:4] != b"GGUF":
        raise NotGguf(f"{file} is no GGUF file: it begins with {data[:4]!r}")
    version, _, count = struct.unpack_from("<IQQ", data, 4)
    if version not in _VERSIONS:
        raise NotGguf(
            f"{file} is GGUF of version {version}; known are {', '.join(map(str, _VERSIONS))}"
        )
    values: dict[str, Any] = {}
    at = 24
    for _ in range(count):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        values[key], at = _value(data, at + 4, kind, kept=key in (_TOKENS, _TYPES))
    architecture = str(values.get("general.architecture", ""))
    length = values.get(f"{architecture}.context_length")
    template = values.get("tokenizer.chat_template")
    tokens, types = values.get(_TOKENS) or [], values.get(_TYPES) or []
    special = {
        name: tokens[number]
        for key, name in _SPECIAL.items()
        if isinstance(number := values.get(f"tokenizer.ggml.{key}_token_id"), int)
        and number < len(tokens)
    }
    return GgufMetadata(
        architecture,
        length if isinstance(length, int) else None,
        template if isinstance(template, str) else None,
        special,
        tuple(token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL),
        tuple(token for token, kind in zip(tokens, types, strict=False) if kind == _USER_DEFINED),
    )


def _value(data: mmap.mmap, at: int, kind: int, *, kept: bool) -> tuple[Any, int]:
    """The value at an offset and the offset after it. Of an array that is not `kept` only the end
    is found."""
    if kind == _STRING:
        return _string(data, at)
    if kind != _ARRAY:
        form = _SCALARS[kind] if kind in _SCALARS else ""
        if not form:
            raise ValueError(f"unknown type {kind}")
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if not kept and inner in _SCALARS:
        return None, at + count * struct.calcsize(_SCALARS[inner])
    items = []
    for _ in range(count):
        if kept or inner != _STRING:
            item, at = _value(data, at, inner, kept=kept)
            items.append(item)
        else:
            at += 8 + int(struct.unpack_from("<Q", data, at)[0])
    return (items if kept else None), at


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError("a string goes past the end")
    return data[at + 8 : end].decode("utf-8", errors="replace"), end
