"""Records, their file, and the rows made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.trace.codec import UnreadableRecord, from_json, to_json
from proxy.trace.fold import record
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.reader import TraceReader
from proxy.trace.record import Provenance, TeacherProvenance, TraceRecord
from tests.trace.searches import SECRET, Kept, cancelled, failed, finished

pytestmark = pytest.mark.anyio

PROVENANCE = Provenance(
    (TeacherProvenance("ada", "hosted_vllm/org/ada", "r1", "abc", "apache-2.0"),)
)


async def kept_record(search: Any = finished) -> TraceRecord:
    kept = Kept()
    await search(kept)
    return record(kept.jobs[0], kept.journals[0], PROVENANCE)


async def test_a_finished_search_is_recorded_whole() -> None:
    found = await kept_record()
    assert (found.outcome, found.source, found.objective, found.model) == (
        "finished",
        "none",
        "predictive",
        "cord",
    )
    assert found.reasoning == "### Step 1. a1\n\n### Step 2. a2\n\n### Step 3. a3\n\n"
    assert found.winner is not None and found.winner.answer == "answer by a\n"
    fates = {
        (candidate.teacher, candidate.depth): candidate.fate
        for candidate in found.candidates
        if not candidate.parent
    }
    assert (
        fates["ada", 1] == "won"
        and fates["twin", 1] == "duplicate"
        and fates["down", 1] == "failed:unreachable"
    )
    assert {candidate.fate for candidate in found.candidates} <= {
        "won", "rank", "duplicate", "outranked", "failed:unreachable",
    }  # fmt: skip
    scored = [candidate for candidate in found.candidates if candidate.score]
    assert all(c.asked_s <= (c.landed_s or 0) <= (c.scored_s or 0) for c in scored)
    assert (found.usage.reasoning_tokens, found.usage.completion_tokens) == (15, 18)
    assert found.teachers == PROVENANCE.teachers and found.metadata == {"user": "u-1"}


async def test_a_failed_search_is_recorded_with_its_reason() -> None:
    found = await kept_record(failed)
    assert (found.outcome, found.winner) == ("failed", None)
    assert found.error == "no_candidates: down: too slow"
    assert [candidate.fate for candidate in found.candidates] == ["failed:timeout"]


async def test_a_cancelled_search_keeps_what_had_landed() -> None:
    found = await kept_record(cancelled)
    assert found.outcome == "cancelled"
    assert [(candidate.fate, bool(candidate.text)) for candidate in found.candidates] == [
        ("unfinished", True), ("unfinished", False),
    ]  # fmt: skip


@pytest.mark.parametrize("search", [finished, failed, cancelled])
async def test_a_record_survives_its_journey_through_json(search: Any) -> None:
    found = await kept_record(search)
    assert from_json(to_json(found)) == found
    assert SECRET not in to_json(found)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", '{"schema": "cord.trace/99"}', '{"schema": "cord.trace/1"}']
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(UnreadableRecord):
        from_json(line)


async def test_a_torn_last_line_is_skipped_and_counted(tmp_path: Path) -> None:
    kept = Kept()
    await finished(kept)
    log = TraceLog(tmp_path, LogSettings(rotate_bytes=1 << 20), provenance=PROVENANCE)
    for _ in range(3):
        log.record(kept.jobs[0], kept.journals[0])
    log.close()
    [segment] = tmp_path.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes()[:-40])
    reader = TraceReader(tmp_path)
    assert len(list(reader)) == 2 and len(reader.skipped) == 1


async def test_segments_rotate_and_lose_nothing(tmp_path: Path) -> None:
    kept = Kept()
    await finished(kept)
    log = TraceLog(tmp_path, LogSettings(rotate_bytes=1), provenance=PROVENANCE)
    for _ in range(3):
        log.record(kept.jobs[0], kept.journals[0])
    log.close()
    assert len(TraceReader(tmp_path).files) == len(list(TraceReader(tmp_path))) == 3


def test_a_line_of_the_first_schema_is_read_by_todays_names() -> None:
    found = from_json((Path(__file__).parent / "data" / "trace-1.jsonl").read_bytes())
    assert (found.schema, found.request_id, found.metadata) == (
        "cord.trace/2",
        "req-1",
        {"user": "u-1"},
    )
    assert found.tools == ({"type": "function", "function": {"name": "look"}},)
    assert found.messages == ({"role": "user", "content": "What is it?"},)
    settings = found.settings
    assert (settings.max_children_per_parent, settings.similarity_threshold) == (1, 0.9)
    assert settings.prefill_partial_steps and found.cost.skipped == 1
    assert [skipped.teacher for skipped in found.skipped] == ["cleo"]
    score = found.won[0].score
    assert score is not None and not score.additive
    assert from_json(to_json(found)) == found
