"""Turns a server's error reply into a typed failure, whatever its format."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from proxy.errors import FailureKind, TeacherError
from proxy.teachers import wire

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_OVERFLOW_WORDS = (
    "maximum context length",  # vLLM, OpenAI
    "exceeds the available context size",  # llama.cpp
    "longer than the model's context length",  # SGLang
)


def refusal(teacher: str, status: int, headers: Mapping[str, str], body: bytes) -> TeacherError:
    """An HTTP error. `body` may have been cut."""
    try:
        message, codes = _told(wire.json_object(body))
    except wire.BadReply:
        message, codes = body.decode("utf-8", "replace"), set()
    kind = _kind(status, message, codes)
    return TeacherError(
        teacher, kind, f"HTTP {status}: {message}", retry_after_s=retry_after(headers)
    )


def broken_off(teacher: str, event: Mapping[str, Any]) -> TeacherError:
    """An error that a stream tells after it has begun."""
    message, codes = _told(event)
    kind: FailureKind = "context_overflow" if _overflows(message, codes) else "broken"
    return TeacherError(teacher, kind, f"failed while writing: {message}")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """In how many seconds a server wants to be asked again, by its headers; None where it does not say."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        if _NUMBER.fullmatch(said := headers.get(name, "").strip()):
            return float(said) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, OverflowError):
        return None


def _told(body: Mapping[str, Any]) -> tuple[str, set[str]]:
    """The message of an error, and the codes that classify it, in the forms that servers use."""
    error = body.get("error")
    inner = error if isinstance(error, dict) else body
    said = (error, inner.get("message"), inner.get("detail"))
    message = next((text for text in said if isinstance(text, str) and text), "no reason given")
    return message, {
        code for code in (inner.get("code"), inner.get("type")) if isinstance(code, str)
    }


def _overflows(message: str, codes: set[str]) -> bool:
    return bool(codes & _OVERFLOW_CODES) or any(words in message for words in _OVERFLOW_WORDS)


def _kind(status: int, message: str, codes: set[str]) -> FailureKind:
    if _overflows(message, codes):
        return "context_overflow"
    match status:
        case 404:
            return "unknown_model"
        case 408 | 504:
            return "timeout"
        case 429:
            return "rate_limited"
        case 502 | 503 | 529:
            return "overloaded"
        case _:
            return "refused" if status < 500 else "broken"
