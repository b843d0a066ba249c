"""How many searches may run at once; one more is turned away rather than queued behind minutes of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.api.errors import Busy


@dataclass(slots=True)
class Admission:
    """Counts the searches in flight. One event loop's own: it needs no lock."""

    limit: int
    retry_after_s: int
    held: int = field(default=0, init=False)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while a search runs.

        Raises:
            Busy: all places are taken.
        """
        if self.held >= self.limit:
            raise Busy(f"{self.limit} requests are already being answered; come again later", self.retry_after_s)
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1
