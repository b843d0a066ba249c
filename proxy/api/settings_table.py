"""The tables of search settings in docs/search.md and docs/api.md, written from `decoder.settings.SETTINGS`.

`python -m proxy.api.settings_table` rewrites them between their marks; a test checks that they are up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from proxy.decoder.settings import SETTINGS, Registered
from proxy.decoder.types import Source

BEGIN = "<!-- settings: written by `python -m proxy.api.settings_table` -->\n"
END = "<!-- /settings -->\n"


def search_table() -> Iterator[str]:
    """What each setting does: docs/search.md."""
    yield "| setting | default | what it does | cost |\n|---|---|---|---|\n"
    for one in SETTINGS.values():
        about = one.about
        null = f"; null: {about.null}" if about.null else ""
        yield f"| `{one.name}` | {_default(one)} | {about.doc}{null} | {about.cost} |\n"


def api_table() -> Iterator[str]:
    """What a request may set in `cord`: docs/api.md."""
    yield "| key | values | null |\n|---|---|---|\n"
    for one in SETTINGS.values():
        if not one.about.top_level:
            yield f"| `{one.name}` | {_values(one)} | {one.about.null or ''} |\n"


TABLES: dict[str, Callable[[], Iterator[str]]] = {"search.md": search_table, "api.md": api_table}


def rewritten(page: str, table: Callable[[], Iterator[str]]) -> str:
    """The page with the table between its marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{''.join(table())}\n{END}{after}"


def _default(one: Registered) -> str:
    by_source = one.about.by_source
    if Source.REFERENCE in by_source:
        otherwise = by_source.get(Source.NONE, one.default)
        return f"{_shown(by_source[Source.REFERENCE])} with a reference, else {_shown(otherwise)}"
    return _shown(one.default)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if isinstance(value, str) else f"{value:g}" if value < 1e6 else str(value)


def _values(one: Registered) -> str:
    about = one.about
    if one.type is bool:
        return "true, false"
    if get_origin(one.type) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(one.type))
    if one.type is str:
        return f"text, up to {about.le:g} characters"
    low = f"{about.ge:,g}" if about.ge is not None else f"above {about.gt:g}"
    high = f"{about.le:,.10g}"
    bounds = f"{low}–{high}" if about.ge is not None else f"{low}, up to {high}"
    return f"{bounds} {about.unit}".strip()


def main() -> None:
    """Rewrite the tables."""
    for name, table in TABLES.items():
        path = Path("docs") / name
        path.write_text(rewritten(path.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
