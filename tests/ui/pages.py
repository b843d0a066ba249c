"""What the browser tests share: the page over a scripted panel, and one visit to it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from playwright.sync_api import Locator, Page, expect
from starlette.applications import Starlette

from proxy.decoder.types import TeacherRequest
from proxy.trace.finder import TraceFinder
from proxy.trace.log import TraceLog
from proxy.trace.record import Provenance
from proxy.ui.page import page_routes
from tests.api.panel import Panel


@dataclass
class Visit:
    """One page, what it complained of and whom it asked."""

    page: Page
    host: str = ""
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def open(self, base_url: str, path: str = "/") -> Page:
        self.host = base_url.split("/")[2]
        self.page.goto(base_url + path)
        return self.page

    @property
    def tree(self) -> Locator:
        return self.page.get_by_role("application")

    @property
    def chosen(self) -> Locator:
        return self.page.get_by_role("complementary", name="Chosen candidate")

    def ask(self, problem: str, reference: str = "") -> None:
        """Fill the playground's form and search."""
        expect(self.page.get_by_label("Ask").locator("option")).not_to_have_count(0)
        self.page.get_by_label("Problem").fill(problem)
        self.page.get_by_label("Reference answer").fill(reference)
        self.page.get_by_role("button", name="Search").click()


@dataclass
class Gate:
    """Holds calls for a step of this depth until the test, which runs in another thread, opens it."""

    depth: int
    _opened: asyncio.Event = field(default_factory=asyncio.Event)
    _loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    async def __call__(self, asked: TeacherRequest) -> None:
        if asked.answer is None and asked.reasoning.count("### Step") == self.depth:
            self._loops.append(asyncio.get_running_loop())
            await self._opened.wait()

    def open(self) -> None:
        """Let the calls that are held go on; there must be one."""
        self._loops[0].call_soon_threadsafe(self._opened.set)


@contextmanager
def page_over(panel: Panel, folder: Path | None = None) -> Iterator[str]:
    """The page and the API over a scripted panel, whose traces go to the folder; the base URL."""
    if folder is not None:
        panel.log = TraceLog(folder, provenance=Provenance())
        panel.store = TraceFinder(folder)
    api = panel.app
    app = Starlette(routes=[*page_routes(), *api.routes], exception_handlers=api.exception_handlers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            if panel.log is not None:
                panel.log.close()
