"""Serving an application with uvicorn: `cord serve`, and for the demo the same server inside this process."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from proxy import __version__
from proxy import config as configuration
from proxy.announce import Announcer, address, is_loopback, plan
from proxy.app import build_app
from proxy.background import Background
from proxy.errors import ConfigError
from proxy.http_edge import EdgeProtocol

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
        self.on_started: Callable[[str], None] = lambda base_url: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; tells the base URL when connections are accepted."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.on_started(address(host, port))

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


def server(
    config: configuration.Config, *, host: str | None = None, port: int | None = None
) -> Server:
    """A server of the configured proxy, not yet running.

    A search is long, so a stopping server gives those in flight `general_settings.shutdown_s` seconds.

    Raises:
        ConfigError: the proxy cannot be built, or would listen beyond this machine without asking for a key.
    """
    general = config.general_settings
    host = host or general.host
    if not is_loopback(host) and not config.api_keys and not general.allow_unauthenticated:
        raise ConfigError(
            "general_settings.master_key",
            f"the proxy would listen on {host}, which others can reach, without asking for a key. Set a master key "
            "(or the environment variable CORD_MASTER_KEY), or general_settings.allow_unauthenticated: true",
        )
    app = build_app(config)
    settings = uvicorn.Config(
        app,
        host=host,
        port=general.port if port is None else port,
        timeout_graceful_shutdown=general.shutdown_s,
        http=EdgeProtocol,
        log_config=None,
        access_log=False,
        lifespan="on",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return Server(settings, app.state.background)


def serve(path: Path, *, host: str | None = None, port: int | None = None) -> int:
    """Serve until interrupted; the exit status."""
    config = configuration.load(path)
    serving = server(config, host=host, port=port)
    log.info("CoRD proxy %s starts from %s", __version__, path)
    for line in plan(config):
        log.info("%s", line)
    serving.on_started = lambda base_url: _announce(serving, config, base_url)
    gc.freeze()  # what has been loaded so far stays: no collection needs to walk it, which requests would wait for
    try:
        serving.run()
    except SystemExit:  # uvicorn has logged why it cannot start
        return 1
    return serving.status if serving.started else 1


def _announce(serving: Server, config: configuration.Config, base_url: str) -> None:
    log.info("listening on %s/v1; models are loading", base_url)
    announcer = Announcer(config, serving.background.probes, base_url)
    serving.background.start("announcements", announcer.run)
