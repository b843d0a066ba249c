"""A metrics page as numbers by name and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.trace.metrics import Metrics

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def figures_of(metrics: Metrics) -> Figures:
    page, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
