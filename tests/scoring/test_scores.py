"""The registry of scores agrees with what the engine computes and with what the docs say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scoring.objective import OBJECTIVES
from scoring.score_table import PAGE, rewritten
from scoring.scores import SCORES, Asked, available_scores

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_an_objective_that_the_engine_has(name: str) -> None:
    spec = SCORES[name]
    assert OBJECTIVES[spec.objective].graded is (spec.asks is Asked.REWARD_MODELS)


def test_the_table_in_the_docs_is_up_to_date() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page == rewritten(page), "run `python -m scoring.score_table`"


@pytest.mark.parametrize(
    ("models", "judges", "reward_models", "missing"),
    [
        ({"a", "b", "m"}, {"a", "b"}, {"r"}, set()),
        ({"a", "m"}, {"m"}, {"r"}, {"contrastive", "cross-others"}),
        ({"a", "b"}, {"a", "b"}, set(), {"reward"}),
    ],
)
def test_a_score_is_available_where_its_models_are(
    models: set[str], judges: set[str], reward_models: set[str], missing: set[str]
) -> None:
    found = available_scores(
        teachers={"a", "b"}, models=models, judges=judges, reward_models=reward_models
    )
    assert set(SCORES) - found == missing


def test_the_registry_loads_no_torch() -> None:
    code = "import sys, scoring.scores; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "False False"
