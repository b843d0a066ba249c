"""A real headless Chromium, Debian's, driven by Playwright. Where there is none, these tests are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.ui.pages import Visit

CHROMIUM = shutil.which("chromium")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for a module: while it is there, Playwright's event loop runs in this thread, and no other can."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A page in a profile of its own. It must not have logged an error, nor asked anybody but its own server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(20_000)
    visit = Visit(context.new_page())
    _listen(visit.page, visit)
    yield visit
    SHOTS.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
    context.close()
    assert visit.complaints == []
    assert {
        url.split("/")[2] for url in visit.requested if not url.startswith(("data:", "file:"))
    } <= {visit.host}


def _listen(page: Page, visit: Visit) -> None:
    def on_console(message: ConsoleMessage) -> None:
        # A request that fails is logged by the browser; whether it may fail is the test's business.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            visit.complaints.append(message.text)

    def on_request(request: Request) -> None:
        visit.requested.append(request.url)

    page.on("console", on_console)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("request", on_request)
