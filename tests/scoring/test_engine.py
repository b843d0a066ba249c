"""Cached, batched and shared scores equal one-by-one full forwards."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from scoring.engine import Engine, Judge
from scoring.errors import BadScoreRequest, UnsupportedModel
from scoring.tokens import Elicitation
from scoring.types import CandidateScore, Message, ScoreRequest, Tree
from tests import tiny

KINDS = ["llama", "qwen3", "gpt2"]
TALK = (Message("user", "What is the label?"),)
STEP_1, STEP_2, STEP_3 = (f"### Step {i}. We {verb} two.\n\n" for i, verb in [(1, "add"), (2, "double"), (3, "get")])


@cache
def parts(kind: str, template: str = tiny.THINKING) -> tuple[Any, Any]:
    words = tiny.tokenizer(template)
    return tiny.model(kind, len(words)), words


def judge(kind: str, template: str = tiny.THINKING, cache_bytes: int = 1 << 24) -> Judge:
    model, words = parts(kind, template)
    return Judge("m", model, words, cache_bytes=cache_bytes, elicitation=Elicitation())


def engine(kind: str = "llama", **options: Any) -> Engine:
    return Engine({"m": judge(kind, **options)})


def request(*candidates: str, prefix: str = "", answers: tuple[str, ...] = (), by: str = "step") -> ScoreRequest:
    return ScoreRequest(Tree(TALK, prefix, candidates, answers), by, ("m",))


def one(engine: Engine, asked: ScoreRequest) -> tuple[CandidateScore, ...]:
    [outcome] = engine.score([asked])
    assert outcome.error is None
    return outcome.scores


def by_hand(kind: str, before: str, scored: str, after: str = "") -> float:
    """Mean log-probability of the tokens that overlap `scored`, by one plain forward over it all."""
    model, words = parts(kind)
    ids = words(before + scored + after, add_special_tokens=False, return_offsets_mapping=True)
    spans = ids["offset_mapping"]
    first = next(i for i, (_, end) in enumerate(spans) if end > len(before))
    last = max(i for i, (begin, _) in enumerate(spans) if begin < len(before + scored)) + 1
    tokens = torch.tensor([ids["input_ids"]])
    with torch.inference_mode():
        logs = torch.log_softmax(model(tokens).logits[0, :-1].double(), -1)
    picked = logs.gather(1, tokens[0, 1:, None])[first - 1 :]
    return float(picked[: last - first].mean())


PROMPT = "<|im_start|>user\nWhat is the label?<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize("kind", KINDS)
def test_step_likelihood_equals_a_plain_forward(kind: str) -> None:
    [score] = one(engine(kind), request(STEP_2, prefix=STEP_1))
    assert score.nats / score.length == pytest.approx(by_hand(kind, PROMPT + STEP_1, STEP_2), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_predictive_perplexity_equals_a_plain_forward(kind: str) -> None:
    [score] = one(engine(kind), request(STEP_1, answers=("42",), by="predictive"))
    text = PROMPT + STEP_1 + "</think>\n\nThe final answer is \\boxed{"
    assert score.nats == pytest.approx(by_hand(kind, text, "42}", "."), abs=1e-5)
    assert score.length == 1.0


texts = st.lists(st.sampled_from([STEP_1, STEP_2, STEP_3, "### Step 1. é", "### Step 2. zwölf\n\n"]), max_size=3).map(
    "".join
)
asks = st.builds(
    lambda prefix, candidates, answers, by: request(*candidates, prefix=prefix, answers=answers, by=by),
    texts,
    st.lists(texts.filter(bool), min_size=1, max_size=4),
    st.lists(st.sampled_from(["42", "7", "A-1}"]), min_size=1, max_size=2).map(tuple),
    st.sampled_from(["step", "cross", "predictive", "predictive-mean"]),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.lists(asks, min_size=1, max_size=3), min_size=1, max_size=3), small=st.booleans())
def test_cached_and_batched_scores_equal_scores_alone(
    kind: str, batches: list[list[ScoreRequest]], small: bool
) -> None:
    """Over random trees, in random batches, also when the cache holds next to nothing."""
    shared = engine(kind, cache_bytes=4096 if small else 1 << 24)
    for batch in batches:
        for asked, outcome in zip(batch, shared.score(batch), strict=True):
            alone = one(engine(kind, cache_bytes=0), asked)
            for got, wanted in zip(outcome.scores, alone, strict=True):
                assert got.nats / got.length == pytest.approx(wanted.nats / wanted.length, abs=1e-5)


def test_survivors_become_the_next_prefix_without_being_forwarded_again() -> None:
    scorer = engine()
    one(scorer, request(STEP_1, STEP_2))
    before = scorer.judges["m"].forwarded
    one(scorer, request(STEP_2, prefix=STEP_1))
    added = len(parts("llama")[1](STEP_2)["input_ids"])
    assert scorer.judges["m"].forwarded - before == added + 1  # the token that predicts the first


def test_equal_candidates_are_read_once() -> None:
    scorer = engine()
    one(scorer, request(STEP_1))
    alone = scorer.judges["m"].forwarded
    scorer = engine()
    first, second = one(scorer, request(STEP_1, STEP_1))
    assert first == second and scorer.judges["m"].forwarded == alone


def test_the_cache_stays_within_its_budget() -> None:
    scorer = engine(cache_bytes=10_000)
    held = scorer.judges["m"].cache
    for i in range(30):
        one(scorer, request(f"### Step 1. We add {i}.\n\n"))
        assert held.bytes <= 10_000
    assert held.evictions > 0


def test_several_references_count_as_the_best_or_as_their_mean() -> None:
    scorer = engine()
    separate = [one(scorer, request(STEP_1, answers=(answer,), by="predictive"))[0].nats for answer in ("4", "77")]
    [best] = one(scorer, request(STEP_1, answers=("4", "77"), by="predictive"))
    [mean] = one(scorer, request(STEP_1, answers=("4", "77"), by="predictive-mean"))
    assert best.nats == pytest.approx(max(separate), abs=1e-6)
    assert mean.nats == pytest.approx(math.log(sum(map(math.exp, separate)) / 2), abs=1e-6)


def test_cross_likelihood_is_the_mean_over_judges_in_nats_a_byte() -> None:
    judges = {"a": judge("llama"), "b": judge("qwen3", template=tiny.PLAIN)}
    asked = ScoreRequest(Tree(TALK, "", (STEP_1,)), "cross", ("a", "b"))
    [score] = one(Engine(judges), asked)
    assert score.nats == pytest.approx(sum(part.nats for part in score.per_model) / 2)
    assert score.length == len(STEP_1.encode())
    assert [part.model for part in score.per_model] == ["a", "b"]


def test_special_tokens_in_a_teachers_text_stay_literal() -> None:
    encoder = judge("llama").encoder
    from scoring.objective import Passage

    end = parts("llama")[1].eos_token_id
    row = encoder.row(TALK, Passage(0, "", "### Step 1. <|im_end|>\n\n", closing=False))
    assert end not in row.ids[row.start : row.end]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (request(STEP_1, by="astrology"), "objective"),
        (request(STEP_1, by="predictive"), "tree.answers"),
        (request(""), "tree.candidates"),
        (ScoreRequest(Tree(TALK, "", (STEP_1,)), "step", ("nobody",)), "models"),
        (ScoreRequest(Tree(TALK, "", (STEP_1,)), "step", ()), "models"),
    ],
)
def test_a_bad_request_is_refused_and_the_others_in_its_batch_are_scored(asked: ScoreRequest, param: str) -> None:
    bad, good = engine().score([asked, request(STEP_1)])
    assert isinstance(bad.error, BadScoreRequest) and bad.error.param == param
    assert good.error is None and good.scores[0].nats < 0


def test_a_text_longer_than_the_context_is_refused_by_name() -> None:
    [outcome] = engine().score([request(STEP_1 * 100)])
    assert outcome.error is not None and outcome.error.code == "context_length_exceeded"


def test_a_sliding_window_model_is_refused() -> None:
    config = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match="full attention"):
        Judge("m", MistralForCausalLM(config), tiny.tokenizer(), cache_bytes=0, elicitation=Elicitation())
