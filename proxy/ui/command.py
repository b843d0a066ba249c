"""`cord view`: a stored trace in the browser without a server, or as one HTML file to send to somebody."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import webbrowser
from pathlib import Path

from proxy.errors import ConfigError
from proxy.trace.finder import TraceFinder
from proxy.ui.bundle import one_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cord view`."""
    parser.add_argument(
        "source",
        nargs="?",
        default="traces",
        metavar="TRACES[#ID]",
        help="a file or folder of traces, and which of them; without #ID the newest (default: traces)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="write the page here and open nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page; open it unless it was to be written somewhere."""
    line = find(arguments.source)
    page = one_file(line).encode("utf-8", "replace")
    out: Path | None = arguments.out
    try:
        if out is not None:
            out.write_bytes(page)
            print(out)
            return 0
        name = re.sub(r"[^A-Za-z0-9-]", "-", str(json.loads(line)["id"]))[:80]
        out = Path(tempfile.mkdtemp(prefix="cord-view-")) / f"{name}.html"
        out.write_bytes(page)
    except OSError as exc:
        raise ConfigError("", f"cannot write {out}: {exc.strerror}") from exc
    print(out)
    webbrowser.open(out.as_uri())
    return 0


def find(source: str) -> bytes:
    """The stored line of the trace that `PATH` or `PATH#ID` names.

    Raises:
        ConfigError: there is no such file, or no such trace in it.
    """
    path, _, id = (source, "", "") if Path(source).exists() else source.rpartition("#")
    finder = TraceFinder(Path(path or id))
    line = finder.find(id) if path and id else finder.newest()
    if line is None:
        raise ConfigError(
            "",
            f"there is no trace {id!r} in {path}"
            if path and id
            else f"{path or id} holds no trace",
        )
    return line
