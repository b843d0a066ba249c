"""Asking in the browser, watching the search while it runs, and what is copied."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

from playwright.sync_api import expect

from proxy.api.auth import master_key
from tests.api.panel import OPTIONS, Panel, Teacher, fails_with
from tests.ui.pages import Gate, Visit, page_over

INJECTION = (
    """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>&amp;"""
)


def test_search_is_seen_while_it_runs_then_its_answer_then_its_trace_and_replay(
    visit: Visit, tmp_path: Path
) -> None:
    gate = Gate(2)
    with page_over(Panel((Teacher("anna"), Teacher("ben", gate))), tmp_path) as base_url:
        page = visit.open(base_url)
        visit.ask("What is 6 × 7?", "42")
        status = page.get_by_role("status").filter(has_text="Searching")
        expect(status).to_have_text("Searching step 2")
        # Both teachers' first steps are there, and one's second, while the other still writes.
        visit.tree.focus()
        seen = []
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
            seen.append(visit.chosen.locator("pre").inner_text())
        assert {"ben thinks 1", "anna thinks 1"} == {*seen[:2]}
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        gate.open()

        expect(page.get_by_text(re.compile("^Finished: a teacher closed"))).to_be_visible()
        expect(page.get_by_role("region", name="Answer")).to_contain_text("it is 42 — ben")
        expect(page.get_by_role("region", name="Reasoning").get_by_role("listitem")).to_have_count(
            2
        )

        page.get_by_role("link", name="Open trace").click()
        expect(page.get_by_text("Finished: a teacher closed")).to_have_count(
            2
        )  # the playground keeps its own
        moment = page.get_by_role("slider", name="Moment of the search")
        moment.fill("0")
        main = page.locator(".trace")
        expect(main.get_by_role("status").first).to_contain_text("Searching step 1")
        expect(main.get_by_role("region", name="Answer")).to_have_count(0)
        page.get_by_role("button", name="Replay").click()
        expect(main.get_by_role("region", name="Answer")).to_contain_text("it is 42 — ben")
        page.get_by_text("Raw record").click()
        expect(main.locator(".raw pre")).to_contain_text('"schema": "cord.trace/')


def test_what_teachers_write_is_text_and_nothing_else(visit: Visit, tmp_path: Path) -> None:
    panel = Panel((Teacher("anna"), Teacher("ben", aside=INJECTION, answer=(INJECTION,))))
    with page_over(panel, tmp_path) as base_url:
        page = visit.open(base_url)
        visit.ask(INJECTION)
        answer = page.get_by_role("region", name="Answer").locator("pre")
        expect(answer).to_have_text(INJECTION)
        visit.tree.focus()
        page.keyboard.press("ArrowDown")
        expect(visit.chosen.locator("pre")).to_contain_text(INJECTION)
        page.get_by_role("link", name="Open trace").click()
        expect(page.locator(".trace .answer pre")).to_have_text(INJECTION)
        page.get_by_text("Raw record").click()
        page.get_by_role("link", name="Traces", exact=True).click()
        expect(page.locator(".traces tbody")).to_contain_text(INJECTION)
        assert page.locator("img").count() == 0 and page.title() == "CoRD proxy"


def test_what_is_copied_asks_for_exactly_the_same(visit: Visit, tmp_path: Path) -> None:
    panel = Panel()
    with page_over(panel, tmp_path) as base_url:
        page = visit.open(base_url)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_text("Settings").click()
        page.get_by_label("Beam width").fill("3")
        page.get_by_label("Temperature").fill("0.25")
        page.get_by_label("Strategy").select_option("beam")
        page.get_by_label("Seed").fill("11")
        with page.expect_request("**/v1/chat/completions") as posted:
            visit.ask("It's \"6 × 7\",\n$HOME\\n isn't it?", "42")
        expect(page.get_by_role("link", name="Open trace")).to_be_visible()
        sent = posted.value.post_data_json
        assert (
            sent["cord"] == {"reference": "42", "strategy": "beam", "beam_width": 3}
            and sent["seed"] == 11
        )

        page.get_by_role("button", name="Copy as curl").click()
        command = shlex.split(page.evaluate("navigator.clipboard.readText()").replace("\\\n", ""))
        assert json.loads(command[command.index("-d") + 1]) == sent
        assert command[2] == f"{base_url}/v1/chat/completions"

        page.get_by_role("button", name="Copy as Python").click()
        code = page.evaluate("navigator.clipboard.readText()")
        shown = StringIO()
        with redirect_stdout(shown):
            exec(code, {})
        assert "it is 42" in shown.getvalue()
        (first, _), (second, _) = panel.kept
        assert (first.settings, first.problem.messages) == (
            second.settings,
            second.problem.messages,
        )
        assert first.problem.references == second.problem.references


def test_failure_is_told_in_the_servers_own_words(visit: Visit) -> None:
    down = Panel((Teacher("anna", fails_with("unreachable")),))
    with page_over(down) as base_url:
        page = visit.open(base_url)
        visit.ask("What is 6 × 7?")
        expect(page.get_by_role("alert")).to_contain_text("scripted failure")
        expect(page.get_by_role("status").first).to_contain_text("Failed: no_candidates")
        page.get_by_text("Settings").click()
        page.get_by_label(re.compile("^Score")).fill("colourful")
        visit.ask("What is 6 × 7?")
        expect(page.get_by_role("alert")).to_contain_text("unknown score")


def test_stopping_cancels_the_search(visit: Visit) -> None:
    panel = Panel((Teacher("anna", Gate(1)),))
    with page_over(panel) as base_url:
        page = visit.open(base_url)
        visit.ask("What is 6 × 7?")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status").first).to_have_text("Cancelled")
        expect(page.get_by_role("button", name="Search")).to_be_visible()


def test_page_asks_for_the_key_and_keeps_it_for_the_tab_alone(visit: Visit, tmp_path: Path) -> None:
    with page_over(
        Panel(options=replace(OPTIONS, keys=(master_key("sesame"),))), tmp_path
    ) as base_url:
        page = visit.open(base_url)
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key").fill("wrong")
        dialog.get_by_role("button").click()
        expect(dialog).to_contain_text("not known here")
        dialog.get_by_label("Key").fill("sesame")
        dialog.get_by_role("button").click()
        expect(dialog).to_have_count(0)
        visit.ask("What is 6 × 7?")
        expect(page.get_by_role("link", name="Open trace")).to_be_visible()
        stored = page.evaluate(
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]"
        )
        assert "sesame" in stored[0] and not any("sesame" in where for where in stored[1:])
        assert not any("sesame" in url for url in visit.requested)


def test_phone_shows_everything_without_scrolling_sideways(visit: Visit, tmp_path: Path) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    with page_over(Panel(), tmp_path) as base_url:
        page = visit.open(base_url)
        visit.ask("What is 6 × 7?")
        expect(page.get_by_role("link", name="Open trace")).to_be_visible()
        for tab in ("Playground", "Traces", "Health"):
            page.get_by_role("link", name=tab, exact=True).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
