"""The quality bench: its statistics by hand, and a few problems from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import figures
from bench.figures import Run
from bench.grid import GRID
from bench.report import Report
from miniature.task import Problem
from proxy.decoder.events import Event, Proposed, Scored
from proxy.decoder.types import Candidate, Score, ScorePart, Source

ROOT = Path(__file__).parent.parent


def run(problem: int, right: float, method: str = "m", **more: object) -> Run:
    return Run("t", method, problem, right, None, 10, 0, 0.1, **more)  # type: ignore[arg-type]


def test_a_wilson_interval_by_hand() -> None:
    low, high = figures.wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert figures.wilson(1.0, 500)[0] == pytest.approx(0.9924, abs=1e-4)


def test_a_paired_difference_by_hand() -> None:
    left, right = [run(i, i % 2) for i in range(100)], [run(i, 0.0) for i in reversed(range(100))]
    mean, low, high = figures.paired(left, right)
    assert mean == 0.5 and (low, high) == (
        pytest.approx(0.4015, abs=1e-3),
        pytest.approx(0.5985, abs=1e-3),
    )


def steps(*told: tuple[str, str, float, float]) -> tuple[Problem, list[Event]]:
    """Siblings under the root: their teacher, label, and score by either of two judges."""
    problem = Problem.parse(
        json.loads((ROOT / "miniature" / "parcel.json").read_text())["messages"][-1]["content"]
    )
    events: list[Event] = []
    for id, (teacher, label, first, second) in enumerate(told):
        text = f"### Step 1. {teacher} {label}\n\n"
        events.append(Proposed(Candidate(id, None, 1, teacher, text, "marker", 1, 1)))
        parts = (ScorePart("j", first, 1), ScorePart("k", second, 1))
        events.append(
            Scored(id, Score((first + second) / 2, 1.0, True, "cross", Source.NONE, parts))
        )
    return problem, events


def test_marks_count_what_a_score_prefers() -> None:
    problem, _ = steps()
    good, bad = str(problem.advance(problem.start, 0)), str(problem.start)
    problem, events = steps(("j", good, -1, -1), ("longer", good, -2, -2), ("k", bad, -3, -0.5))
    # By their means -1, -2 and -1.75: the right ones win one pair of two, and j's own, shorter one the other. Of the
    # judges j and k, only k judges j's, and likes it best.
    assert figures.mark(problem, events, "j") == {
        "right_pairs": 2, "right_first": 1, "long_pairs": 1, "long_first": 0, "own_pairs": 1, "own_first": 1,
        "votes": 1, "agreed": 1, "agreed_right": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("wrong", "right"), [(True, 0), (False, 1)])
def test_judges_agree_when_all_but_the_author_like_a_step_best(wrong: bool, right: int) -> None:
    problem, _ = steps()
    label = str(problem.start if wrong else problem.advance(problem.start, 0))
    problem, events = steps(("x", label, -1, -1), ("j", label, -0.5, -3), ("k", label, -3, -0.5))
    found = figures.mark(problem, events, None)
    assert (found["votes"], found["agreed"], found["agreed_right"]) == (1, 1, right)


def test_a_search_is_held_against_the_curation_that_wrote_no_less() -> None:
    runs = [
        Run("t", method, problem, right, None, written, 0, 0.1)
        for method, right, written in [
            ("curation×1, reference", 0.0, 50), ("curation×2, reference", 0.0, 120), ("curation×2, cross", 1.0, 120),
            ("curation×2, reference, alder", 1.0, 120), ("beam B=4, reference, one child a parent", 1.0, 100),
        ]
        for problem in range(3)
    ]  # fmt: skip
    [found] = figures.tables(runs)
    [gain] = found.gains
    assert (gain.over, gain.points, gain.written) == ("curation×2, reference", 100.0, (100, 120))


def test_what_a_search_without_a_reference_keeps_of_the_gain_with_one() -> None:
    shares = {
        "a alone": 0,
        "b alone": 1,
        figures.BY_REFERENCE: 3,
        "greedy, cross": 2,
        "greedy, step": 0,
    }
    runs = [run(i, float(i < right), method) for method, right in shares.items() for i in range(4)]
    [found] = figures.tables(runs)
    assert found.kept == {"greedy, cross": 50.0, "greedy, step": -50.0}
    assert "| greedy, cross | 50 |" in Report("", "", [found]).markdown()
    assert figures.tables([one for one in runs if one.method != figures.BY_REFERENCE])[0].kept == {}


def test_several_trainings_are_compared_on_the_problems_they_share() -> None:
    beam, curation = "beam B=4, reference", "curation×2, reference"
    first = [
        run(i, right, method)
        for i in range(4)
        for method, right in ((beam, 1.0), (curation, float(i < 2)))
    ]
    second = [
        run(i, right, method)
        for i in range(3)
        for method, right in ((beam, float(i < 2)), (curation, 0.0))
    ]
    [found] = figures.retrained([[*first, run(0, 1.0, "only in the first")], second])
    assert found.problems == {beam: 3, curation: 3}
    assert found.accuracy == {beam: (100.0, 66.7), curation: (66.7, 0.0)}
    # In the mean of both, the beam is ahead by 0.5, 0.5 and 0.5 points of one.
    [gain] = found.gains
    assert (gain.points, gain.low, gain.high) == (50.0, 50.0, 50.0)
    page = Report("", "", [], [found]).markdown()
    assert f"| {beam} | 3 | 100.0 | 66.7 | 83.3 | 10 |" in page


def test_every_row_has_a_name_of_its_own() -> None:
    for table in GRID:
        names = [row for method in table.methods for row in method.rows]
        assert len(names) == len(set(names))


def test_a_stopped_bench_goes_on_where_it_stood(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench.quality",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
        "--only",
        "^even: (gr|cu)",
    ]
    for problems in ("2", "3"):
        subprocess.run(
            [*command, "--problems", problems], check=True, capture_output=True, cwd=ROOT
        )
        with (tmp_path / "quality-1.jsonl").open("a") as store:
            store.write('{"table": "ev')  # it was killed while it wrote
    *whole, _ = (tmp_path / "quality-1.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in whole]
    assert sorted((line["method"], line["problem"]) for line in lines) == [
        (name, number)
        for name in (
            "alder alone", "birch alone", "cedar alone", "curation×1, reference", "curation×2, reference",
            "curation×3, reference", "greedy, cross", "greedy, reference", "greedy, reference + cross",
            "majority vote of 6",
        )
        for number in range(3)
    ]  # fmt: skip
    [table] = json.loads((tmp_path / "quality.json").read_text())["found"]
    assert {row["problems"] for row in table["rows"]} == {3}
    assert "| greedy, cross |" in (tmp_path / "quality.md").read_text()
    assert (tmp_path / "quality.svg").read_text().startswith("<?xml")


def test_the_search_bench_measures_in_virtual_time() -> None:
    from bench import search

    plain = search.measure(search.SEARCHES["beam of 4"], 0.4, 0, steps=6)
    speculative = search.SEARCHES["beam of 4, speculative, ≤ 18 calls"]
    ahead = search.measure(speculative, 0.4, 0, steps=6)
    assert ahead.result.winner.text == plain.result.winner.text
    assert ahead.seconds < plain.seconds and ahead.tokens > plain.tokens
