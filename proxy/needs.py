"""Checks that optional libraries are installed before they are needed, with a clear error if not."""

from __future__ import annotations

from importlib.util import find_spec

from proxy.errors import ConfigError


def need(library: str, path: str, what: str, instead: str = "") -> None:
    """Check that a library is installed, without importing it. `what` needs it; `instead` is another way.

    Raises:
        ConfigError: it is not; `path` names the key that asks for it.
    """
    if find_spec(library) is None:
        other = f", or {instead}" if instead else ""
        raise ConfigError(
            path, f"{what} {library}, which is not installed: pip install {library}{other}"
        )
