"""The page's files: served as they are, under a policy that lets nothing else in."""

from __future__ import annotations

import re

import httpx
import pytest
from starlette.applications import Starlette

from proxy.ui.page import ROOT, assets, page_routes

pytestmark = pytest.mark.anyio

POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "img-src": "'self' data:", "base-uri": "'none'", "frame-ancestors": "'none'", "form-action": "'none'",
}  # fmt: skip


def client() -> httpx.AsyncClient:
    app = Starlette(routes=page_routes())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cord")


async def test_every_file_comes_with_the_strict_policy_and_its_type() -> None:
    async with client() as http:
        for path in ("", *(f"ui/{name}" for name in assets())):
            reply = await http.get(f"/{path}")
            assert reply.status_code == 200, path
            rules = dict(
                rule.strip().split(" ", 1)
                for rule in reply.headers["content-security-policy"].split(";")
            )
            assert rules == POLICY and reply.headers["x-content-type-options"] == "nosniff"
        assert (await http.get("/")).headers["content-type"].startswith("text/html")
        assert (
            (await http.get("/ui/js/main.js")).headers["content-type"].startswith("text/javascript")
        )


async def test_unchanged_file_is_not_sent_again() -> None:
    async with client() as http:
        first = await http.get("/")
        again = await http.get("/", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


@pytest.mark.parametrize(
    "path",
    ["ui/../page.py", "ui/page.py", "ui/%2e%2e/page.py", "ui/", "ui/vendor.sh", "ui/none.js"],
)
async def test_nothing_else_is_served(path: str) -> None:
    async with client() as http:
        assert (await http.get(f"/{path}")).status_code == 404


def test_every_import_and_reference_is_there() -> None:
    served = assets().keys()
    for name in served:
        text = (ROOT / name).read_text()
        if name.endswith(".js"):
            for wanted in re.findall(r"from\s*\"(\.[^\"]+)\"", text):
                found = ((ROOT / name).parent / wanted).resolve().relative_to(ROOT.resolve())
                assert found.as_posix() in served, f"{name} imports {wanted}"
        if name.endswith(".html"):
            for wanted in re.findall(r'(?:src|href)="ui/([^"]+)"', text):
                assert wanted in served, f"{name} refers to {wanted}"


def test_our_own_code_makes_no_markup_of_text() -> None:
    for file in (ROOT / "js").glob("*.js"):
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ):
            assert way not in file.read_text(), f"{file.name}: {way}"


def test_libraries_come_with_their_licences_and_are_pinned() -> None:
    script = (ROOT / "vendor.sh").read_text()
    for library in ("preact", "htm"):
        assert (ROOT / "vendor" / f"{library}.LICENSE").read_text().strip()
        assert re.search(rf"fetch {library} \d+\.\d+\.\d+ [0-9a-f]{{64}}\b", script)


def colours(css: str, selector: str) -> dict[str, str]:
    block = css[css.index(selector) :].partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_in_both_themes() -> None:
    css = (ROOT / "css" / "base.css").read_text()
    themes = [colours(css, ":root {"), colours(css, ':root[data-theme="dark"]')]
    assert themes[1] == colours(css, ":root:not([data-theme])")
    for theme in themes:
        for ground in ("page", "surface", "sunken", "accent-soft"):
            for text in ("text", "muted", "accent", "bad", "good"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
            for teacher in range(8):
                assert contrast(theme[f"t{teacher}"], theme[ground]) >= 3.0, (teacher, ground)
        assert contrast(theme["on-accent"], theme["accent"]) >= 4.5
