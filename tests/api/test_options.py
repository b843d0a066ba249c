"""The search settings a user may set."""

from __future__ import annotations

import math
import sys
from subprocess import run
from typing import get_args

import pytest
from pydantic import ValidationError

from proxy.api.options import resolve_score
from proxy.api.schema import CordOptions
from proxy.decoder.settings import SETTINGS, Budget, Sampling, Settings, StrategyName
from proxy.decoder.strategies import STRATEGIES
from proxy.errors import RequestError

KNOWN = frozenset({"predictive", "predictive-arithmetic", "step", "contrastive"})
CONFIGURED = Settings(
    strategy="greedy",
    score="step",
    beam_width=2,
    samples=3,
    diversity=0.5,
    length_penalty=0.7,
    commit_lag=4,
    quorum=0.5,
    patience_s=1.0,
    answerer="anna",
    max_children_per_parent=1,
    budget=Budget(total_tokens=9),
    sampling=Sampling(0.1),
)


def test_every_key_reaches_its_setting() -> None:
    options = CordOptions.model_validate(
        {
            "strategy": "beam",
            "score": "contrastive",
            "beam_width": 5,
            "samples": 2,
            "diversity": 1,
            "quorum": 1.0,
            "length_penalty": 0.0,
            "commit_lag": 0,
            "patience_s": 0.5,
            "prefill_partial_steps": True,
            "answerer": "ben",
            "max_children_per_parent": 2,
            "similarity_threshold": 0.9,
            "speculate": "off",
            "max_calls": 12,
            "adaptive": True,
            "exploration": 0,
            "max_steps": 6,
            "step_tokens": 7,
            "reasoning_tokens": 8,
            "answer_tokens": 10,
            "deadline_s": 11,
        }
    )
    assert options.apply(CONFIGURED) == Settings(
        strategy="beam",
        score="contrastive",
        beam_width=5,
        samples=2,
        diversity=1.0,
        max_children_per_parent=2,
        similarity_threshold=0.9,
        length_penalty=0.0,
        commit_lag=0,
        quorum=1.0,
        patience_s=0.5,
        prefill_partial_steps=True,
        answerer="ben",
        speculate="off",
        max_calls=12,
        adaptive=True,
        exploration=0.0,
        budget=Budget(6, 7, 8, 10, 9, 11.0),
        sampling=Sampling(0.1),
    )


def test_what_is_left_out_or_null_keeps_what_is_configured() -> None:
    assert CordOptions().apply(CONFIGURED) == CONFIGURED
    nothing = {"strategy": None, "beam_width": None, "max_steps": None}
    assert CordOptions.model_validate(nothing).apply(CONFIGURED) == CONFIGURED


def test_null_is_a_value_of_its_own_for_the_lag_and_the_answerer() -> None:
    settings = CordOptions.model_validate({"commit_lag": None, "answerer": None}).apply(CONFIGURED)
    assert (settings.commit_lag, settings.answerer) == (None, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategy", "mcts"), ("strategy", ""), ("beam_width", 0), ("beam_width", 65), ("beam_width", True),
        ("beam_width", 2.5), ("samples", 0), ("diversity", -0.1), ("diversity", math.nan), ("diversity", math.inf),
        ("quorum", 1.1), ("length_penalty", 5), ("commit_lag", -1), ("patience_s", -1), ("max_steps", 0),
        ("step_tokens", "12"),
        ("answer_tokens", 0), ("speculate", "always"), ("max_calls", 0), ("temperature", 1),
        ("plateau", 2), ("agreement", 0.9), ("reasoning_tokens", 2**64), ("deadline_s", 0.05), ("beam", 4),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        CordOptions.model_validate({key: value})
    assert [error["loc"] for error in refused.value.errors()] == [(key,)]


@pytest.mark.parametrize(
    ("asked", "configured", "referenced", "score"),
    [
        (None, "auto", True, "predictive"),
        (None, "auto", False, "step"),
        ("auto", "contrastive", True, "predictive"),
        ("auto", "contrastive", False, "contrastive"),
        ("auto", "predictive", False, "step"),
        (None, "contrastive", True, "contrastive"),
        ("predictive-arithmetic", "auto", True, "predictive-arithmetic"),
        ("step", "predictive", False, "step"),
    ],
)
def test_auto_looks_ahead_only_where_there_is_a_reference(
    asked: str | None, configured: str, referenced: bool, score: str
) -> None:
    found = resolve_score(
        asked, configured, referenced=referenced, known=KNOWN, reference_free="step"
    )
    assert found == score


@pytest.mark.parametrize(
    ("asked", "configured", "param"),
    [
        ("nonsense", "auto", "cord.score"),
        ("predictive", "auto", "cord.score"),
        ("predictive-arithmetic", "step", "cord.score"),
        (None, "predictive", "cord.reference"),
    ],
)
def test_a_score_that_cannot_be_had_is_refused(
    asked: str | None, configured: str, param: str
) -> None:
    with pytest.raises(RequestError) as refused:
        resolve_score(asked, configured, referenced=False, known=KNOWN, reference_free="step")
    assert refused.value.param == param


def test_a_scorer_that_cannot_look_ahead_is_not_asked_to() -> None:
    known = frozenset({"step"})
    assert (
        resolve_score(None, "auto", referenced=True, known=known, reference_free="step") == "step"
    )


def test_the_options_can_be_had_without_a_web_framework() -> None:
    code = "import sys, proxy.api.options, proxy.api.health; print('starlette' in sys.modules)"
    assert (
        run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


@pytest.mark.parametrize("score", ["step + 0.5*contrastive", "0.5 * step+predictive"])
def test_a_blend_is_known_when_its_parts_are(score: str) -> None:
    assert (
        resolve_score(score, "auto", referenced=True, known=KNOWN, reference_free="step") == score
    )


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("step + astrology", "astrology"),
        ("step + step", "different"),
        ("-1*step", "positive"),
        ("+", "sum"),
        ("nan*step", "positive"),
    ],
)
def test_a_blend_that_is_none_is_refused(score: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        resolve_score(score, "auto", referenced=True, known=KNOWN, reference_free="step")


def test_a_blend_with_a_reference_needs_one() -> None:
    with pytest.raises(RequestError, match="reference"):
        resolve_score(
            "step + predictive", "auto", referenced=False, known=KNOWN, reference_free="step"
        )


def test_every_setting_is_declared_once_and_has_a_doc_line() -> None:
    assert all(one.about.doc for one in SETTINGS.values())
    assert set(get_args(StrategyName)) == STRATEGIES.keys()
    assert CordOptions.model_fields.keys() - {"reference", "inline_reasoning", "relay"} == {
        name for name, one in SETTINGS.items() if not one.about.top_level
    }


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("siblings", 2, "max_children_per_parent"),
        ("siblings", None, "max_children_per_parent"),
        ("alike", 0.5, "similarity_threshold"),
        ("read_ahead", True, "prefill_partial_steps"),
    ],
)
def test_an_old_name_still_works_and_warns(old: str, value: object, new: str) -> None:
    options = CordOptions.model_validate({old: value})
    assert options.given == {new: value}
    [warning] = options.warnings
    assert old in warning and new in warning


def test_an_old_name_has_the_bounds_of_the_new_one() -> None:
    with pytest.raises(ValidationError) as refused:
        CordOptions.model_validate({"siblings": 0})
    assert [error["loc"] for error in refused.value.errors()] == [("max_children_per_parent",)]


def test_a_removed_option_without_a_value_is_ignored() -> None:
    options = CordOptions.model_validate({"plateau": None, "agreement": None})
    assert (options.given, options.warnings) == ({}, ())
