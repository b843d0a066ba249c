"""`cord view`: a trace in a file of its own, in the browser, without a server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from playwright.sync_api import expect

from proxy.__main__ import main
from proxy.trace.codec import to_json
from proxy.trace.fold import record
from proxy.trace.record import Provenance, TraceRecord
from tests.trace.searches import Kept, finished
from tests.ui.pages import Visit

INJECTION = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><!--"


def a_trace() -> TraceRecord:
    kept = Kept()
    with ThreadPoolExecutor() as aside:  # the browser's event loop may be running in this thread
        aside.submit(anyio.run, finished, kept).result()
    return record(kept.jobs[0], kept.journals[0], Provenance())


def stored(folder: Path, *traces: TraceRecord) -> Path:
    (folder / "2026.jsonl").write_text("".join(f"{to_json(trace)}\n" for trace in traces))
    return folder


def test_named_trace_is_shown_from_a_single_file(visit: Visit, tmp_path: Path) -> None:
    trace = a_trace()
    named = replace(
        trace,
        id="chatcmpl-named",
        messages=({"role": "user", "content": INJECTION},),
        candidates=tuple(
            replace(one, text=f"{INJECTION} {one.teacher}") for one in trace.candidates
        ),
    )
    out = tmp_path / "search.html"
    assert (
        main(["view", f"{stored(tmp_path, named, trace)}#chatcmpl-named", "--out", str(out)]) == 0
    )
    page = visit.page
    page.goto(out.as_uri())
    expect(page.get_by_role("status").first).to_contain_text("Finished")
    expect(page.locator(".asked")).to_contain_text(INJECTION)
    visit.tree.focus()
    page.keyboard.press("ArrowDown")
    expect(visit.chosen.locator("pre")).to_contain_text(INJECTION)
    page.get_by_role("slider").fill("0")
    expect(page.get_by_role("status").first).to_contain_text("Searching")
    assert page.title() == "CoRD trace chatcmpl-named" and page.locator("img").count() == 0
    assert all(url.startswith(("file:", "data:")) for url in visit.requested)


def test_without_an_id_the_newest_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = a_trace()
    folder = stored(tmp_path, trace, replace(trace, id="chatcmpl-last"))
    out = tmp_path / "out.html"
    assert main(["view", str(folder / "2026.jsonl"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    inside = out.read_text().partition('id="trace">')[2].partition("</script>")[0]
    assert json.loads(inside)["id"] == "chatcmpl-last"


def test_opened_in_the_browser_where_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["view", str(stored(tmp_path, a_trace()))]) == 0
    assert opened[0].startswith("file:") and opened[0].endswith("/chatcmpl-1.html")


@pytest.mark.parametrize("source", ["none", "none#id", "{folder}#none", "{folder}/2026.jsonl#none"])
def test_what_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    stored(tmp_path, a_trace())
    assert main(["view", source.format(folder=tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert "no trace" in capsys.readouterr().err
