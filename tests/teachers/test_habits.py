"""The cut that an ensemble's teachers keep is found out, and short paragraphs make steps of a sensible length."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from proxy.decoder.steps import INSTRUCTIONS, Cut, Segmentation, shared_cut
from proxy.decoder.types import Continuation, Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.compatible import PROVIDERS, CompatibleTeacher
from proxy.teachers.guard import GuardedTeacher, Limits
from proxy.teachers.habits import cuts_in
from proxy.teachers.template import ChatTemplate
from serving.app import build_app
from serving.engine import GenerationEngine
from tests.decoder.scripted import ScriptedTeacher, says

pytestmark = pytest.mark.anyio

CHECKPOINTS = Path(__file__).parents[2] / "miniature" / "checkpoints"
MARKED = "### Step 1. Pens: 12.\n\n### Step 2. Books: 24.\n\n### Step 3. Back: 14."
PARAGRAPHS = "### Step 1. Pens cost 12.\n\nBooks cost 24.\n\nThat makes 36."
CUED = "### Step 1. Pens cost 12.\n\nWait, 4 pens.\n\nSo 12 it is.\n\nNow books."
ONE = "### Step 1. Pens cost 12 and books 24, so 14 come back."


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        (MARKED, {"marker", "blank-line"}),
        (MARKED.replace("\n\n", "\n"), {"marker"}),
        (PARAGRAPHS, {"blank-line"}),
        (CUED, {"blank-line", "cue-word"}),
        (ONE, set()),
    ],
)
def test_cuts_are_read_off_a_text(text: str, cuts: set[Cut]) -> None:
    assert cuts_in(text, Segmentation()) == cuts


@pytest.mark.parametrize(
    ("kept", "cut"),
    [
        ([], "marker"),
        ([{"marker", "blank-line"}, {"marker"}], "marker"),
        ([{"marker", "blank-line"}, {"blank-line"}], "blank-line"),
        ([{"blank-line", "cue-word"}, {"blank-line", "cue-word"}], "cue-word"),
        ([{"blank-line", "cue-word"}, {"blank-line"}, set()], "blank-line"),
        ([{"marker"}, {"blank-line"}], "marker"),
        ([set(), set()], "marker"),
    ],
)
def test_ensemble_is_cut_by_the_best_that_all_keep(kept: list[set[Cut]], cut: Cut) -> None:
    assert shared_cut(kept) == cut


def test_segmentation_by_another_cut_says_so_to_teachers() -> None:
    marked = Segmentation()
    assert marked.by("marker", 120) is marked
    other = marked.by("blank-line", 120)
    assert (other.cut, other.instruction, other.min_step_chars) == (
        "blank-line",
        INSTRUCTIONS["blank-line"],
        120,
    )
    assert other.header(3) == ""


def goes_on(text: str, ended: str = "eos") -> ScriptedTeacher:
    """Writes this text, whatever it is asked, from where it is asked to go on."""

    def reply(ask: TeacherRequest) -> Continuation:
        if "the months" in ask.messages[0].content:
            days = "### Step 1. Monday Tuesday Wednesday Thursday Friday Saturday Sunday January"
            return says(days.removeprefix(ask.reasoning), "length")
        return says(text.removeprefix(ask.reasoning), ended)

    return ScriptedTeacher("t", reply)


@pytest.mark.parametrize(
    ("text", "ended", "kept", "note"),
    [(MARKED, "eos", {"marker", "blank-line"}, ""), (PARAGRAPHS, "eos", {"blank-line"}, "can be cut by blank-line"),
     (ONE, "length", set(), "falls in no steps"), (ONE, "eos", set(), "")],
)  # fmt: skip
async def test_examination_finds_a_teachers_habits(
    text: str, ended: str, kept: set[Cut], note: str, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = GuardedTeacher(goes_on(text, ended), Limits())
    with caplog.at_level(logging.WARNING):
        assert await teacher.examine(Segmentation(), learn_cuts=True) is None
    assert teacher.kept_cuts == kept and note in teacher.note
    assert bool(caplog.records) is bool(note)


async def test_habits_are_not_looked_for_unless_asked() -> None:
    scripted = goes_on(PARAGRAPHS)
    teacher = GuardedTeacher(scripted, Limits())
    await teacher.examine(Segmentation())
    assert (teacher.kept_cuts, teacher.note, len(scripted.history)) == (frozenset(), "", 2)


@pytest.mark.parametrize("name", ["alder", "birch", "cedar"])
async def test_embedded_teachers_are_cut_by_their_headers(name: str) -> None:
    engine = GenerationEngine.load(CHECKPOINTS / name, device="cpu")
    transport = httpx.ASGITransport(app=build_app(engine, name))
    async with httpx.AsyncClient(transport=transport, base_url="http://t/v1/") as client:
        template = ChatTemplate.load(str(CHECKPOINTS / name))
        teacher = GuardedTeacher(
            CompatibleTeacher(name, name, client, template, PROVIDERS["local"]), Limits()
        )
        await teacher.examine(Segmentation(), learn_cuts=True)
    engine.close()
    assert shared_cut([teacher.kept_cuts]) == "marker" and not teacher.note


def step(min_chars: int, max_tokens: int = 100) -> TeacherRequest:
    return TeacherRequest(
        (Message("user", "Q"),),
        "Before.\n\n",
        None,
        ("\n\n",),
        max_tokens,
        0.0,
        1.0,
        0,
        min_chars=min_chars,
    )


def writes(*parts: Continuation | TeacherError) -> ScriptedTeacher:
    said = iter(parts)
    return ScriptedTeacher("t", lambda ask: next(said))


@pytest.mark.parametrize("heard", [False, True])
async def test_short_paragraphs_are_joined_into_one_step(heard: bool) -> None:
    scripted = writes(
        says("Pens."), says("Four of them."), says("They cost 12 coins."), says("never asked for")
    )
    pieces: list[str] = []
    written = await GuardedTeacher(scripted, Limits()).write(
        step(30), pieces.append if heard else None
    )
    assert (
        written.text == "Pens.\n\nFour of them.\n\nThey cost 12 coins."
        and written.ended == "marker"
    )
    assert (written.prompt_tokens, written.completion_tokens) == (21, 15)
    assert [ask.reasoning for ask in scripted.history] == [
        "Before.\n\n", "Before.\n\nPens.\n\n", "Before.\n\nPens.\n\nFour of them.\n\n",
    ]  # fmt: skip
    assert [ask.max_tokens for ask in scripted.history] == [100, 95, 90]
    if heard:
        assert "".join(pieces) == written.text


@pytest.mark.parametrize(
    ("parts", "min_chars", "max_tokens", "text", "ended"),
    [
        ([says("Pens.")], 0, 100, "Pens.", "marker"),
        ([says("Pens.", "closed")], 99, 100, "Pens.", "closed"),
        ([says("Pens."), says("So 12.", "eos")], 99, 100, "Pens.\n\nSo 12.", "eos"),
        ([says("Pens."), says("", "closed")], 99, 100, "Pens.\n\n", "closed"),
        ([says("Pens."), says("", "marker")], 99, 100, "Pens.\n\n", "marker"),
        ([says("Pens.")], 99, 5, "Pens.", "marker"),
        ([says("")], 99, 100, "", "marker"),
    ],
    ids=[
        "no least length",
        "thinking closed",
        "turn ended",
        "closed at once",
        "nothing more",
        "out of tokens",
        "empty",
    ],
)
async def test_joining_ends_where_there_is_no_more(
    parts: list[Continuation], min_chars: int, max_tokens: int, text: str, ended: str
) -> None:
    written = await GuardedTeacher(writes(*parts), Limits()).write(step(min_chars, max_tokens))
    assert (written.text, written.ended) == (text, ended)


async def test_failure_while_joining_fails_the_step() -> None:
    teacher = GuardedTeacher(writes(says("Pens."), TeacherError("t", "broken", "down")), Limits())
    with pytest.raises(TeacherError):
        await teacher.write(step(99))
