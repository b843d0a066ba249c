"""What the documentation shows is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.api.settings_table import TABLES, rewritten

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_settings_are_up_to_date(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == rewritten(page, TABLES[name]), "run `python -m proxy.api.settings_table`"
