"""The product behind the wire: virtual models, and decoding one problem with its record kept.

Everything that answers a request, the HTTP routes as much as a script, goes through `Service.decode`; so every
request that reaches the decoder leaves a trace and its metrics, however it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.decoder.bandit import Bandit
from proxy.decoder.journal import Journal, Listener, Stamped
from proxy.decoder.ports import Scorer, Teacher
from proxy.decoder.search import search
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Problem, Result, Settings


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A virtual model: the teachers it asks and how it searches. A single teacher is one of these too.

    `unset` names the settings that its configuration leaves to what fits the score. The bandit remembers from request
    to request which of them win.
    """

    name: str
    panel: tuple[Teacher, ...]
    settings: Settings
    unset: frozenset[str] = frozenset()
    bandit: Bandit = field(default_factory=Bandit)

    @property
    def supports_response_format(self) -> bool:
        """Whether one of them, who then writes the answer, can hold it to a format."""
        return any(teacher.supports_response_format for teacher in self.panel)

    @property
    def supports_tools(self) -> bool:
        """Whether one of them, who then writes the answer, knows how to call tools."""
        return any(teacher.supports_tools for teacher in self.panel)


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way to the decoder. `received` is its arrival in seconds since the epoch.

    `metadata` is what the client wants recorded (`metadata`, `user`, `store`, …); nothing reads it but the trace.
    """

    problem: Problem
    ensemble: Ensemble
    settings: Settings
    received: float
    metadata: Mapping[str, Any] = field(default_factory=dict)


Keeper = Callable[[Job, Sequence[Stamped]], None]
"""Is handed every job with its whole journal once, when the search has ended, in whatever way."""

Watcher = Callable[[Job], Listener]
"""Opens a listener to one job's events as they happen."""


@dataclass(frozen=True, slots=True)
class Service:
    """The configured models and what keeps a record of their work."""

    ensembles: Mapping[str, Ensemble]
    scorer: Scorer
    segmentation: Segmentation
    keepers: tuple[Keeper, ...] = ()
    watchers: tuple[Watcher, ...] = ()

    async def decode(self, job: Job, *listeners: Listener) -> tuple[Result, Sequence[Stamped]]:
        """Search, telling the listeners every event as it happens; the result and the journal.

        Raises:
            SearchError, ScorerError: as `decoder.search.search`; the record is kept all the same.
        """
        journal = Journal(time.monotonic, (*listeners, *(watch(job) for watch in self.watchers)))
        try:
            ensemble = job.ensemble
            result = await search(
                job.problem,
                ensemble.panel,
                self.scorer,
                job.settings,
                self.segmentation,
                journal.emit,
                ensemble.bandit,
            )
        finally:
            for keep in self.keepers:
                keep(job, journal.events)
        return result, journal.events
