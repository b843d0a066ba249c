"""The figures a scraper sees after searches of every kind."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.decoder.events import Finished, ProposalRequested, Proposed
from proxy.trace.metrics import Metrics, covered
from tests.trace.figures import Figures, figures_of
from tests.trace.searches import Kept, cancelled, failed, finished

pytestmark = pytest.mark.anyio


async def figures(*searches: Any) -> Figures:
    metrics = Metrics()
    for search in searches:
        kept = Kept()
        await search(kept)
        watch = metrics.listen(kept.jobs[0])
        for stamped in kept.journals[0]:
            watch(stamped)
        metrics.record(kept.jobs[0], kept.journals[0])
    return figures_of(metrics)


async def test_every_end_is_counted_and_nothing_stays_in_flight() -> None:
    found = await figures(finished, failed, cancelled)
    for outcome in ("finished", "no_candidates", "cancelled"):
        assert (
            found["cord_request_duration_seconds_count", (("model", "cord"), ("outcome", outcome))]
            == 1
        )
    assert found["cord_requests_in_flight", (("model", "cord"),)] == 0


async def test_wins_calls_and_tokens_are_counted_by_teacher() -> None:
    found = await figures(finished)
    assert found["cord_step_wins_total", (("teacher", "ada"),)] == 3
    assert found["cord_generated_tokens_total", (("fate", "won"), ("teacher", "ada"))] == 18
    assert found["cord_generated_tokens_total", (("fate", "lost"), ("teacher", "bob"))] > 0
    calls = {
        name: value
        for name, value in found.items()
        if name[0] == "cord_teacher_call_duration_seconds_count"
    }
    assert any(dict(labels) == {"teacher": "down", "outcome": "unreachable"} for _, labels in calls)
    assert found["cord_time_to_first_token_seconds_count", (("model", "cord"),)] == 1
    assert found["cord_step_duration_seconds_count", (("model", "cord"),)] == 3


async def test_overhead_is_the_time_nobody_was_asked_anything() -> None:
    kept = Kept()
    await finished(kept)
    total = kept.journals[0][-1].at_s
    found = await figures(finished)
    assert 0 <= found["cord_overhead_seconds_sum", (("model", "cord"),)] <= max(total, 1.0)
    assert isinstance(kept.journals[0][-1].event, Finished)
    assert {type(stamped.event) for stamped in kept.journals[0]} >= {ProposalRequested, Proposed}


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(0, 1), (0.5, 2)], 2), ([(0, 1), (2, 3)], 2), ([(0, 5), (1, 2)], 5)],
)
def test_overlapping_intervals_count_once(
    intervals: list[tuple[float, float]], length: float
) -> None:
    assert covered(intervals) == length
