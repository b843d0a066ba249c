"""GGUF files of nothing but metadata, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

METADATA: dict[str, str | int | list[str]] = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "tokenizer.ggml.merges": ["a b", "c d"],
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "ß"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}",
}


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: str | int | list[str]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))


def write_gguf(
    file: Path, metadata: Mapping[str, str | int | list[str]] = METADATA, version: int = 3
) -> Path:
    """A file with these keys and no tensor."""
    head = b"GGUF" + struct.pack("<IQQ", version, 0, len(metadata))
    file.write_bytes(head + b"".join(_text(key) + _value(value) for key, value in metadata.items()))
    return file
