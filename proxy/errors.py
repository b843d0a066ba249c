"""Every error the proxy raises on purpose, as one tree.

An error says what went wrong in the words of the one who must act on it. It knows no HTTP status: only
`proxy.api` turns errors into replies. Errors of other libraries are translated where they are called.
"""

from __future__ import annotations

from typing import Literal

FailureKind = Literal[
    "unreachable",
    "timeout",
    "overloaded",
    "rate_limited",
    "context_overflow",
    "unknown_model",
    "refused",
    "broken",
]


_SHOWN_CHARS = 500


def one_line(text: str, most: int = _SHOWN_CHARS) -> str:
    """Text of a stranger's as a log line, a trace or a reply may show it: bounded, control characters escaped."""
    cut = text[:most]
    shown = (
        cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    )
    return shown if len(text) <= most else f"{shown} …"


class CordError(Exception):
    """The root of all errors raised on purpose."""


class ConfigError(CordError):
    """The configuration cannot be used; `path` names the key, e.g. `model_list.0.litellm_params.model`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


class RequestError(CordError):
    """The client asked for something that cannot be done; `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnknownModel(RequestError):
    """The client named a model that is not configured."""


class TeacherError(CordError):
    """One call to one teacher failed; the search goes on with the others.

    `kind` is the typed reason, bounded so that it can label a metric. `retry_after_s` is when the teacher wants to be
    asked again, where it has said so. The message may quote what a server said: it is made one bounded line.
    """

    def __init__(
        self, teacher: str, kind: FailureKind, message: str, *, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{teacher}: {one_line(message)}")
        self.teacher = teacher
        self.kind: FailureKind = kind
        self.retry_after_s = retry_after_s


class ScorerError(CordError):
    """The scorer could not score. `kind` tells a scorer that is away from one that refused what it was sent."""

    def __init__(
        self, kind: Literal["unavailable", "context_overflow", "refused"], message: str
    ) -> None:
        super().__init__(one_line(message))
        self.kind: Literal["unavailable", "context_overflow", "refused"] = kind


class SearchError(CordError):
    """The search ended without an answer. `kind` is bounded; the message names each teacher's failure."""

    def __init__(
        self, kind: Literal["no_candidates", "deadline", "no_answer"], message: str
    ) -> None:
        super().__init__(message)
        self.kind: Literal["no_candidates", "deadline", "no_answer"] = kind
