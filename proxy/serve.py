"""Serving an application with uvicorn: `cord serve`, and for the demo the same server inside this process."""

from __future__ import annotations

import gc
import logging
import os
import signal
from pathlib import Path
from types import FrameType

import uvicorn

from proxy import config as configuration
from proxy.app import build_app
from proxy.background import Background

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """A uvicorn server that ends as an operator expects.

    The first signal lets running searches finish, a second Ctrl-C ends everything at once. A proxy whose background
    work has failed stops by itself. `status` is the exit status: 0 after SIGTERM, 130 after Ctrl-C, 1 after a failure.
    """

    def __init__(self, config: uvicorn.Config, background: Background) -> None:
        super().__init__(config)
        self.background = background
        self.background.on_failure = self._fail
        self.status = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal in place of uvicorn's own, which would raise the signal again at the end."""
        if self.should_exit and sig == signal.SIGINT:
            self.abandon()
        self.should_exit = True
        self.status = max(self.status, 128 + sig if sig == signal.SIGINT else 0)
        self.background.stop()

    def abandon(self) -> None:
        """Leave at once, without waiting for searches or children."""
        self.background.kill()
        os._exit(128 + signal.SIGINT)

    def _fail(self) -> None:
        self.should_exit = True
        self.status = 1
        self.background.stop()


def server(config: configuration.Config, *, host: str | None = None, port: int | None = None) -> Server:
    """A server of the configured proxy, not yet running.

    A search is long, so a stopping server gives those in flight `general_settings.shutdown_s` seconds.
    """
    general = config.general_settings
    app = build_app(config)
    settings = uvicorn.Config(
        app,
        host=host or general.host,
        port=general.port if port is None else port,
        timeout_graceful_shutdown=general.shutdown_s,
        log_level="warning",
        lifespan="on",
    )
    return Server(settings, app.state.background)


def serve(path: Path, *, host: str | None = None, port: int | None = None) -> int:
    """Serve until interrupted."""
    config = configuration.load(path)
    serving = server(config, host=host, port=port)
    gc.freeze()  # what has been loaded so far stays: no collection needs to walk it, which requests would wait for
    print(f"CoRD proxy on http://{serving.config.host}:{serving.config.port}/v1; models are loading, see /ready")
    serving.run()
    return serving.status if serving.started else 1
