"""How a service process ends together with the process that started it."""

from __future__ import annotations

import os
import signal
import sys
import threading


def leave_with_parent() -> None:
    """Watch standard input on a thread; its end means that the parent has gone, and ends this process.

    The parent must hold the other end of the pipe. The process gets SIGTERM, so that it can shut down as usual.
    """
    threading.Thread(target=_wait_for_end, name="leave-with-parent", daemon=True).start()


def _wait_for_end() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
