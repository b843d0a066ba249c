"""Names that search settings had in earlier versions: renamed ones still work and warn, removed ones are refused.

Works on the raw mapping, before it is checked; knows neither HTTP nor YAML. A name that cannot be used stays in the
mapping, so that the check refuses it as unknown and names its path; `explain` then says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "siblings": "max_children_per_parent",
    "alike": "similarity_threshold",
    "read_ahead": "prefill_partial_steps",
}

REMOVED = {
    "plateau": "a search that ends when its score stops rising ends too early: "
    "65 % right answers instead of 86 % (docs/quality.md)",
    "agreement": "answers that are drafted after early steps are guesses and agree too soon: "
    "4 % right answers (docs/quality.md)",
}


def modernise(options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options under their names of today, and a warning for each old name."""
    modern: dict[str, Any] = {}
    warnings: list[str] = []
    for key, value in options.items():
        if key in REMOVED and value is None:
            continue
        new = RENAMED.get(key)
        if new is None or new in options:
            modern[key] = value
        else:
            modern[new] = value
            warnings.append(f"{key!r} is now called {new!r}; the old name will be removed")
    return modern, tuple(warnings)


def explain(key: str) -> str | None:
    """Why this name cannot be used; None if it never was a setting's name."""
    if key in REMOVED:
        return f"{key!r} was removed: {REMOVED[key]}"
    if key in RENAMED:
        return f"{key!r} is the old name of {RENAMED[key]!r}; give {RENAMED[key]!r} alone"
    return None
