"""Prometheus metrics, computed from the journal. Label values are configured names and fixed kinds only.

Nothing a client sends becomes a label value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.decoder.events import (
    AnswerDelta,
    AnswerRequested,
    Cancelled,
    Committed,
    Failed,
    Finished,
    ProposalCancelled,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    ScoreRequested,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.journal import Listener, Stamped
from proxy.decoder.summary import summarise
from proxy.service import Job
from proxy.trace.log import TraceLog

_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Collectors on a registry of their own; `listen` and `record` fit `proxy.service`."""

    def __init__(self, trace_log: TraceLog | None = None) -> None:
        self.registry = CollectorRegistry()

        def histogram(
            name: str, text: str, labels: Sequence[str], buckets: Sequence[float]
        ) -> Histogram:
            return Histogram(f"cord_{name}", text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"cord_{name}", text, labels, registry=self.registry)

        model, teacher = ["model"], ["teacher"]
        self._in_flight = Gauge(
            "cord_requests_in_flight", "Searches running now", model, registry=self.registry
        )
        self._duration = histogram(
            "request_duration_seconds", "A whole search", ["model", "outcome"], _LONG
        )
        self._ttft = histogram(
            "time_to_first_token_seconds", "Until the first text could be sent", model, _LONG
        )
        self._step = histogram(
            "step_duration_seconds", "From one step's decision to the next", model, _LONG
        )
        self._call = histogram(
            "teacher_call_duration_seconds", "One call to a teacher", ["teacher", "outcome"], _LONG
        )
        self._scorer = histogram(
            "scorer_call_duration_seconds", "One call to the scorer", [], _SHORT
        )
        self._queue = histogram(
            "scorer_queue_wait_seconds", "Waiting for the scorer's device", [], _SHORT
        )
        self._batch = histogram(
            "scorer_batch_requests", "Requests scored together", [], (1, 2, 4, 8, 16, 32, 64)
        )
        self._overhead = histogram(
            "overhead_seconds", "Search time with no call out to anyone", model, _SHORT
        )
        labels = ["teacher", "path", "outcome"]
        self._relayed = histogram(
            "relay_duration_seconds", "Straight through to one teacher", labels, _LONG
        )
        self._tokens = counter("generated_tokens", "Tokens written by fate", ["teacher", "fate"])
        self._wins = counter("step_wins", "Steps of winning trajectories", teacher)
        self._skipped = counter(
            "teacher_skipped", "Steps for which an adaptive search did not ask a teacher", teacher
        )
        self._failures = counter(
            "recorder_failures", "Searches a recorder failed to record", ["recorder"]
        )
        if trace_log is not None:
            self.registry.register(_TraceFailures(trace_log))

    def listen(self, job: Job) -> Listener:
        """Count one search while it runs."""
        self._in_flight.labels(job.ensemble.name).inc()
        return _SearchListener(self, job.ensemble.name)

    def record(self, job: Job, journal: Sequence[Stamped]) -> None:
        """Fold what only the whole journal tells: who won, what each teacher's tokens came to, our own overhead."""
        summary = summarise(stamped.event for stamped in journal)
        fates = {step.candidate.id: "won" for step in summary.steps}
        for stamped in journal:
            if isinstance(stamped.event, Pruned) and stamped.event.reason == "speculative":
                fates[stamped.event.id] = "speculative"
        for stamped in journal:
            match stamped.event:
                case Proposed(candidate):
                    fate = fates.get(candidate.id, "lost")
                    self._tokens.labels(candidate.teacher, fate).inc(
                        _amount(candidate.completion_tokens)
                    )
                case ProposalCancelled(_, teacher, tokens):
                    self._tokens.labels(teacher, "speculative").inc(_amount(tokens))
                case TeacherSkipped(_, teacher):
                    self._skipped.labels(teacher).inc()
        for step in summary.steps:
            self._wins.labels(step.candidate.teacher).inc()
        if summary.result is not None:
            self._tokens.labels(summary.result.answerer, "won").inc(
                _amount(summary.result.answer_tokens)
            )
        if journal:
            overhead = journal[-1].at_s - covered(calls(journal))
            self._overhead.labels(job.ensemble.name).observe(_amount(overhead))

    def on_recorder_failure(self, recorder: str) -> None:
        """Count a search that a recorder failed to record."""
        self._failures.labels(recorder).inc()

    def render(self) -> tuple[bytes, str]:
        """The page for a scraper and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def on_relay(self, teacher: str, path: str, outcome: str, seconds: float) -> None:
        """Count a request that went straight to one teacher."""
        self._relayed.labels(teacher, path, outcome).observe(seconds)

    def on_call(self, teacher: str, outcome: str, seconds: float) -> None:
        self._call.labels(teacher, outcome).observe(seconds)

    def on_score(self, event: Scored, seconds: float) -> None:
        self._scorer.observe(seconds)
        self._queue.observe(_amount(event.score.queue_s))
        self._batch.observe(event.score.batch_size)

    def on_step(self, model: str, seconds: float) -> None:
        self._step.labels(model).observe(seconds)

    def on_first_text(self, model: str, seconds: float) -> None:
        self._ttft.labels(model).observe(seconds)

    def on_end(self, model: str, outcome: str, seconds: float) -> None:
        self._in_flight.labels(model).dec()
        self._duration.labels(model, outcome).observe(seconds)


@dataclass(frozen=True, slots=True)
class _TraceFailures(Collector):
    """The trace log's own count, read when asked."""

    log: TraceLog

    def collect(self) -> Iterator[CounterMetricFamily]:
        text = "Records that could not be written"
        yield CounterMetricFamily("cord_trace_write_failures", text, value=self.log.failures)


@dataclass(slots=True)
class _SearchListener:
    """One search as it runs: what is out, and since when. An end of what never began is ignored."""

    metrics: Metrics
    model: str
    out: dict[int, tuple[str, float]] = field(default_factory=dict)
    scoring: dict[int, float] = field(default_factory=dict)
    answering: tuple[str, float] | None = None
    step_since: float = 0.0
    spoke: bool = False
    ended: bool = False

    def __call__(self, stamped: Stamped) -> None:
        now = stamped.at_s
        match stamped.event:
            case ProposalRequested(id, _, _, teacher):
                self.out[id] = (teacher, now)
            case Proposed(candidate):
                self._landed(candidate.id, "ok", now)
            case ProposalCancelled(id):
                self._landed(id, "cancelled", now)
            case TeacherFailed(None, _, kind, _):
                self._answered(kind, now)
            case TeacherFailed(int() as id, _, kind, _):
                # A straggler may have been proposed before: it then waited for its score.
                self._landed(id, kind, now)
            case ScoreRequested(id):
                self.scoring[id] = now
            case Scored(id, _) as event if id in self.scoring:
                self.metrics.on_score(event, now - self.scoring.pop(id))
            case StepDecided():
                self.metrics.on_step(self.model, now - self.step_since)
                self.step_since = now
            case Committed() | AnswerDelta() if not self.spoke:
                self.spoke = True
                self.metrics.on_first_text(self.model, now)
            case AnswerRequested(teacher):
                self.answering = (teacher, now)
            case Finished():
                self._answered("ok", now)
                self._end("finished", now)
            case Failed(kind, _):
                self._end(kind, now)
            case Cancelled():
                self._end("cancelled", now)

    def _landed(self, id: int, outcome: str, now: float) -> None:
        if id in self.out:
            teacher, since = self.out.pop(id)
            self.metrics.on_call(teacher, outcome, now - since)

    def _answered(self, outcome: str, now: float) -> None:
        if self.answering is not None:
            teacher, since = self.answering
            self.metrics.on_call(teacher, outcome, now - since)
            self.answering = None

    def _end(self, outcome: str, now: float) -> None:
        if not self.ended:
            self.ended = True
            self.metrics.on_end(self.model, outcome, now)


def _amount(number: float) -> float:
    """What a server reported as something a counter can take: nothing below zero, nothing that is not a number."""
    return number if math.isfinite(number) and number > 0 else 0.0


def calls(journal: Iterable[Stamped]) -> list[tuple[float, float]]:
    """The intervals, in seconds, in which a teacher or the scorer was being waited for.

    An end without a beginning takes no time; a call that never ended lasts until the journal does.
    """
    began: dict[tuple[str, int | None], float] = {}
    found: list[tuple[float, float]] = []
    last = 0.0
    for stamped in journal:
        last = stamped.at_s
        match stamped.event:
            case ProposalRequested(id):
                began["teacher", id] = last
            case AnswerRequested():
                began["teacher", None] = last
            case ScoreRequested(id):
                began["scorer", id] = last
            case Proposed(candidate):
                found.append((began.pop(("teacher", candidate.id), last), last))
            case ProposalCancelled(id) if ("teacher", id) in began:
                found.append((began.pop(("teacher", id)), last))
            case TeacherFailed(id):
                found += [
                    (began.pop((kind, id)), last)
                    for kind in ("teacher", "scorer")
                    if (kind, id) in began
                ]
            case Scored(id):
                found.append((began.pop(("scorer", id), last), last))
    return found + [(since, last) for since in began.values()]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
