"""The server's Prometheus page: what the engine counts, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.engine import GenerationEngine


class _Figures(Collector):
    def __init__(self, engine: GenerationEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, counters = self._engine, self._engine.counters
        counted = {
            "prefilled_tokens": ("Tokens of prompts that were read", counters.prefilled),
            "reused_tokens": ("Tokens of prompts that came from the prefix cache", counters.reused),
            "generated_tokens": ("Tokens that were written", counters.generated),
            "cancelled_sequences": ("Sequences whose client left", counters.cancelled),
            "cache_evictions": ("Runs of tokens that left the prefix cache", engine.pool.evictions),
        }
        for name, (text, value) in counted.items():
            yield CounterMetricFamily(f"serving_{name}", text, value=value)
        held = {
            "cache_bytes": ("Bytes in the prefix cache", engine.pool.bytes),
            "running_sequences": ("Sequences that are being written", len(engine.running)),
            "waiting_sequences": ("Sequences that wait for a place", engine.waiting),
        }
        for name, (text, value) in held.items():
            yield GaugeMetricFamily(f"serving_{name}", text, value=value)


class MetricsPage:
    """Renders the page for one engine."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: GenerationEngine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(engine))

    def render(self) -> bytes:
        """The page as it is now."""
        return generate_latest(self._registry)
