"""Segmentation: headers, canonical steps, the instruction's place."""

from __future__ import annotations

import pytest

from proxy.decoder.steps import Segmentation, tell_heading
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
def test_a_canonical_step_has_its_header_and_ends_in_one_blank_line(
    written: str, step: str
) -> None:
    assert CUT.canonical(2, written) == step


@pytest.mark.parametrize("marker", ["### Step", "# Phase", "Step", "**Step", "#### S"])
def test_steps_own_header_contains_no_stop_text(marker: str) -> None:
    cut = Segmentation(marker=marker)
    assert not any(stop in cut.canonical(1, " hello") for stop in cut.stops)
    assert any(
        (cut.canonical(1, " hello") + cut.canonical(2, "x")).find(stop) > 0 for stop in cut.stops
    )


@pytest.mark.parametrize(
    "heading",
    [
        "### Step 2.",
        "## Step 2",
        "# Step 2",
        "#### Step 2",
        "#### 25 *",
        "##### b",
        "Step 2:",
        "Step 9.",
        "**Step 2:**",
    ],
)
def test_heading_that_looks_like_a_step_ends_one(heading: str) -> None:
    text = f" add 4.\n{heading} add 5."
    assert min(text.find(stop) for stop in CUT.stops if stop in text) == len(" add 4.")


@pytest.mark.parametrize(
    "line", ["### Answer", "## Given", "Step back a little", "4 #### 5", "Steps 2 and 3"]
)
def test_other_lines_end_no_step(line: str) -> None:
    assert not any(stop in f" add 4.\n{line}\nmore" for stop in CUT.stops)


def test_models_that_head_their_answer_are_told_of_the_heading() -> None:
    default = Segmentation()
    [told] = tell_heading(default.instruct((Message("user", "a"),)), "### Answer")
    assert "write the line `### Answer` and under it the final answer; put a short" in told.content
    own = CUT.instruct((Message("user", "a"),))
    assert tell_heading(own, "### Answer") == own


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
    talk = (
        Message("system", "s"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "c"),
    )
    told = CUT.instruct(talk)
    assert [message.content for message in told] == ["s", "a", "b", "c\n\nWrite steps."]


def test_the_instruction_becomes_a_message_where_no_user_spoke() -> None:
    assert CUT.instruct((Message("system", "s"),))[-1] == Message("user", "Write steps.")


def test_an_empty_instruction_changes_nothing() -> None:
    talk = (Message("user", "a"),)
    assert Segmentation(instruction="").instruct(talk) == talk
