"""Answers that stand in a step are found, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from proxy.decoder.stated import stated_answer


@pytest.mark.parametrize(
    ("step", "answer"),
    [
        ("### Step 4. 92 + 26 = 118.\n\n### Final Answer\n\n\\boxed{118}\n\n", "\\boxed{118}"),
        ("### Step 4. so\n\n### Final Answer \\boxed{118}\n\n", "\\boxed{118}"),
        ("### Step 4. so\n#### Answer: 7 apples\n\n", "7 apples"),
        ("### Step 4. so\n\n**Final Answer:** 7\n\nThat is all.\n\n", "7\n\nThat is all."),
        ("### Step 4. so\n\n**Answer**: 7\n\n", "7"),
        ("### Step 4. Add: 92 + 26 = \\boxed{118}\n\n", "Add: 92 + 26 = \\boxed{118}"),
        ("### Step 4. so\n\nTherefore, the final answer is \\boxed{\\frac{1}{2}}.\n\n",
         "Therefore, the final answer is \\boxed{\\frac{1}{2}}."),
        ("### Step 4. so\n\nThe final answer is 118.\n\n", "The final answer is 118."),
        ("### Step 4. so\n\nSo the answer is: **118**\n\n", "So the answer is: **118**"),
        ("### Step 4. so\n\nFinal answer: 118\n\n", "Final answer: 118"),
    ],
)  # fmt: skip
def test_stated_answer_is_found(step: str, answer: str) -> None:
    assert stated_answer(step) == answer


@pytest.mark.parametrize(
    "step",
    [
        "",
        "### Step 4. 92 + 26 = 118.\n\n",
        "### Step 1. We must find the final answer.\n\n",
        "### Step 1. Put the final answer in \\boxed{}.\n\n",
        "### Step 1. It goes in \\boxed{...}\n\n",
        "### Step 1. It goes in \\boxed{answer}.\n\n",
        "### Step 1. \\boxed{118\n\n",
        "### Step 1. It was \\boxed{3} in the example.\n\nNow add 4.\n\n",
        "### Step 1. The answer is not 7.\n\n",
        "### Step 1. The answer is unknown yet.\n\n",
        "### Step 2. so\n\n### Final Answer\n\n",
        "### Step 2. so\n\n### Final Answer\n\n\\boxed{}\n\n",
        "### Step 3. Answering the question needs a sum.\n\n",
    ],
)
def test_no_answer_is_made_up(step: str) -> None:
    assert stated_answer(step) is None
