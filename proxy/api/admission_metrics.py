"""What the door tells Prometheus: requests that wait, requests that were refused, and what is reserved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.api.admission import Admission


@dataclass(frozen=True, slots=True)
class AdmissionCollector(Collector):
    """Read when asked; a collector for a registry."""

    admission: Admission

    def collect(self) -> Iterator[Metric]:
        held = self.admission.held
        yield GaugeMetricFamily(
            "cord_requests_waiting", "Requests in the queue", value=self.admission.waiting
        )
        yield GaugeMetricFamily(
            "cord_reserved_calls", "Teacher calls that running requests may make", value=held.calls
        )
        yield GaugeMetricFamily(
            "cord_reserved_tokens", "Tokens that running requests may write", value=held.tokens
        )
        refused = CounterMetricFamily(
            "cord_requests_refused", "Requests turned away with 429", labels=["reason"]
        )
        for reason in ("queue_full", "waited_too_long"):
            refused.add_metric([reason], self.admission.refused[reason])
        yield refused
