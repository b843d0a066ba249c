"""The HTTP server of a service process."""

from __future__ import annotations

from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from runtime.processes import Parent


class _Child(uvicorn.Server):
    """A server that leaves signals to its parent."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Nothing: when to leave is told by the parent."""


def run(
    app: ASGIApp, *, host: str, port: int, uds: str | None, parent: Parent | None = None
) -> int:
    """Serve until the parent has gone or, without one, until a signal comes; the exit status."""
    config = uvicorn.Config(
        app, host=host, port=port, uds=uds, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config) if parent is None else _Child(config)
    if parent is not None:
        parent.leave = lambda: setattr(server, "should_exit", True)
    server.run()
    return 0 if server.started else 1
