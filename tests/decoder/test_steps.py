"""Segmentation: headers, canonical steps, the instruction's place."""

from __future__ import annotations

import pytest

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
    [stop] = CUT.stops
    assert stop not in CUT.canonical(1, " hello")


def test_a_paragraph_is_a_step_without_a_header() -> None:
    cut = Segmentation(cut="blank-line")
    assert cut.stops == ("\n\n",) and cut.header(2) == ""
    assert cut.canonical(2, "\nadd 4\n") == "add 4\n\n"
    assert cut.canonical(2, "\n \n") == ""


def test_a_cue_word_ends_a_step_only_at_the_head_of_a_paragraph() -> None:
    cut = Segmentation(cut="cue-word", cues=("Wait", "So"))
    assert cut.stops == ("\n\nWait", "\n\nSo")
    assert not any(stop in "I add 4. So we get 7.\nWait" for stop in cut.stops)


def test_the_instruction_goes_under_the_last_user_message() -> None:
    talk = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    told = CUT.instruct(talk)
    assert [message.content for message in told] == ["s", "a", "b", "c\n\nWrite steps."]


def test_the_instruction_becomes_a_message_where_no_user_spoke() -> None:
    assert CUT.instruct((Message("system", "s"),))[-1] == Message("user", "Write steps.")


def test_an_empty_instruction_changes_nothing() -> None:
    talk = (Message("user", "a"),)
    assert Segmentation(instruction="").instruct(talk) == talk
