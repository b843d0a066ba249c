"""JSON bodies: read up to a limit, and written as UTF-8, compact, never failing on the text a model wrote."""

from __future__ import annotations

import json
from typing import Any

import anyio
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from proxy.errors import CordError, RequestError


class TooSlow(CordError):
    """The request's body did not come in time."""


class TooLarge(CordError):
    """The request's body is longer than the server reads."""


async def read_json(request: Request, limit: int, timeout_s: float = 60.0) -> bytes:
    """The bytes of a JSON body of `limit` bytes at most.

    Raises:
        RequestError: it is not said to be JSON.
        TooLarge: it is longer; the rest is left unread.
        TooSlow: it did not come within `timeout_s` seconds.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            "send the body with `Content-Type: application/json`", code="invalid_content_type"
        )
    body = bytearray()
    try:
        with anyio.fail_after(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the body is longer than {limit} bytes")
    except TimeoutError:
        raise TooSlow(f"the body did not come within {timeout_s:g} seconds") from None
    return bytes(body)


def parse_json(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object.

    Raises:
        RequestError: it is not JSON, is nested too deeply, or is no object.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise RequestError(f"the body is not JSON: {exc}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return fields


def to_json(value: Any) -> str:
    """Compact JSON. Characters stay as they are; NaN and infinities are a bug and raise ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class JsonReply(Response):
    """A JSON response. Half a surrogate pair, which models do write and UTF-8 cannot hold, becomes `?`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content).encode("utf-8", "replace")
