"""The parcel-label task: its rules, its split, its checker."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature.task import (
    DEPTH,
    Label,
    Operation,
    Problem,
    Skill,
    draw_problem,
    is_correct,
    problems,
    share_right,
)
from miniature.voices import VOICES

SEEDS = st.integers(min_value=0, max_value=2**32)
EXAMPLE = Problem(
    Label("7", "321", "DAJ"),
    (
        Operation(Skill.TIMES, 4),
        Operation(Skill.SHIFT, 2),
        Operation(Skill.ROTATE, 1),
        Operation(Skill.SORT),
        Operation(Skill.REVERSE),
        Operation(Skill.ADD, 5),
    ),
)


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        (Operation(Skill.ADD, 5), "8", "3"),
        (Operation(Skill.TIMES, 4), "7", "8"),
        (Operation(Skill.REVERSE), "321", "123"),
        (Operation(Skill.ROTATE, 1), "321", "213"),
        (Operation(Skill.ROTATE, 2), "321", "132"),
        (Operation(Skill.SORT), "DAJ", "ADJ"),
        (Operation(Skill.SHIFT, 2), "DAJ", "FCB"),
    ],
)
def test_operation_changes_a_register_as_the_rules_say(
    operation: Operation, before: str, after: str
) -> None:
    assert operation.apply(before) == after


def test_answer_follows_from_all_six_operations_in_order() -> None:
    assert str(EXAMPLE.answer) == "3-312-BCF"


def test_problem_text_lists_the_label_and_every_operation() -> None:
    lines = EXAMPLE.text.splitlines()
    assert lines[1] == "Label 7-321-DAJ"
    assert lines[2] == "Step 1. times 4"
    assert lines[5] == "Step 4. sort"
    assert len(lines) == 2 + DEPTH


@given(SEEDS)
def test_problem_is_read_back_from_its_text(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "held-out")
    assert Problem.parse(problem.text) == problem


@pytest.mark.parametrize(
    "text", ["", "hello", EXAMPLE.text + "\nmore", EXAMPLE.text.replace("times 4", "times 04")]
)
def test_text_that_is_no_problem_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Problem.parse(text)


def test_mistake_is_carried_into_what_follows() -> None:
    wrong = Label("9", "321", "DAJ")
    assert EXAMPLE.follow(wrong, 1) == Label("4", "312", "BCF")


def test_checker_accepts_its_own_sentence_and_nothing_near_it() -> None:
    assert is_correct(EXAMPLE, EXAMPLE.reply(EXAMPLE.answer))
    assert is_correct(EXAMPLE, "First \\boxed{1}, no: \\boxed{ 3-312-BCF }.")
    assert not is_correct(EXAMPLE, "3-312-BCF")
    assert not is_correct(EXAMPLE, "\\boxed{3-312-BCF} or rather \\boxed{3-312-BCG}")
    assert not is_correct(EXAMPLE, "\\boxed{3-312-BCFF}")
    assert not is_correct(EXAMPLE, "")


@given(SEEDS)
def test_split_of_a_problem_is_decided_by_its_text_alone(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "held-out")
    assert Problem(problem.start, problem.operations).split == "held-out"
    assert draw_problem(random.Random(seed), "train").split == "train"


def test_one_problem_in_ten_is_held_out() -> None:
    rng = random.Random(0)
    drawn = [draw_problem(rng, "train") for _ in range(400)]
    changed = [
        Problem(Label(str(digit), p.start.code, p.start.tag), p.operations)
        for p in drawn
        for digit in range(10)
    ]
    share = sum(problem.split == "held-out" for problem in changed) / len(changed)
    assert 0.07 < share < 0.12


def test_stream_of_problems_is_reproducible_and_differs_by_seed() -> None:
    first, again, other = (list(islice(problems(seed, "held-out"), 20)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(SEEDS)
def test_every_problem_asks_for_each_skill_once(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "train")
    assert {operation.skill for operation in problem.operations} == set(Skill)


@given(SEEDS)
def test_last_label_is_found_in_text(seed: int) -> None:
    label = draw_problem(random.Random(seed), "train").start
    assert Label.find_last(f"1-234-ABC, then {label}.") == label
    assert Label.find_last("no label 12-3-A") is None


@given(SEEDS)
def test_a_tangled_problem_works_four_times_on_one_register(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "train", "tangled")
    registers = [operation.skill.register for operation in problem.operations]
    assert sorted(map(registers.count, set(registers))) == [1, 1, 4]
    assert Problem.parse(problem.text) == problem


@given(SEEDS)
def test_an_open_problem_is_worth_the_steps_of_its_way_that_are_right(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "train", "open")
    assert Problem.parse(problem.text) == problem
    label, steps = problem.start, []
    for step in range(DEPTH):
        label = problem.advance(label, step)
        steps.append(VOICES["birch"].write(problem, label, label, step))
    assert share_right(problem, "".join(steps) + problem.reply(label)) == 1.0
    assert share_right(problem, "".join(steps[:3])) == 0.5
    assert share_right(problem, str(problem.answer)) == 0.0


def test_varieties_are_drawn_apart_and_even_ones_as_ever() -> None:
    even, tangled = (next(problems(1, "held-out", kind)) for kind in ("even", "tangled"))
    assert {operation.skill for operation in even.operations} == set(Skill)
    assert even.text != tangled.text
