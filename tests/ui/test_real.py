"""The page over the embedded models: a real search, seen live, stored and replayed. Runs with `--page`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from proxy import config as configuration
from proxy.serve import server
from tests.ui.conftest import SHOTS
from tests.ui.pages import Visit

ROOT = Path(__file__).parents[2]
PROBLEM = json.loads((ROOT / "miniature" / "parcel.json").read_text())
LOADED_MS = 120_000


@pytest.fixture(scope="module")
def base_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if not request.config.getoption("--page"):
        pytest.skip("runs with --page (make test-ui)")
    config = configuration.load(ROOT / "config.yaml")
    traces = config.traces.model_copy(update={"folder": tmp_path_factory.mktemp("traces")})
    serving = server(config.model_copy(update={"traces": traces}), port=0)
    urls: list[str] = []
    started = threading.Event()

    def on_started(url: str) -> None:
        urls.append(url)
        started.set()

    serving.on_started = on_started
    thread = threading.Thread(target=serving.run)
    thread.start()
    try:
        assert started.wait(60)
        yield urls[0]
    finally:
        serving.should_exit = True
        thread.join()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_real_search_is_seen_live_stored_and_replayed(
    visit: Visit, base_url: str, scheme: str, width: int
) -> None:
    page = visit.page
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 844})

    def shot(name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}-{scheme}-{width}.png", full_page=True)

    visit.open(base_url, "/#/health")
    expect(page.get_by_role("heading", name="Ready", exact=True)).to_be_visible(timeout=LOADED_MS)
    for teacher in ("alder", "birch", "cedar"):
        row = page.get_by_role("row").filter(has_text=teacher)
        expect(row.locator(".state.finished")).to_be_visible(timeout=LOADED_MS)
    shot("health")

    page.get_by_role("link", name="Playground").click()
    visit.ask(PROBLEM["messages"][0]["content"], PROBLEM["reference"])
    expect(page.get_by_role("status").first).to_have_text(re.compile("Searching step [3-9]"))
    page.get_by_label("Problem").evaluate("box => box.scrollTop = 0")
    shot("live")
    expect(page.get_by_role("link", name="Open trace")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("region", name="Answer")).to_contain_text("boxed")
    steps = page.get_by_role("region", name="Reasoning").get_by_role("listitem")
    winners = {text.split()[0] for text in steps.all_inner_texts()}
    assert len(winners) >= 2, winners
    expect(page.locator(".figures")).not_to_contain_text(re.compile(r"\d lost"))
    visit.tree.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    shot("answer")

    page.get_by_role("link", name="Open trace").click()
    slider = page.get_by_role("slider")
    slider.evaluate(
        "s => { s.value = s.max * 0.55; s.dispatchEvent(new Event('input', { bubbles: true })) }"
    )
    expect(page.locator(".trace [role=status]")).to_have_text(re.compile("Searching step"))
    shot("replay")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".trace [role=status]")).to_have_text(re.compile("Finished"))
    page.get_by_role("link", name="Traces", exact=True).click()
    expect(page.locator(".traces tbody tr").first).to_contain_text("finished")
    shot("traces")
