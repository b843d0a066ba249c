"""The journal of one search: its events with their times, passed to listeners at once.

The caller provides the clock (seconds, monotonic), so tests need not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.decoder.events import Event


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event and when it happened, in seconds since the journal was opened."""

    at_s: float
    event: Event


Listener = Callable[[Stamped], None]


@dataclass(slots=True)
class Journal:
    """Collects a search's events and tells every listener at once.

    A listener must not block; what it raises ends the search.
    """

    clock: Callable[[], float]
    listeners: Sequence[Listener] = ()
    events: list[Stamped] = field(default_factory=list)
    opened: float = field(init=False)

    def __post_init__(self) -> None:
        self.opened = self.clock()

    def emit(self, event: Event) -> None:
        stamped = Stamped(self.clock() - self.opened, event)
        self.events.append(stamped)
        for listener in self.listeners:
            listener(stamped)
