"""What the documentation shows is what the code does: its tables, and every block of code in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
import yaml

from proxy import config
from proxy.api.settings_table import TABLES, rewritten
from tests.api.panel import Panel

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS_MODELS = ("scoring.md",)
"""Pages whose Python loads a model: it must compile."""


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_settings_are_up_to_date(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == rewritten(page, TABLES[name]), "run `python -m proxy.api.settings_table`"


def blocks(*kinds: str) -> list[object]:
    found = []
    for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            if block[1] in kinds:
                found.append(pytest.param(page.name, block[2], id=f"{page.name}:{line}"))
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A served scripted panel."""
    server = uvicorn.Server(uvicorn.Config(Panel().app, port=0, log_level="error", lifespan="off"))
    started = threading.Event()
    startup = server.startup

    async def tell(sockets: object = None) -> None:
        await startup()
        started.set()

    server.startup = tell  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    yield "{}:{}".format(*server.servers[0].sockets[0].getsockname())
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_runs(page: str, code: str, address: str) -> None:
    compiled = compile(code.replace("127.0.0.1:4000", address), page, "exec")
    if page not in NEEDS_MODELS:
        exec(compiled, {})


@pytest.mark.parametrize(("page", "text"), blocks("sh"))
def test_shell_has_no_syntax_errors_and_asks_what_can_be_asked(page: str, text: str) -> None:
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for body in re.findall(r"-d '(.*?)'", text, re.DOTALL):
        json.loads(body)


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_is_a_configuration(page: str, text: str) -> None:
    read = yaml.safe_load(text)
    if "model_list" in read:
        config.parse(read, DOCS)


PAGES = [
    pytest.param(page, id=page.name) for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))
]
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"`((?:proxy|scoring|serving|runtime|miniature|bench|tests)/[\w/.]+)`")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        to = page.parent / target if target else page
        assert to.exists(), target
        if anchor:
            assert anchor in anchors(to), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in FILE.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name


def test_every_command_is_in_the_readme() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "proxy", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    commands = set(re.findall(r"^    ([a-z-]+) ", shown, re.MULTILINE))
    named = set(
        re.findall(
            r"^\| `cord ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert commands == named
