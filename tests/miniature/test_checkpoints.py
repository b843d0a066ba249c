"""The shipped checkpoints: small, loadable by plain transformers, cleanly cut at step boundaries,
skilled."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from miniature.corpus import Writer
from miniature.decode import continue_texts, load, log_probs
from miniature.recipes import RECIPES
from miniature.task import INSTRUCTION, Label, Problem, draw_problem
from miniature.voices import VOICES

CHECKPOINTS = Path(__file__).parents[2] / "miniature" / "checkpoints"
FOLDER_LIMIT_BYTES = 6_000_000
NAMES = list(RECIPES)
SAMPLE = 12


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _loaded(name: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    return load(CHECKPOINTS / name)


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    return _loaded(name)[1]


def _encode(name: str, text: str) -> list[int]:
    ids: list[int] = _tokenizer(name)(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_small_and_complete(name: str) -> None:
    files = list((CHECKPOINTS / name).iterdir())
    assert sum(file.stat().st_size for file in files) <= FOLDER_LIMIT_BYTES
    assert {file.name for file in files} >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "gate.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("name", NAMES)
def test_tokenizing_adds_no_begin_token_and_loses_no_text(name: str) -> None:
    text = "Ünïcode 42, `### Step 3.` and\n\n\ttabs  <|odd|> ABC"
    ids = _encode(name, text)
    assert _tokenizer(name).decode(ids) == text
    assert _tokenizer(name).bos_token_id not in ids
    assert _tokenizer(name)(text)["input_ids"] == ids


@pytest.mark.parametrize("name", NAMES)
def test_cut_after_a_header_and_after_a_blank_line_does_not_change_the_tokens(name: str) -> None:
    rng = random.Random(1)
    writer = Writer(RECIPES[name], _tokenizer(name))
    for _ in range(5):
        problem = draw_problem(rng, "held-out")
        text, label = writer.prompt(problem, instructed=True), problem.start
        for step in range(6):
            after = problem.advance(label, step)
            written = rng.choice(list(VOICES.values())).write(problem, label, after, step)
            header = f"### Step {step + 1}."
            seeded, body = text + header, written.removeprefix(header)
            assert _encode(name, text) + _encode(name, written) == _encode(name, text + written)
            assert _encode(name, seeded) + _encode(name, body) == _encode(name, seeded + body)
            text, label = text + written, after
        ending = f"{RECIPES[name].closer}{problem.reply(label)}"
        assert _encode(name, text) + _encode(name, ending) == _encode(name, text + ending)


@given(st.sampled_from(NAMES), st.text(max_size=30))
def test_any_body_keeps_the_cut_after_a_header(name: str, body: str) -> None:
    prefix = "so far.\n\n### Step 3."
    spaced = f" {body}"
    assert _encode(name, prefix) + _encode(name, spaced) == _encode(name, prefix + spaced)


@pytest.mark.parametrize("name", NAMES)
def test_digits_and_letters_of_a_label_are_tokens_of_their_own(name: str) -> None:
    tokens = [_tokenizer(name).decode([token]) for token in _encode(name, "7-321-ABC")]
    assert tokens == list("7-321-ABC")


@pytest.mark.parametrize("name", NAMES)
def test_template_takes_system_and_several_turns_and_forgets_old_thinking(name: str) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First."},
        {"role": "assistant", "content": "<think>\nhidden</think>\n\nSeen."},
        {"role": "user", "content": "Second."},
    ]
    text = str(
        _tokenizer(name).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    assert all(part in text for part in ("Be brief.", "First.", "Seen.", "Second."))
    assert text.count("Seen.") == 1
    if RECIPES[name].thinking != "none":
        assert "hidden" not in text
    assert text.endswith("<think>\n") == (RECIPES[name].thinking == "template opens")
    assert RECIPES[name].tokenizer.eos in text
    with pytest.raises(Exception, match="unknown role"):
        _tokenizer(name).apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def _cases(name: str, count: int) -> list[tuple[Problem, Label, int, str]]:
    """Held-out problem, label before, step of a strong skill, and the prefix seeded with its
    header."""
    rng = random.Random(f"{name} cases")
    voice = VOICES.get(name)
    writer = Writer(RECIPES[name], _tokenizer(name))
    cases = []
    for _ in range(count):
        problem = draw_problem(rng, "held-out")
        strong = [
            i for i, o in enumerate(problem.operations) if voice is None or o.skill in voice.strong
        ]
        at = rng.choice(strong)
        label, text = problem.start, writer.prompt(problem, instructed=voice is not None)
        for step in range(at):
            after = problem.advance(label, step)
            text += VOICES[name if voice else "birch"].write(problem, label, after, step)
            label = after
        cases.append((problem, label, at, f"{text}### Step {at + 1}."))
    return cases


@pytest.mark.parametrize("name", NAMES)
def test_strong_skills_hold_on_a_small_sample(name: str) -> None:
    cases = _cases(name, SAMPLE)
    written = continue_texts(
        _loaded(name)[0],
        _tokenizer(name),
        [case[3] for case in cases],
        until="\n\n",
        max_new_tokens=64,
    )
    right = [
        Label.find_last(text) == problem.advance(label, step)
        for (problem, label, step, _), text in zip(cases, written, strict=True)
    ]
    assert sum(right) >= SAMPLE - 1
    assert all(text.startswith(" ") and text.endswith("\n\n") for text in written)


@pytest.mark.parametrize("name", list(VOICES))
def test_teacher_alone_writes_all_six_steps_the_closer_and_an_answer(name: str) -> None:
    rng = random.Random(4)
    writer = Writer(RECIPES[name], _tokenizer(name))
    drawn = [draw_problem(rng, "held-out") for _ in range(2)]
    prompts = [
        writer.prompt(problem, instructed=told)
        for problem, told in zip(drawn, (True, False), strict=True)
    ]
    written = continue_texts(
        _loaded(name)[0], _tokenizer(name), prompts, until=None, max_new_tokens=420
    )
    for problem, text in zip(drawn, written, strict=True):
        reasoning, answer = text.split(RECIPES[name].closer)
        assert [f"### Step {n}." in reasoning for n in range(1, 8)] == [True] * 6 + [False]
        last = Label.find_last(reasoning)
        assert last is not None and answer == problem.reply(last)


def test_true_answer_becomes_improbable_after_a_wrong_step() -> None:
    rng = random.Random(6)
    tokenizer, recipe = _tokenizer("meta"), RECIPES["meta"]
    writer = Writer(recipe, tokenizer)
    pairs = []
    for _ in range(SAMPLE):
        problem = draw_problem(rng, "held-out")
        after = problem.advance(problem.start, 0)
        name = problem.operations[0].skill.register
        wrong = after.with_register(
            name, after.register(name)[:-1] + ("0" if name != "tag" else "A")
        )
        if problem.follow(wrong, 1) == problem.answer:
            continue
        for label in (after, wrong):
            step = VOICES["alder"].write(problem, problem.start, label, 0)
            prefix = f"{writer.prompt(problem, instructed=False)}{step}{recipe.closer}"
            pairs.append((prefix, problem.reply(problem.answer)))
    scores = [total for total, _ in log_probs(_loaded("meta")[0], tokenizer, pairs)]
    kept = [good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    assert sum(kept) >= len(kept) - 2 > 4


def test_example_is_held_out_and_its_reference_is_right() -> None:
    example = json.loads((Path(__file__).parents[2] / "miniature" / "parcel.json").read_text())
    content = example["messages"][-1]["content"]
    assert example["model"] == "cord"
    assert INSTRUCTION not in content
    problem = Problem.parse(content)
    assert problem.text == content
    assert problem.split == "held-out"
    assert example["reference"] == str(problem.answer)


def test_instruction_is_the_one_the_teachers_were_trained_with() -> None:
    assert INSTRUCTION == 'Reason in steps, each headed "### Step N.", then give the final answer.'
