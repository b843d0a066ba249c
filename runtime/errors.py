"""What every service here says when something is wrong: OpenAI's error body, and why a checkpoint
was not loaded."""

from __future__ import annotations

from typing import Any


def error_body(
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """All four keys that OpenAI's clients read; `param` names the field at fault, `code` is
    stable."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class CheckpointError(Exception):
    """A checkpoint cannot be loaded: which one, and why, in a sentence."""
