"""Segmentation: headers, canonical steps, the instruction's place, cutting whole traces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Message

CUT = Segmentation(instruction="Write steps.")


@pytest.mark.parametrize(
    ("written", "step"),
    [
        (" add 4\nWe get 7.", "### Step 2. add 4\nWe get 7.\n\n"),
        (" add 4\n\n\n", "### Step 2. add 4\n\n"),
        ("  \n", ""),
        ("", ""),
    ],
)
def test_a_canonical_step_has_its_header_and_ends_in_one_blank_line(written: str, step: str) -> None:
    assert CUT.canonical(2, written) == step


def test_a_steps_own_header_does_not_contain_the_stop_text() -> None:
    assert CUT.stop not in CUT.canonical(1, " hello")


def test_the_instruction_goes_under_the_last_user_message() -> None:
    talk = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    told = CUT.instruct(talk)
    assert [message.content for message in told] == ["s", "a", "b", "c\n\nWrite steps."]


def test_the_instruction_becomes_a_message_where_no_user_spoke() -> None:
    assert CUT.instruct((Message("system", "s"),))[-1] == Message("user", "Write steps.")


def test_an_empty_instruction_changes_nothing() -> None:
    talk = (Message("user", "a"),)
    assert Segmentation(instruction="").instruct(talk) == talk


@given(st.lists(st.text("ab .#\n", min_size=1).filter(str.strip).filter(lambda t: "### Step" not in t), max_size=5))
def test_canonical_reasoning_is_cut_back_into_its_steps(bodies: list[str]) -> None:
    steps = [CUT.canonical(depth, f" {body}") for depth, body in enumerate(bodies, 1)]
    assert list(CUT.split("".join(steps))) == steps
