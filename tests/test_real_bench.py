"""The bench of real models without its models: its rows, its marks and its pairs."""

from __future__ import annotations

import re

from bench.figures import Run, tables
from bench.real import METHODS, PANELS, chosen_rows, mark, names, ordered, with_pairs
from bench.report import Report
from proxy.decoder.events import Event, Proposed, Scored
from proxy.decoder.types import Candidate, Score, Source


def scored(id: int, text: str, nats: float, parent: int | None = None) -> list[Event]:
    candidate = Candidate(id, parent, 1, "t", text, "marker", 1, 1)
    return [
        Proposed(candidate),
        Scored(id, Score(nats, 1.0, False, "predictive", Source.REFERENCE)),
    ]


def test_marks_count_right_steps_before_wrong_and_before_hollow_ones() -> None:
    events = [
        *scored(0, "### Step 1. 26 + 34 = 60\n\n", -4.0),
        *scored(1, "### Step 1. 26 + 34 = 61\n\n", -4.5),
        *scored(2, "### Step 1. We add the numbers.\n\n", -1.0),
        *scored(3, "### Step 1. 1 + 1 = 2\n\n", -1.0, parent=2),
    ]
    assert mark(events) == {
        "right_pairs": 1,
        "right_first": 1,
        "hollow_pairs": 1,
        "hollow_first": 0,
    }


def test_every_row_of_a_panel_has_a_name_of_its_own() -> None:
    for panel in PANELS:
        rows = [name for method in METHODS for name in names(panel, method)]
        assert len(rows) == len(set(rows))


def test_only_chooses_by_table_and_method() -> None:
    rows = chosen_rows([re.compile("^chain_sum, coder ×3: greedy, step$")])
    assert [(table, method.name) for table, _, _, method in rows] == [
        ("chain_sum, coder ×3", "greedy, step")
    ]


def test_scores_are_compared_on_the_same_problems() -> None:
    runs = [
        Run(
            "t",
            method,
            number,
            right,
            None,
            10,
            5,
            0.0,
            marks={"unfinished": 0.0},
            in_reasoning=1.0,
        )
        for method, rights in (
            ("greedy, reference", (0, 1)),
            ("greedy, reference, lookahead", (1, 1)),
        )
        for number, right in enumerate(map(float, rights))
    ]
    [found] = tables(runs)
    compared = with_pairs(found, runs)
    [pair] = compared.gains
    assert (pair.method, pair.over, pair.points) == (
        "greedy, reference, lookahead",
        "greedy, reference",
        50.0,
    )
    assert [(row.in_reasoning, row.unfinished) for row in compared.rows] == [(100.0, 0.0)] * 2
    page = Report("", "", [compared]).markdown()
    assert "| greedy, reference | 50 | 100 | 0 |  |" in page


def test_the_share_of_pairs_is_drawn_over_problems() -> None:
    runs = [
        Run(
            "t", "m", number, 1.0, None, 1, 1, 0.0, marks={"right_pairs": 2.0, "right_first": first}
        )
        for number, first in enumerate((2.0, 2.0, 0.0, 2.0))
    ]
    share, low, high, pairs = ordered(runs, "right")
    assert (share, pairs) == (0.75, 8) and 0 <= low < share < high <= 1
    assert ordered(runs, "hollow")[3] == 0


def test_first_steps_are_ordered_where_equations_tell_right_from_wrong() -> None:
    rows = chosen_rows([], first_step=True)
    assert {table for table, *_ in rows} == {
        "chain_sum, first step",
        "basic_arithmetic, first step",
    }
    assert all(method.strategy == "beam" for *_, method in rows)
