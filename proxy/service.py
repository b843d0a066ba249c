"""The service behind the API: virtual models, and searches that are recorded.

All callers, HTTP routes and scripts, use `Service.decode`, so every search leaves a trace and metrics,
however it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.decoder.bandit import Bandit
from proxy.decoder.journal import Journal, Listener, Stamped
from proxy.decoder.ports import Scorer, Teacher
from proxy.decoder.search import search
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Problem, Result

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """A virtual model: the teachers it asks and how it searches. A single teacher is one of these too.

    `unset` names the settings that its configuration leaves to what fits the score. The bandit remembers from request
    to request which of them win. `segmentation` says how the next search cuts; None cuts as the service does.
    """

    name: str
    panel: tuple[Teacher, ...]
    settings: Settings
    unset: frozenset[str] = frozenset()
    bandit: Bandit = field(default_factory=Bandit)
    segmentation: Callable[[], Segmentation] | None = None

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
    `conversation` is the client's own: OpenAI's messages, with the calls and roles that `problem.messages` has as text.
    """

    problem: Problem
    ensemble: Ensemble
    settings: Settings
    received: float
    metadata: Mapping[str, Any] = field(default_factory=dict)
    conversation: Sequence[Mapping[str, Any]] = ()


Recorder = Callable[[Job, Sequence[Stamped]], None]
"""Is handed every job with its whole journal once, when the search has ended, in whatever way."""

OpenListener = Callable[[Job], Listener]
"""Opens a listener to one job's events as they happen."""


@dataclass(frozen=True, slots=True)
class Service:
    """The configured models and what records their work.

    Recorders and listeners have names. One that fails is logged, reported to `on_recorder_failure` by its name, and
    disturbs neither the search nor the others.
    """

    ensembles: Mapping[str, Ensemble]
    scorer: Scorer
    segmentation: Segmentation
    recorders: Mapping[str, Recorder] = field(default_factory=dict)
    listeners: Mapping[str, OpenListener] = field(default_factory=dict)
    on_recorder_failure: Callable[[str], None] = lambda name: None

    async def decode(self, job: Job, *listeners: Listener) -> tuple[Result, Sequence[Stamped]]:
        """Search, telling the listeners every event as it happens; the result and the journal.

        `listeners` are part of the reply: what they raise ends the search.

        Raises:
            SearchError, ScorerError: as `decoder.search.search`; the search is recorded all the same.
        """
        guarded = [
            _GuardedListener(name, open, job, self._on_failure)
            for name, open in self.listeners.items()
        ]
        journal = Journal(time.monotonic, (*guarded, *listeners))
        try:
            ensemble = job.ensemble
            result = await search(
                job.problem,
                ensemble.panel,
                self.scorer,
                job.settings,
                self.segmentation if ensemble.segmentation is None else ensemble.segmentation(),
                journal.emit,
                ensemble.bandit,
            )
        finally:
            for name, record in self.recorders.items():
                try:
                    record(job, journal.events)
                except Exception:
                    self._on_failure(name, job)
        return result, journal.events

    def _on_failure(self, name: str, job: Job) -> None:
        """Log and report the exception being handled."""
        log.exception("the recorder %s failed; %s goes on without it", name, job.problem.id)
        try:
            self.on_recorder_failure(name)
        except Exception:
            log.exception("the failure of the recorder %s was not counted", name)


class _GuardedListener:
    """A listener that raises nothing. It is told every event, also after a failure; its first failure is reported."""

    def __init__(
        self, name: str, open: OpenListener, job: Job, on_failure: Callable[[str, Job], None]
    ) -> None:
        self._name, self._job, self._on_failure = name, job, on_failure
        self._failed = False
        self._listener: Listener | None = None
        try:
            self._listener = open(job)
        except Exception:
            self._report()

    def __call__(self, stamped: Stamped) -> None:
        if self._listener is None:
            return
        try:
            self._listener(stamped)
        except Exception:
            self._report()

    def _report(self) -> None:
        if not self._failed:
            self._failed = True
            self._on_failure(self._name, self._job)
