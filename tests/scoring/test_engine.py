"""Cached, batched and shared scores equal one-by-one full forwards."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from runtime.prefix_cache import MemoryPool
from scoring import attention
from scoring.engine import ScoringEngine
from scoring.errors import BadScoreRequest, ScorerUnavailable, UnsupportedModel
from scoring.judge import Judge
from scoring.objective import Passage
from scoring.tokens import Elicitation
from scoring.types import CandidateScore, Message, ScoreRequest, Tree
from tests import tiny

KINDS = ["llama", "qwen3", "gpt2"]
TALK = (Message("user", "What is the label?"),)
STEP_1, STEP_2, STEP_3 = (
    f"### Step {i}. We {verb} two.\n\n" for i, verb in [(1, "add"), (2, "double"), (3, "get")]
)


@cache
def parts(kind: str, template: str = tiny.THINKING) -> tuple[Any, Any]:
    words = tiny.tokenizer(template)
    return tiny.model(kind, len(words)), words


def judge(
    kind: str, template: str = tiny.THINKING, pool: MemoryPool | None = None, name: str = "m"
) -> Judge:
    words = tiny.tokenizer(template)
    pool = pool or MemoryPool(1 << 24)
    return Judge(name, tiny.model(kind, len(words)), words, pool=pool, elicitation=Elicitation())


def engine(
    kind: str = "llama", template: str = tiny.THINKING, budget: int = 1 << 24, tokens: int = 4096
) -> ScoringEngine:
    pool = MemoryPool(budget)
    return ScoringEngine({"m": judge(kind, template, pool)}, pool, batch_tokens=tokens)


def request(
    *candidates: str, prefix: str = "", answers: tuple[str, ...] = (), by: str = "step"
) -> ScoreRequest:
    return ScoreRequest(Tree(TALK, prefix, candidates, answers), by, ("m",))


def one(engine: ScoringEngine, asked: ScoreRequest) -> tuple[CandidateScore, ...]:
    [task] = engine.score([asked])
    assert task.error is None
    return task.scores


def by_hand(kind: str, before: str, scored: str, after: str = "") -> float:
    """Mean log-probability of the tokens that overlap `scored`, by one plain forward over it
    all."""
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
    assert score.nats / score.length == pytest.approx(
        by_hand(kind, PROMPT + STEP_1, STEP_2), abs=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_predictive_perplexity_equals_a_plain_forward(kind: str) -> None:
    [score] = one(engine(kind), request(STEP_1, answers=("42",), by="predictive"))
    text = PROMPT + STEP_1 + "</think>\n\nThe final answer is \\boxed{"
    assert score.nats == pytest.approx(by_hand(kind, text, "42}", "."), abs=1e-5)
    assert score.length == 1.0


texts = st.lists(
    st.sampled_from(
        [STEP_1, STEP_2, STEP_3, "### Step 1. é", "### Step 2. zwölf\n\n", " \n\n\n odd"]
    ),
    max_size=3,
).map("".join)
asks = st.builds(
    lambda prefix, candidates, answers, by: request(
        *candidates, prefix=prefix, answers=answers, by=by
    ),
    texts,
    st.lists(texts.filter(bool), min_size=1, max_size=4),
    st.lists(st.sampled_from(["42", "7", "A-1}"]), min_size=1, max_size=2).map(tuple),
    st.sampled_from(["step", "cross", "chunks", "predictive", "predictive-mean", "confidence"]),
)


@cache
def plain_engine(kind: str) -> ScoringEngine:
    """An engine that forgets everything between requests."""
    return engine(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "cascade"])
@settings(max_examples=12, deadline=None)
@given(
    batches=st.lists(st.lists(asks, min_size=1, max_size=3), min_size=1, max_size=3),
    roomy=st.booleans(),
    tokens=st.sampled_from([7, 40, 4096]),
)
def test_cached_packed_and_cut_scores_equal_scores_alone(
    kind: str, dense: bool, batches: list[list[ScoreRequest]], roomy: bool, tokens: int
) -> None:
    """Over random trees, in random batches, cut into forwards of a few tokens, also when the cache
    is small."""
    alone = plain_engine(kind)
    longest = alone.judges["m"].bytes_per_token * 512
    shared = engine(kind, budget=1 << 24 if roomy else longest, tokens=tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CALL_PAIRS", 1 << 18 if dense else 0)
        for batch in batches:
            for asked, task in zip(batch, shared.score(batch), strict=True):
                alone.pool.shrink(0)
                for got, wanted in zip(task.scores, one(alone, asked), strict=True):
                    assert got.nats / got.length == pytest.approx(
                        wanted.nats / wanted.length, abs=1e-5
                    )
    assert shared.pool.bytes <= shared.pool.budget
    shared.pool.shrink(0)
    assert shared.pool.bytes == 0, "something is still in use"


@pytest.mark.parametrize("causal", [True, False])
def test_attention_by_the_formula_equals_the_fused_kernel(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, value = torch.randn(4, 9, 8), torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    kv = torch.stack((key, value))
    out, weight = attention.run_attention(query, kv, 0.3, causal=causal)
    monkeypatch.setattr(attention, "kernel_for", lambda query: attention.by_formula)
    monkeypatch.setattr(attention, "MATH_PAIRS", 20)
    by_formula, its_weight = attention.run_attention(query, kv, 0.3, causal=causal)
    torch.testing.assert_close(by_formula, out)
    torch.testing.assert_close(its_weight, weight)


def test_survivors_become_the_next_prefix_without_being_forwarded_again() -> None:
    scorer = engine()
    one(scorer, request(STEP_1, STEP_2))
    [task] = scorer.score([request(STEP_2, prefix=STEP_1)])
    assert task.forwarded == len(parts("llama")[1](STEP_2)["input_ids"])


def test_every_token_of_a_search_is_forwarded_once() -> None:
    """Three candidates, two of each step's survive, scored by two answers: kept tokens run once,
    ever."""
    scorer = engine()
    seen: set[tuple[int, ...]] = set()
    passing = 0
    prefixes = [""]
    for depth in range(1, 6):
        steps = [f"### Step {depth}. We {verb} {depth}.\n\n" for verb in ("add", "double", "get")]
        asked = [
            request(*steps, prefix=prefix, answers=("42", "7"), by="predictive")
            for prefix in prefixes
        ]
        for task in scorer.score(asked):
            for sequence in task.sequences["m"]:
                kept = sequence.row.ids[: sequence.row.keep]
                seen |= {kept[: i + 1] for i in range(len(kept))}
            answers = {sequence.row.ids[: sequence.goal] for sequence in task.sequences["m"]}
            branches = {ids[: i + 1] for ids in answers for i in range(len(ids))} - seen
            passing += len(branches)
        prefixes = [prefix + step for prefix in prefixes for step in steps[:2]][:2]
    assert scorer.judges["m"].forwarded == len(seen) + passing


def test_a_step_that_was_read_while_it_was_written_leaves_only_its_rest() -> None:
    scorer = engine()
    beginning = STEP_1.rsplit(" ", 1)[0]
    one(scorer, request(beginning))
    [task] = scorer.score([request(STEP_1)])
    tokens = len(parts("llama")[1](STEP_1)["input_ids"]) - len(
        parts("llama")[1](beginning)["input_ids"]
    )
    assert task.forwarded == tokens


def test_a_known_step_is_scored_by_another_objective_without_a_forward() -> None:
    scorer = engine()
    first = one(scorer, request(STEP_1, STEP_2))
    [task] = scorer.score([request(STEP_1, STEP_2)])
    assert task.forwarded == 0 and task.scores == first


def test_equal_candidates_are_read_once() -> None:
    scorer = engine()
    one(scorer, request(STEP_1))
    alone = scorer.judges["m"].forwarded
    scorer = engine()
    first, second = one(scorer, request(STEP_1, STEP_1))
    assert first == second and scorer.judges["m"].forwarded == alone


def test_the_cache_stays_within_its_budget() -> None:
    scorer = engine(budget=100 * judge("llama").bytes_per_token)
    for i in range(30):
        one(scorer, request(f"### Step 1. {i} we add.\n\n"))
        assert scorer.pool.bytes <= scorer.pool.budget
    assert scorer.pool.evictions > 0


def test_a_tree_that_needs_more_than_the_budget_is_refused_alone() -> None:
    scorer = engine(budget=60 * judge("llama").bytes_per_token)
    large, small = scorer.score([request(STEP_1 * 4), request(STEP_1)])
    assert isinstance(large.error, BadScoreRequest) and large.error.code == "kv_budget_exceeded"
    assert small.error is None and small.scores


def test_trees_that_do_not_fit_together_run_one_after_the_other() -> None:
    scorer = engine(budget=100 * judge("llama").bytes_per_token)
    tasks = scorer.score([request(f"### Step 1. We add {i}.\n\n" * 3) for i in range(4)])
    assert [task.error for task in tasks] == [None] * 4
    assert max(task.together for task in tasks) == 1


class Scarce:
    """A device that runs out of memory above some number of new tokens, as CUDA says it."""

    def __init__(self, model: Any, tokens: int) -> None:
        self.tokens = tokens
        self.sizes: list[int] = []
        self._forward = model.base_model.forward
        model.base_model.forward = self

    def __call__(self, **inputs: Any) -> Any:
        size = inputs["input_ids"].shape[1]
        if size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(size)
        return self._forward(**inputs)


def test_out_of_memory_shrinks_the_forward_and_tries_again() -> None:
    asked = [request(STEP_1, STEP_2, answers=("42",), by="predictive"), request(STEP_3)]
    wanted = [task.scores for task in engine().score(asked)]
    scorer = engine()
    device = Scarce(scorer.judges["m"].model, 20)
    for task, scores in zip(scorer.score(asked), wanted, strict=True):
        assert task.error is None
        assert [score.nats for score in task.scores] == pytest.approx(
            [score.nats for score in scores], abs=1e-4
        )
    assert max(device.sizes) <= 20
    scorer.pool.shrink(0)
    assert scorer.pool.bytes == 0


def test_no_memory_at_all_fails_the_request_and_not_the_next_one() -> None:
    scorer = engine()
    device = Scarce(scorer.judges["m"].model, 0)
    [task] = scorer.score([request(STEP_1)])
    assert isinstance(task.error, ScorerUnavailable)
    device.tokens = 1000
    assert one(scorer, request(STEP_1))
    assert scorer.pool.bytes > 0


def test_a_device_that_fails_otherwise_strands_nobody() -> None:
    scorer = engine()
    model = scorer.judges["m"].model
    forward = model.base_model.forward
    model.base_model.forward = lambda **inputs: 1 / 0
    tasks = scorer.score([request(STEP_1), request(STEP_2)])
    assert all(isinstance(task.error, ZeroDivisionError) for task in tasks)
    model.base_model.forward = forward
    assert one(scorer, request(STEP_1))


def test_searches_share_the_device_whatever_each_asks() -> None:
    """A search that asks little does not wait behind one that asks much."""
    scorer = engine(tokens=64)
    much = scorer.open(
        ScoreRequest(
            Tree(TALK, "", tuple(f"{STEP_1}{i}\n\n" * 3 for i in range(9))), "step", ("m",), "a"
        )
    )
    little = scorer.open(ScoreRequest(Tree(TALK, "", (STEP_2,)), "step", ("m",), "b"))
    scorer.add(much)
    scorer.add(little)
    ended = []
    while scorer.busy:
        ended.append(scorer.step())
    assert [task for step in ended for task in step] == [little, much]
    assert ended.index([little]) < ended.index([much]) - 1


def test_work_ahead_waits_while_there_is_other_work() -> None:
    scorer = engine(tokens=16)
    ahead = scorer.open(ScoreRequest(Tree(TALK, "", (STEP_1,)), "step", ("m",), "a", ahead=True))
    task = scorer.open(request(STEP_2 * 3))
    scorer.add(ahead)
    scorer.add(task)
    ended = []
    while scorer.busy:
        ended += scorer.step()
    assert ended == [task, ahead]


def test_a_cancelled_task_is_dropped_between_two_forwards() -> None:
    scorer = engine(tokens=16)
    task = scorer.open(request(STEP_1 * 4))
    scorer.add(task)
    assert scorer.step() == []
    task.cancelled = True
    before = scorer.judges["m"].forwarded
    assert scorer.step() == [task] and not scorer.busy
    assert scorer.judges["m"].forwarded == before
    scorer.pool.shrink(0)
    assert scorer.pool.bytes == 0


def spells(scorer: ScoringEngine) -> Any:
    """The model of this engine, made to write digits only: what a random one writes is seldom
    text."""
    model = scorer.judges["m"].model  # type: ignore[union-attr]
    head, digits = (
        model.get_output_embeddings(),
        tiny.tokenizer(tiny.THINKING).convert_tokens_to_ids(list("0123456789")),
    )
    kept = head.weight[digits].clone()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[digits] = kept + 1.0
    return model


def test_look_ahead_is_predictive_perplexity_after_what_the_model_goes_on_with() -> None:
    scorer = engine()
    model, words = spells(scorer), tiny.tokenizer(tiny.THINKING)
    [score] = one(scorer, request(STEP_2, prefix=STEP_1, answers=("42",), by="lookahead"))
    [ahead] = score.written
    [wanted] = one(scorer, request(ahead, prefix=STEP_1 + STEP_2, answers=("42",), by="predictive"))
    assert score.nats == pytest.approx(wanted.nats, abs=1e-5)
    model.set_attn_implementation("eager")
    ids = words(PROMPT + STEP_1 + STEP_2, add_special_tokens=False, return_tensors="pt")[
        "input_ids"
    ]
    written = ids
    with torch.inference_mode():
        for _ in range(64):
            likeliest = model(written).logits[0, -1].argmax()
            written = torch.cat([written, likeliest[None, None]], dim=1)
    assert ahead == f"{words.decode(written[0, ids.shape[1] :]).strip()}\n\n"


def test_a_step_that_reads_back_too_long_is_left_out() -> None:
    """A random model writes bytes that another cut into tokens needs more of; the model's context
    must still hold."""
    scorer = engine()
    plain, ahead = (
        one(scorer, request(STEP_1, answers=("42",), by=by))[0]
        for by in ("predictive", "lookahead-rollout")
    )
    assert ahead.written == ("",)
    assert ahead.nats == pytest.approx(plain.nats, abs=1e-5)


@pytest.mark.parametrize(
    ("written", "to_end", "step", "ends"),
    [
        ("### Step 2. 3 + 4 = 7\n\n### Step 3", False, "### Step 2. 3 + 4 = 7\n\n", True),
        ("### Step 2. 3 + 4 = 7\n\n## Step 3", False, "### Step 2. 3 + 4 = 7\n\n", True),
        ("### Step 2. 3 + 4 = 7\n\nso", False, "### Step 2. 3 + 4 = 7\n\nso\n\n", False),
        ("### Step 2. 7\n\n### Step 3. 8", True, "### Step 2. 7\n\n### Step 3. 8\n\n", False),
        ("### Step 2. 7\n</think>\n\nThe", False, "### Step 2. 7\n\n", True),
        ("</think>\n\nThe", False, "", True),
        ("\n### Step 2.", False, "### Step 2.\n\n", False),
    ],
)  # fmt: skip
def test_a_further_step_ends_at_a_heading_or_with_the_thinking(
    written: str, to_end: bool, step: str, ends: bool
) -> None:
    encoder = judge("llama").encoder
    passage = Passage(0, STEP_1, "42", closing=True, ahead=64, to_end=to_end)
    ids = tiny.tokenizer(tiny.THINKING)(written, add_special_tokens=False)["input_ids"]
    assert encoder.further_step(passage, ids) == step
    assert encoder.ends_ahead(passage, ids) is ends


def test_confidence_is_the_likelihood_of_the_models_own_answer() -> None:
    """Elicited greedily by hand, a whole forward a token."""
    model, words = parts("llama")
    text = PROMPT + STEP_1 + "</think>\n\nThe final answer is \\boxed{"
    ids = words(text, add_special_tokens=False)["input_ids"]
    logs = []
    with torch.inference_mode():
        while len(logs) < 32 and "}" not in words.decode(ids[-1:] if logs else []):
            step = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
            ids.append(int(step.argmax()))
            logs.append(float(step.max()))
            if ids[-1] == words.eos_token_id:
                break
    [score] = one(engine(), request(STEP_1, by="confidence"))
    assert score.per_model[0].tokens == len(logs)
    assert score.nats == pytest.approx(sum(logs) / len(logs), abs=1e-5)


def test_what_the_model_answered_is_told() -> None:
    """Here it is a random model's, and goes on until its tokens are used up or an end is found."""
    [score] = one(engine(), request(STEP_1, by="confidence"))
    [written] = score.written
    assert "}" not in written
    [again] = one(engine(), request(STEP_1, answers=(written,), by="predictive"))
    assert again.nats <= 0


def test_an_expectation_weighs_the_answers() -> None:
    scorer = engine()
    apart = [
        one(scorer, request(STEP_1, answers=(answer,), by="predictive"))[0].nats
        for answer in ("4", "77")
    ]
    pooled = ScoreRequest(
        Tree(TALK, "", (STEP_1, STEP_2), ("4", "77"), weights=(0.75, 0.25)), "expected", ("m",)
    )
    first, second = one(scorer, pooled)
    assert first.nats == pytest.approx(0.75 * apart[0] + 0.25 * apart[1], abs=1e-6)
    assert second.nats != first.nats


def test_a_verdict_is_the_share_of_yes() -> None:
    question = f"{PROMPT}{STEP_1}</think>\n\nIs every step so far correct (yes or no)? "
    model, words = parts("llama")
    [task] = engine().score([request(STEP_1, by="verdict")])
    logs = []
    for sequence, word in zip(task.sequences["m"], ("yes", "no"), strict=True):
        row = sequence.row
        assert words.decode(row.ids) == f"{question}{word}."
        with torch.inference_mode():
            each = torch.log_softmax(model(torch.tensor([row.ids])).logits[0, :-1].double(), -1)
        logs.append(
            float(each.gather(1, torch.tensor([row.ids[1:]]).T)[row.start - 1 : row.end - 1].sum())
        )
    share = math.exp(logs[0]) / (math.exp(logs[0]) + math.exp(logs[1]))
    assert task.scores[0].nats == pytest.approx(math.log(share), abs=1e-4)


def test_chunks_of_one_length_are_compared() -> None:
    scorer = engine()
    text = (STEP_1 + STEP_2) * 2
    [task] = scorer.score([request(text)])
    logs = task.sequences["m"][0].logs
    assert logs is not None and 32 <= len(logs) < 48
    first, second = sum(logs[:16]), sum(logs[16:32])
    [mean], [worst] = (one(scorer, request(text, by=by)) for by in ("chunks", "worst-chunk"))
    assert (mean.nats, mean.length) == (pytest.approx((first + second) / 2), 1.0)
    assert worst.nats == pytest.approx(min(first, second))
    [short] = one(scorer, request("### Step 1.\n\n", by="chunks"))
    [step] = one(scorer, request("### Step 1.\n\n"))
    assert short.nats == pytest.approx(16 * step.nats / step.length)


def test_a_contrastive_score_takes_away_what_the_proposer_found() -> None:
    pool = MemoryPool(1 << 24)
    scorer = ScoringEngine(
        {"m": judge("llama", pool=pool), "p": judge("qwen3", pool=pool, name="p")}, pool
    )
    tree = Tree(TALK, "", (STEP_1, STEP_2))
    both = [one(scorer, ScoreRequest(tree, "step", (name,))) for name in ("m", "p")]
    contrast = one(scorer, ScoreRequest(tree, "contrastive", ("m", "p")))
    for meta, proposer, score in zip(*both, contrast, strict=True):
        assert score.nats == pytest.approx(meta.nats - proposer.nats)
    given = Tree(TALK, "", (STEP_1, STEP_2), proposed=tuple(score.nats for score in both[1]))
    assert one(scorer, ScoreRequest(given, "contrastive", ("m",)))[0].nats == pytest.approx(
        contrast[0].nats
    )


def test_several_references_count_as_the_best_or_as_their_mean() -> None:
    scorer = engine()
    separate = [
        one(scorer, request(STEP_1, answers=(answer,), by="predictive"))[0].nats
        for answer in ("4", "77")
    ]
    [best] = one(scorer, request(STEP_1, answers=("4", "77"), by="predictive"))
    [mean] = one(scorer, request(STEP_1, answers=("4", "77"), by="predictive-mean"))
    assert best.nats == pytest.approx(max(separate), abs=1e-6)
    assert mean.nats == pytest.approx(math.log(sum(map(math.exp, separate)) / 2), abs=1e-6)


def test_cross_likelihood_is_the_mean_over_judges_in_nats_a_byte() -> None:
    pool = MemoryPool(1 << 24)
    judges = {"a": judge("llama", pool=pool, name="a"), "b": judge("qwen3", tiny.PLAIN, pool, "b")}
    asked = ScoreRequest(Tree(TALK, "", (STEP_1,)), "cross", ("a", "b"))
    [score] = one(ScoringEngine(judges, pool), asked)
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
        (
            ScoreRequest(Tree(TALK, "", (STEP_1,), ("4", "5"), weights=(1.0,)), "expected", ("m",)),
            "tree.weights",
        ),
        (request(STEP_1, by="reward"), "models"),
        (
            ScoreRequest(Tree(TALK, "", (STEP_1,), proposed=(1.0, 2.0)), "contrastive", ("m",)),
            "tree.proposed",
        ),
    ],
)
def test_a_bad_request_is_refused_and_the_others_in_its_batch_are_scored(
    asked: ScoreRequest, param: str
) -> None:
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
        Judge(
            "m",
            MistralForCausalLM(config),
            tiny.tokenizer(),
            pool=MemoryPool(1 << 20),
            elicitation=Elicitation(),
        )


class Scaled(LlamaForCausalLM):
    """A model whose logits are not what its head says: configurations do not tell that of every
    family."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output


def test_a_model_that_would_be_scored_wrongly_is_refused() -> None:
    words = tiny.tokenizer()
    model = tiny.model("llama", len(words))
    model.__class__ = Scaled
    with pytest.raises(UnsupportedModel, match="nats a token"):
        Judge("m", model, words, pool=MemoryPool(1 << 20), elicitation=Elicitation())


def test_a_sharp_model_in_half_precision_is_not_taken_for_a_wrong_one() -> None:
    """Improbable tokens are rounded by more; this checkpoint's are 0.4 nats off at 20."""
    folder = Path(__file__).parents[2] / "miniature" / "checkpoints" / "shared" / "alder"
    made = Judge.load(
        "m",
        str(folder),
        device="cpu",
        dtype="bfloat16",
        pool=MemoryPool(1 << 24),
        elicitation=Elicitation(),
    )
    assert made.bytes_per_token > 0
