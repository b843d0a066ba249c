"""Every failure as a reply: status, OpenAI error body, headers. The only place that maps errors to status codes.

What went wrong on purpose is told in its own words; a bug is logged and told as nothing but a bug.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from proxy import sse
from proxy.api.body import TooLarge, TooSlow, to_json
from proxy.errors import CordError, RequestError, ScorerError, SearchError, UnknownModel
from runtime.errors import error_body

logger = logging.getLogger("proxy.api")

_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_NO_RETRY = {"x-should-retry": "false"}
"""A search ran and failed: the official clients would repeat it at its full price, unasked."""


class Unauthorised(CordError):
    """The request carries no key, or not the right one."""


class Forbidden(CordError):
    """The key does not open this."""


class UpstreamFailed(CordError):
    """A teacher's own server, to which a request was handed, could not be reached or broke off."""


class NotFound(CordError):
    """There is nothing of this id."""


class Busy(CordError):
    """As much is running as the server allows. `retry_after_s` is when to come again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as the client sees it, with all four keys OpenAI's clients read."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        return error_body(self.message, kind=self.type, param=self.param, code=self.code)

    @property
    def frame(self) -> bytes:
        """The error in the middle of a stream."""
        return sse.encode(to_json(self.body))


def describe(exc: Exception) -> ErrorReply:
    """The reply to an exception; what was not raised on purpose becomes a 500 that tells nothing."""
    match exc:
        case UnknownModel():
            return ErrorReply(404, str(exc), _CLIENT, exc.param or "model", "model_not_found")
        case NotFound():
            return ErrorReply(404, str(exc), _CLIENT, None, "not_found")
        case RequestError():
            return ErrorReply(400, str(exc), _CLIENT, exc.param, exc.code)
        case Unauthorised():
            return ErrorReply(
                401, str(exc), _CLIENT, None, "invalid_api_key", {"www-authenticate": "Bearer"}
            )
        case Forbidden():
            return ErrorReply(403, str(exc), _CLIENT, None, "insufficient_scope")
        case TooSlow():
            return ErrorReply(
                408, str(exc), _CLIENT, None, "request_timeout", {"connection": "close"}
            )
        case TooLarge():
            return ErrorReply(413, str(exc), _CLIENT, None, "request_too_large")
        case Busy(retry_after_s=seconds):
            headers = {"retry-after": str(seconds)}
            return ErrorReply(429, str(exc), "rate_limit_error", None, "too_many_requests", headers)
        case SearchError(kind="deadline"):
            return ErrorReply(504, str(exc), _SERVER, None, "deadline", _NO_RETRY)
        case SearchError():
            return ErrorReply(503, str(exc), _SERVER, None, exc.kind, _NO_RETRY)
        case ScorerError(kind="context_overflow"):
            return ErrorReply(
                400, str(exc), _CLIENT, "messages", "context_length_exceeded", _NO_RETRY
            )
        case ScorerError():
            status = 503 if exc.kind == "unavailable" else 500
            return ErrorReply(status, str(exc), _SERVER, None, f"scorer_{exc.kind}", _NO_RETRY)
        case UpstreamFailed():
            return ErrorReply(502, str(exc), _SERVER, None, "upstream_failed")
        case HTTPException():
            return _routing(exc)
    return ErrorReply(
        500, "internal error; the server's log has it", _SERVER, None, "internal_error", _NO_RETRY
    )


def report(exc: Exception, request_id: str) -> ErrorReply:
    """Describe, and log what the operator must know: bugs with their traceback, failures with their reason."""
    reply = describe(exc)
    if reply.code == "internal_error":
        logger.error("request %s: bug", request_id, exc_info=exc)
    elif reply.status >= 500:
        logger.warning("request %s: %s: %s", request_id, reply.code, exc)
    else:
        logger.info("%s refused: %d %s", request_id, reply.status, reply.code or exc)
    return reply


def _routing(exc: HTTPException) -> ErrorReply:
    """What Starlette's router refuses: no such path, or not with this method."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code)
    return ErrorReply(exc.status_code, exc.detail, _CLIENT, None, code, dict(exc.headers or {}))
