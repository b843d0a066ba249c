"""`cord replay`: what another score or width would have chosen from stored proposals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from proxy.__main__ import main
from proxy.trace.fold import record
from proxy.trace.record import Provenance, TraceRecord
from proxy.trace.replay import replay, rescored, stored_scores
from tests.decoder.scripted import ScriptedScorer, ScriptedTeacher, counts_to
from tests.trace.searches import Kept, job, service
from tests.trace.test_export import store

pytestmark = pytest.mark.anyio


async def stored(beam_width: int = 2, score: str = "predictive") -> TraceRecord:
    kept = Kept()
    asked = job(
        ScriptedTeacher("ada", counts_to(3, "a")), ScriptedTeacher("bob", counts_to(3, "b"))
    )
    settings = replace(asked.settings, beam_width=beam_width, score=score)
    await service(kept).decode(replace(asked, settings=settings))
    return record(kept.jobs[0], kept.journals[0], Provenance())


def prefers(mark: str) -> ScriptedScorer:
    return ScriptedScorer(lambda prefix, step: -1.0 + 0.1 * (prefix + step).count(mark))


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("score", ["predictive", "predictive + 0.5*cross"])
async def test_the_same_score_and_settings_find_the_same_winner(width: int, score: str) -> None:
    found = await stored(width, score)
    scores = stored_scores(found, [term.split("*")[-1].strip() for term in score.split("+")])
    again = replay(found, scores, found.settings, score, width)
    assert again.same_winner and not again.off_tree
    assert again.decisions == again.agreed > 0


async def test_another_score_chooses_otherwise_as_far_as_the_tree_goes() -> None:
    found = await stored(beam_width=4)
    scores = await rescored(found, prefers("b"), ["predictive"])
    other = replay(found, scores, found.settings, "predictive", 4)
    assert not other.same_winner and (other.decisions, other.agreed) == (len(scores) // 2, 0)
    by_id = {candidate.id: candidate for candidate in found.candidates}
    assert [by_id[id].teacher for id in other.path][:2] == ["bob", "bob"]
    narrow = await stored(beam_width=1)
    other = replay(
        narrow,
        await rescored(narrow, prefers("b"), ["predictive"]),
        narrow.settings,
        "predictive",
        1,
    )
    assert other.off_tree and len(other.path) == 1


async def test_a_scorer_is_asked_as_the_search_asked_it() -> None:
    found, scorer = await stored(), prefers("a")
    await rescored(found, scorer, ["predictive"])
    problem, prefix, step, objective = scorer.history[0]
    assert (problem.references, problem.messages[0].content) == (("42",), "What is it?")
    assert (prefix, step, objective) == ("", "### Step 1. a1\n\n", "predictive")


async def test_what_would_have_been_right_is_counted_where_it_is_known() -> None:
    found = await stored(beam_width=4)
    assert found.winner is not None
    says = {"ada": "So \\boxed{41}.", "bob": "So \\boxed{42}."}
    candidates = tuple(
        replace(one, text=one.text + says[one.teacher]) if one.ended == "closed" else one
        for one in found.candidates
    )
    found = replace(
        found, candidates=candidates, winner=replace(found.winner, answer="\\boxed{41}")
    )
    other = replay(
        found, await rescored(found, prefers("b"), ["predictive"]), found.settings, "predictive", 4
    )
    assert (other.right, other.was_right) == (True, False)


def test_the_command_reports_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = anyio.run(stored, 4)
    bare = replace(found, candidates=tuple(replace(one, score=None) for one in found.candidates))
    traces = str(store(tmp_path / "traces", [found, bare, replace(found, winner=None)]))
    assert main(["replay", "--traces", traces, "--beam-width", "1"]) == 0
    shown = capsys.readouterr().out
    assert "1 searches replayed; the same winner in 1 (100 %)" in shown
    assert "1 without a winner or a score, 1 without stored scores of predictive" in shown
    assert main(["replay", "--traces", traces, "--json"]) == 0
    first, counts = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["same_winner"] and counts["records"] == 1
    assert main(["replay", "--traces", traces, "--score", "a + a"]) == 2
