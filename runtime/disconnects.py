"""Stopping work when the client that asked for it has gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before the work was done."""


async def while_connected(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """Await `work`, and cancel it when the client disconnects. Its body must have been read before.

    Raises:
        ClientGone: the client left first.
        Exception: whatever `work` raises, taken out of its exception groups.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            results.append(await work())
        except Exception as exc:
            failures.append(exc)
        group.cancel_scope.cancel()
    if failures:
        raise leaf(failures[0]) from None
    if not results:
        raise ClientGone
    return results[0]


def leaf(exc: Exception) -> Exception:
    """The first exception in an exception group, however deep; any other exception itself."""
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return exc
