"""Which web pages may call the API from a browser. Off unless origins are configured."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

_TOLD = (
    "x-request-id", "x-cord-search-id", "x-cord-model", "x-cord-strategy", "x-cord-value", "x-cord-teachers",
    "x-cord-source", "x-cord-warning", "x-cord-relayed", "x-cord-relayed-for", "retry-after",
)  # fmt: skip


def cors(origins: Sequence[str]) -> list[Middleware]:
    """The middleware that lets pages of these origins in; `*` lets in all. Cookies are never heeded."""
    if not origins:
        return []
    methods = ("GET", "POST", "DELETE")
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=methods,
            allow_headers=["*"],
            expose_headers=_TOLD,
        )
    ]
