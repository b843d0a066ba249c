"""Imports run one way, and starting the proxy loads no model library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ALLOWED = {
    "proxy/decoder": {"proxy.decoder", "proxy.errors"},
    "proxy/teachers": {
        "proxy", "proxy.sse", "proxy.errors", "proxy.decoder.tool_calls", "proxy.decoder.types", "proxy.decoder.ports",
        "proxy.decoder.steps",
        "proxy.teachers",
        "runtime.gguf", "runtime.literal", "runtime.markup", "runtime.stopping",
    },
    "proxy/api": {
        "proxy.api", "proxy.decoder", "proxy.errors", "proxy.service", "proxy.sse", "proxy",
        "runtime.disconnects", "runtime.errors", "runtime.stopping", "scoring.scores",
        "proxy.trace.query",
    },
    "proxy/trace": {
        "proxy.decoder", "proxy.errors", "proxy.service", "proxy.teachers.template", "proxy.trace",
        "runtime.markup",
    },
    "proxy/ui": {"proxy.errors", "proxy.trace", "proxy.ui"},
    "runtime": {"runtime"},
    "scoring": {"runtime", "scoring"},
    "serving": {"runtime", "serving"},
}  # fmt: skip
OURS = ("proxy", "runtime", "scoring", "serving", "miniature", "bench")


def imports(file: Path) -> set[str]:
    """Every module of ours that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            within = (
                a
                for a in ALLOWED[folder]
                if name == a or (a != "proxy" and name.startswith(f"{a}."))
            )
            ok = any(within)
            assert ok, f"{file.relative_to(ROOT)} imports {name}"


def test_nothing_of_the_embedded_task_is_known_to_the_product() -> None:
    for folder in ("proxy", "runtime", "scoring", "serving"):
        for file in (ROOT / folder).rglob("*.py"):
            assert not {
                name for name in imports(file) if name.split(".")[0] in ("miniature", "bench")
            }
            assert "parcel label" not in file.read_text().lower()


def folder_of(module: str) -> str | None:
    """Where a module of ours is, as docs/architecture.md names it: a folder, or a file of proxy/."""
    if module == "proxy":
        return None
    path = module.replace(".", "/")
    within = next((folder for folder in ALLOWED if f"{path}/".startswith(f"{folder}/")), None)
    return within or f"{path}.py"


def test_the_page_on_architecture_names_every_folder_and_what_it_may_import() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    told = {folder: set(re.findall(r"`([^`]+)`", may)) for folder, may in rows}
    allowed = {
        folder: {place for module in may if (place := folder_of(module)) not in (None, folder)}
        for folder, may in ALLOWED.items()
    }
    assert told == allowed


@pytest.mark.parametrize("module", ["proxy.app", "proxy.__main__", "proxy.trace.export.command"])
def test_starting_the_proxy_loads_no_model_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'litellm', 'transformers') if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "[]"
