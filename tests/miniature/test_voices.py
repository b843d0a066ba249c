"""Teachers' voices: what they write, and that their mistakes are of the planted kind."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature.task import DEPTH, Label, Skill, draw_problem
from miniature.voices import PANELS, VOICES

SEEDS = st.integers(min_value=0, max_value=2**32)
NAMES = st.sampled_from(list(VOICES))


@given(SEEDS, NAMES)
def test_step_is_canonical_and_ends_in_the_label_so_far(seed: int, name: str) -> None:
    problem = draw_problem(random.Random(seed), "train")
    after = problem.advance(problem.start, 0)
    text = VOICES[name].write(problem, problem.start, after, 0)
    assert text.startswith(f"### Step 1. {problem.operations[0]}")
    assert text.endswith("\n\n") and text.count("\n") == 2
    assert Label.find_last(text) == after


@given(SEEDS, NAMES)
def test_strong_skills_are_never_wrong_and_weak_ones_only_as_planted(seed: int, name: str) -> None:
    rng = random.Random(seed)
    problem, voice = draw_problem(rng, "train"), VOICES[name]
    label = problem.start
    for step in range(DEPTH):
        operation = problem.operations[step]
        after = voice.attempt(problem, label, step, rng)
        if after != problem.advance(label, step):
            assert operation.skill not in voice.strong
            bug = voice.buggy(operation, label.register(operation.skill.register))
            assert bug == after.register(operation.skill.register)
        label = problem.advance(label, step)


def test_teachers_of_the_shared_panel_err_alike_on_two_skills_and_write_as_before() -> None:
    shared = PANELS["shared"]
    common = [
        skill
        for skill in Skill
        if len({id(voice.bugs.get(skill)) for voice in shared.values()}) == 1
    ]
    assert set(common) >= {Skill.TIMES, Skill.SHIFT} <= set(shared["alder"].bugs)
    assert all(shared[name].sentence == VOICES[name].sentence for name in VOICES)
    assert shared["birch"] == VOICES["birch"]


@pytest.mark.parametrize("name", VOICES)
def test_each_teacher_is_strong_in_three_skills(name: str) -> None:
    assert len(VOICES[name].strong) == 3


def test_each_skill_has_a_teacher_that_is_strong_in_it() -> None:
    assert frozenset[Skill]().union(*(voice.strong for voice in VOICES.values())) == frozenset(
        Skill
    )


@given(SEEDS)
def test_two_teachers_rarely_make_the_same_mistake(seed: int) -> None:
    problem = draw_problem(random.Random(seed), "train")
    for operation in problem.operations:
        value = problem.start.register(operation.skill.register)
        right = operation.apply(value)
        mistakes = [voice.buggy(operation, value) for voice in VOICES.values()]
        wrong = [bug for bug in mistakes if bug not in (None, right)]
        # On a single digit two different slips can meet by chance; codes and tags tell them apart.
        if operation.skill.register != "digit":
            assert len(wrong) == len(set(wrong))
