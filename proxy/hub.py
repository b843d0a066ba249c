"""Whether the model hub can be reached, found out once, in seconds.

Its client tries again for most of a minute before it gives up, for every file; a proxy without a network would seem to
hang. Where the hub does not answer, this process and its children use only what the hub's cache holds.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

OFFLINE = "HF_HUB_OFFLINE"
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_PATIENCE_S = 4.0


def use_cache_if_unreachable(names: Sequence[str], patience_s: float = _PATIENCE_S) -> None:
    """Set the hub's own switch for the rest of this process if `names` are to be fetched and it does not answer."""
    if not names or os.environ.get(OFFLINE) or any(os.environ.get(proxy) for proxy in _PROXIES):
        return
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not _answers(endpoint, patience_s):
        log.warning(
            "the hub %s cannot be reached; of %s only what its cache holds is used",
            endpoint,
            ", ".join(names),
        )
        os.environ[OFFLINE] = "1"


def hint() -> str:
    """What to add to an error about a model that was not found; nothing while the hub can be reached."""
    if not os.environ.get(OFFLINE):
        return ""
    return "; the hub is out of reach and its cache does not hold this model: name a folder instead"


def _answers(endpoint: str, patience_s: float) -> bool:
    parts = urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connected: list[bool] = []

    def connect() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), patience_s):
                connected.append(True)
        except OSError:
            pass

    # On a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience_s)
    return bool(connected)
