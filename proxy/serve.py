"""Serving an application with uvicorn: `cord serve`, and for the demo the same server inside this process."""

from __future__ import annotations

import gc
from pathlib import Path

import uvicorn

from proxy import config as configuration
from proxy.app import build_app


def server(config: configuration.Config, *, host: str | None = None, port: int | None = None) -> uvicorn.Server:
    """A server of the configured proxy, not yet running.

    A search is long, so a stopping server gives those in flight `general_settings.shutdown_s` seconds.
    """
    general = config.general_settings
    return uvicorn.Server(
        uvicorn.Config(
            build_app(config),
            host=host or general.host,
            port=general.port if port is None else port,
            timeout_graceful_shutdown=general.shutdown_s,
            log_level="warning",
            lifespan="on",
        )
    )


def serve(path: Path, *, host: str | None = None, port: int | None = None) -> int:
    """Serve until interrupted."""
    config = configuration.load(path)
    serving = server(config, host=host, port=port)
    gc.freeze()  # what has been loaded so far stays: no collection needs to walk it, which requests would wait for
    print(f"CoRD proxy on http://{serving.config.host}:{serving.config.port}/v1; models are loading, see /ready")
    serving.run()
    return 0 if serving.started else 1
