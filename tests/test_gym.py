"""What a text answers and what a step computes, without the extra that draws the problems."""

from __future__ import annotations

import pytest

from bench.gym import answer_in, step_kind


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{118} it is 3", "118"),
        ("The final answer is 1,118.", "1118"),
        ("\\boxed{x = -12.0}", "-12"),
        ("58 + 26 = 84", "84"),
        ("no number", None),
    ],
)
def test_the_answer_is_in_the_last_box_or_the_last_number(text: str, answer: str | None) -> None:
    assert answer_in(text) == answer


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("### Step 1. Start with the problem: 58 + 26 + 34\n\n", "hollow"),
        ("### Step 1. Write it down: 58 + 26 + 34 = ?\n\n", "hollow"),
        ("### Step 1. 26 + 34 = 60\n\n", "right"),
        ("### Step 1. Add the first two.\n58 + 26 = 84.\n\n", "right"),
        ("### Step 1. Add.\n\\( 58 \\times 2 = 116 \\), then 116 - 6 = 109\n\n", "wrong"),
        ("### Step 1. 58 + 26 + 34 = 84 + 34 = 118\n\n", "right"),
        ("### Step 1. The result is 118.\n\n", "hollow"),
        ("### Step 1. 7 - -3 = 10\n\n", "right"),
        ("### Step 2. 5 / 0 = 3\n\n", "hollow"),
    ],
)
def test_a_step_is_as_right_as_its_equations(step: str, kind: str) -> None:
    assert step_kind(step) == kind
