"""Finding stored traces: the newest first, what matches, in pages that miss nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.errors import RequestError
from proxy.trace.codec import from_json, to_json
from proxy.trace.finder import TraceFinder
from proxy.trace.fold import record
from proxy.trace.query import TraceQuery
from proxy.trace.record import Provenance, TraceRecord
from tests.trace.searches import Kept, cancelled, failed, finished

pytestmark = pytest.mark.anyio


async def records() -> tuple[TraceRecord, TraceRecord, TraceRecord]:
    kept = Kept()
    await finished(kept)
    await failed(kept)
    await cancelled(kept)
    found = [
        record(job, journal, Provenance())
        for job, journal in zip(kept.jobs, kept.journals, strict=True)
    ]
    return found[0], found[1], found[2]


def stored(folder: Path, *segments: list[TraceRecord]) -> TraceFinder:
    for number, segment in enumerate(segments):
        text = "".join(f"{to_json(entry)}\n" for entry in segment)
        (folder / f"2026-{number}.jsonl").write_text(text)
    return TraceFinder(folder)


async def test_pages_hold_every_trace_once_newest_first(tmp_path: Path) -> None:
    good, _, _ = await records()
    numbered = [replace(good, id=f"chatcmpl-{i}") for i in range(7)]
    finder = stored(tmp_path, numbered[:3], [], numbered[3:])
    seen: list[str] = []
    cursor = None
    while True:
        page = finder.page(TraceQuery(limit=2, cursor=cursor))
        seen += [entry.id for entry in page.entries]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [f"chatcmpl-{i}" for i in reversed(range(7))]


async def test_page_that_has_read_enough_stops_and_says_where(tmp_path: Path) -> None:
    good, bad, _ = await records()
    finder = replace(stored(tmp_path, [good, bad, bad, bad]), page_bytes=1)
    query, pages = TraceQuery(outcome="finished"), 0
    while True:
        page = finder.page(query)
        pages += 1
        if page.next is None or page.entries:
            break
        query = replace(query, cursor=page.next)
    assert pages == 4 and page.entries[0].outcome == "finished"


@pytest.mark.parametrize(
    ("query", "outcomes"),
    [
        (TraceQuery(), ["cancelled", "failed", "finished"]),
        (TraceQuery(outcome="failed"), ["failed"]),
        (TraceQuery(model="cord", text="WHAT is"), ["cancelled", "failed", "finished"]),
        (TraceQuery(model="nobody"), []),
        (TraceQuery(teacher="ada"), ["finished"]),
        (TraceQuery(teacher="down"), []),
        (TraceQuery(text="answer by"), ["finished"]),
        (TraceQuery(text='quote " and \n line'), []),
        (TraceQuery(min_value=0.001, max_value=1000.0), ["finished"]),
        (TraceQuery(min_value=1000.0), []),
        (TraceQuery(until=1.0), []),
        (TraceQuery(since=1.0), ["cancelled", "failed", "finished"]),
    ],
)
async def test_filters(tmp_path: Path, query: TraceQuery, outcomes: list[str]) -> None:
    finder = stored(tmp_path, list(await records()))
    assert [entry.outcome for entry in finder.page(query).entries] == outcomes


async def test_one_trace_is_found_by_its_id_as_it_is_stored(tmp_path: Path) -> None:
    good, bad, _ = await records()
    finder = stored(
        tmp_path, [good, replace(bad, id="chatcmpl-é")], [replace(good, id="chatcmpl-2")]
    )
    line = finder.find("chatcmpl-é")
    assert line is not None and from_json(line).outcome == "failed"
    assert finder.find("chatcmpl-") is None
    newest = finder.newest()
    assert newest is not None and from_json(newest).id == "chatcmpl-2"


async def test_torn_line_is_counted_and_skipped(tmp_path: Path) -> None:
    good, _, _ = await records()
    finder = stored(tmp_path, [good])
    with (tmp_path / "2026-0.jsonl").open("a") as segment:
        segment.write(to_json(good)[:100])
    page = finder.page(TraceQuery())
    assert len(page.entries) == 1 and page.skipped == 1
    assert finder.newest() is not None


async def test_lines_longer_than_a_block_are_read_whole(tmp_path: Path) -> None:
    good, _, _ = await records()
    long = replace(good, id="long", metadata={"user": "x" * 600_000})
    finder = stored(tmp_path, [good, long, good])
    assert [entry.id for entry in finder.page(TraceQuery()).entries] == [good.id, "long", good.id]


@pytest.mark.parametrize("cursor", ["", "x", "1", "-1:2026-0.jsonl", "²:a"])
def test_cursor_of_nobody_is_refused(tmp_path: Path, cursor: str) -> None:
    with pytest.raises(RequestError):
        TraceFinder(tmp_path).page(TraceQuery(cursor=cursor))
