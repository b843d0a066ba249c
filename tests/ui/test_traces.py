"""Stored traces in the browser: the list, its filters, and a trace of thousands of candidates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
from playwright.sync_api import expect

from proxy.trace.codec import to_json
from proxy.trace.fold import record
from proxy.trace.record import CandidateRecord, Provenance, TraceRecord, Winner
from tests.api.panel import Panel
from tests.trace.searches import Kept, failed, finished
from tests.ui.pages import Visit, page_over

DEPTHS, BEAM, TEACHERS = 20, 64, ("ada", "bob", "cyd")
FRAME_MS = 400.0
"""What a frame may take at most. It takes some 10 to 40 ms on two free cores; other suites may run beside this one."""


def recorded() -> tuple[TraceRecord, TraceRecord]:
    kept = Kept()
    with ThreadPoolExecutor() as aside:  # the browser's event loop may be running in this thread
        aside.submit(anyio.run, finished, kept).result()
        aside.submit(anyio.run, failed, kept).result()
    good, bad = (
        record(job, journal, Provenance())
        for job, journal in zip(kept.jobs, kept.journals, strict=True)
    )
    return good, bad


def write(folder: Path, *traces: TraceRecord) -> Path:
    (folder / "2026.jsonl").write_text("".join(f"{to_json(trace)}\n" for trace in traces))
    return folder


def huge(like: TraceRecord) -> TraceRecord:
    """A beam of 64 over 20 steps of three teachers: some 3,000 candidates."""
    score = next(one.score for one in like.candidates if one.score)
    candidates: list[CandidateRecord] = []
    beam: list[int | None] = [None]
    path = []
    for depth in range(1, DEPTHS + 1):
        step: list[int] = []
        for row, parent in enumerate(beam):
            for column, teacher in enumerate(TEACHERS):
                id = len(candidates)
                text = f"### Step {depth}. {teacher} writes the {row}th of them\n\n"
                times = {
                    "asked_s": depth - 1.0,
                    "landed_s": depth - 0.5 + column / 10,
                    "scored_s": depth - 0.1,
                }
                step.append(id)
                candidates.append(
                    CandidateRecord(
                        id,
                        parent,
                        depth,
                        teacher,
                        "rank",
                        text,
                        "marker",
                        9,
                        9,
                        score=score,
                        **times,
                    )
                )
        beam = list(step[:BEAM])
        path.append(step[0])
    won = set(path)
    fated = tuple(replace(one, fate="won") if one.id in won else one for one in candidates)
    winner = Winner(tuple(path), -0.5, "steps", "42", "ada", "stop")
    return replace(
        like, id="chatcmpl-huge", candidates=fated, winner=winner, duration_s=float(DEPTHS)
    )


def test_list_is_filtered_and_leads_to_the_trace(visit: Visit, tmp_path: Path) -> None:
    good, bad = recorded()
    write(tmp_path, replace(good, id="chatcmpl-good"), replace(bad, id="chatcmpl-bad"))
    with page_over(Panel(), tmp_path) as base_url:
        page = visit.open(base_url, "/#/traces")
        rows = page.locator(".traces tbody tr")
        expect(rows).to_have_count(2)
        page.get_by_label("Outcome").select_option("failed")
        page.get_by_role("button", name="Filter").click()
        expect(rows).to_have_count(1)
        assert "outcome=failed" in page.url
        page.get_by_role("link", name="Clear").click()
        expect(rows).to_have_count(2)
        page.get_by_label("Text", exact=True).fill("answer BY")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(1)
        rows.get_by_role("link").click()
        expect(page.locator(".trace").get_by_role("status")).to_contain_text("Finished")
        # What failed, and why, can be read too.
        page.goto(f"{base_url}/#/traces/chatcmpl-bad")
        expect(page.locator(".trace").get_by_role("status")).to_contain_text(
            "Failed: no_candidates"
        )


def test_unknown_trace_is_said_to_be_missing(visit: Visit, tmp_path: Path) -> None:
    with page_over(Panel(), tmp_path) as base_url:
        page = visit.open(base_url, "/#/traces/chatcmpl-none")
        expect(page.get_by_role("alert")).to_contain_text("there is no trace")


def test_thousands_of_candidates_stay_smooth(visit: Visit, tmp_path: Path) -> None:
    good, _ = recorded()
    trace = huge(good)
    assert len(trace.candidates) > 3_000
    write(tmp_path, trace)
    with page_over(Panel(), tmp_path) as base_url:
        page = visit.open(base_url, "/#/traces/chatcmpl-huge")
        expect(page.locator(".trace").get_by_role("status")).to_contain_text("Finished")
        assert page.locator("*").count() < 1_000  # drawn, not built of elements
        frames = page.evaluate(
            """async () => {
              const box = document.querySelector('.trace .scroller');
              const slider = document.querySelector('.scrubber input');
              const frame = () => new Promise(requestAnimationFrame);
              const took = { scroll: [], scrub: [] };
              for (let i = 1; i <= 20; i += 1) {
                await frame();
                const began = performance.now();
                box.scrollLeft = i * 40; box.scrollTop = i * 60; box.dispatchEvent(new Event('scroll'));
                took.scroll.push(performance.now() - began);
              }
              for (let i = 1; i <= 20; i += 1) {
                await frame();
                const began = performance.now();
                slider.value = (slider.max * i) / 21; slider.dispatchEvent(new Event('input', { bubbles: true }));
                await frame(); await frame();
                took.scrub.push((performance.now() - began) / 2);
              }
              const middle = (all) => all.sort((a, b) => a - b)[all.length / 2];
              return { scroll: middle(took.scroll), scrub: middle(took.scrub) };
            }"""
        )
        assert frames["scroll"] < FRAME_MS and frames["scrub"] < FRAME_MS, frames
        print(
            f"a frame takes {frames['scroll']:.1f} ms scrolling, {frames['scrub']:.1f} ms scrubbing"
        )
