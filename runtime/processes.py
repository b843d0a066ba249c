"""How a service process ends: together with the process that started it, or by a signal where it
has no parent.

A child of the proxy must outlive signals that go to the proxy's whole process group (Ctrl-C in a
terminal, a service manager's SIGTERM): searches that are running still need it. So it ignores them,
and leaves when its parent closes the pipe that is its standard input, or dies.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

UNUSABLE = 2
"""Exit status of a service that cannot work with what it was given, so that starting it again would
not help."""


@dataclass(slots=True)
class Parent:
    """The process at the other end of standard input. `leave` ends this process when the parent has
    gone."""

    leave: Callable[[], None] = field(default=lambda: os._exit(0))

    def watch(self) -> None:
        """Ignore signals from now on, and watch standard input on a thread. Call it on the main
        thread."""
        for sent in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sent, signal.SIG_IGN)
        threading.Thread(target=self._wait, name="leave-with-parent", daemon=True).start()

    def _wait(self) -> None:
        # Not by sys.stdin: its lock, held here, would be fatal to an interpreter that shuts down.
        while os.read(0, 4096):
            pass
        self.leave()
