"""One trace as one HTML file that needs nothing else: no server, no network, no other file.

The page's modules go along as `data:` addresses under an import map, which is why they import each other by literal
paths alone. The file's own policy lets nothing else run and nothing be fetched, whatever the trace says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re

from proxy.ui.page import ROOT

_ENTRY = "js/alone.js"
_STYLES = ("css/base.css", "css/pages.css", "css/stage.css")
_IMPORT = re.compile(r'(\bfrom\s*")(\.[^"]+)(")')

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="content-security-policy" content="{policy}">
<title>CoRD trace</title>
<style>{style}</style>
<script type="importmap">{modules}</script>
</head>
<body>
<div id="app"></div>
<script type="application/json" id="trace">{trace}</script>
<script type="module">{start}</script>
<!-- Made with preact (MIT) and htm (Apache-2.0); their licences:
{licences}
-->
</body>
</html>
"""


def one_file(trace: bytes) -> str:
    """The file for a trace, given as its stored line."""
    style = "".join((ROOT / name).read_text(encoding="utf-8") for name in _STYLES)
    modules = _json(
        {"imports": {f"cord/{name}": _data_address(text) for name, text in _modules().items()}}
    )
    start = f'import "cord/{_ENTRY}";'
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(modules)} {_hash(start)} data:",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    licences = "\n".join(
        (ROOT / "vendor" / f"{name}.LICENSE").read_text() for name in ("preact", "htm")
    )
    return _HTML.format(
        policy=policy,
        style=style,
        modules=modules,
        trace=_json(json.loads(trace)),
        start=start,
        licences=licences.replace("--", "- -"),
    )


def _modules() -> dict[str, str]:
    """The entry and all it imports, by path, with imports by name in the import map instead of relative."""
    found: dict[str, str] = {}
    missing = [_ENTRY]
    while missing:
        name = missing.pop()
        if name in found:
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        folder = posixpath.dirname(name)

        def absolute(match: re.Match[str], folder: str = folder) -> str:
            wanted = posixpath.normpath(posixpath.join(folder, match[2]))
            missing.append(wanted)
            return f"{match[1]}cord/{wanted}{match[3]}"

        found[name] = _IMPORT.sub(absolute, text)
    return found


def _data_address(text: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(text.encode()).decode()}"


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in. Half a surrogate pair stays an escape."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
