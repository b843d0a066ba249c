"""The search loop over scripted teachers and scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import anyio
import pytest

from proxy.decoder.bandit import Bandit
from proxy.decoder.events import (
    AnswerDelta,
    Cancelled,
    Committed,
    Event,
    Failed,
    Finished,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    Started,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.ports import OnText
from proxy.decoder.search import search
from proxy.decoder.settings import Budget, Sampling, Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.strategies import STRATEGIES
from proxy.decoder.types import Continuation, Message, Problem, Result, TeacherRequest
from proxy.errors import ScorerError, SearchError, TeacherError
from tests.decoder.scripted import Script, ScriptedScorer, ScriptedTeacher, counts_to, says

pytestmark = pytest.mark.anyio

PROBLEM = Problem("p", (Message("user", "What is it?"),), references=("forty-two",), stop=("STOP",))
CUT = Segmentation(instruction="Write steps.")
SETTINGS = Settings(score="predictive", beam_width=2)


async def decode(
    teachers: Sequence[ScriptedTeacher], scorer: ScriptedScorer, settings: Settings = SETTINGS
) -> tuple[Result, list[Event]]:
    events: list[Event] = []
    result = await search(PROBLEM, teachers, scorer, settings, CUT, events.append)
    return result, events


def prefers(mark: str) -> ScriptedScorer:
    return ScriptedScorer(lambda prefix, step: -1.0 + 0.1 * (prefix + step).count(mark))


def of(kind: type, events: Sequence[Event]) -> list:  # type: ignore[type-arg]
    return [event for event in events if isinstance(event, kind)]


async def test_the_best_scored_step_wins_at_every_depth() -> None:
    good, bad = (
        ScriptedTeacher("good", counts_to(3, "g")),
        ScriptedTeacher("bad", counts_to(3, "b")),
    )
    result, events = await decode([bad, good], prefers("g"))
    assert result.winner.text == "### Step 1. g1\n\n### Step 2. g2\n\n### Step 3. g3\n\n"
    assert (result.answer, result.answerer, result.finish_reason, result.stopped) == (
        "answer by g\n", "good", "stop", "closed",
    )  # fmt: skip
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert [event.candidate.id for event in of(Committed, events)] == list(result.winner.path)


async def test_every_teacher_proposes_under_every_prefix() -> None:
    teachers = [ScriptedTeacher(name, counts_to(2, name)) for name in "abc"]
    _, events = await decode(teachers, prefers("a"), replace(SETTINGS, beam_width=2, samples=2))
    asked = of(ProposalRequested, events)
    assert [event.id for event in asked] == list(range(6 + 12))
    assert sorted({(event.parent, event.teacher) for event in asked if event.depth == 2}) == sorted(
        (parent, teacher) for parent in of(StepDecided, events)[0].beam for teacher in "abc"
    )


async def test_teachers_are_told_to_write_steps_and_never_see_the_reference() -> None:
    teacher = ScriptedTeacher("t", counts_to(2, "x"))
    await decode([teacher], prefers("x"))
    first, second, answer = teacher.history
    assert first.messages[-1].content == "What is it?\n\nWrite steps."
    assert (first.reasoning, second.reasoning) == ("### Step 1.", "### Step 1. x1\n\n### Step 2.")
    assert first.stop[0] == "\n### Step" and answer.stop == ("STOP",)
    assert (first.answer, answer.answer) == (None, "")
    assert "forty-two" not in repr(teacher.history)


async def test_the_scorer_sees_the_clients_words_and_not_the_instruction() -> None:
    scorer = prefers("x")
    await decode([ScriptedTeacher("t", counts_to(1, "x"))], scorer)
    assert scorer.history == [(PROBLEM, "", "### Step 1. x1\n\n", "predictive")]


async def test_every_call_gets_a_seed_of_its_own_and_the_same_on_every_run() -> None:
    seeds = []
    for _ in range(2):
        teachers = [ScriptedTeacher(name, counts_to(3, name)) for name in "ab"]
        await decode(teachers, prefers("a"))
        seeds.append([ask.seed for teacher in teachers for ask in teacher.history])
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])


async def test_a_failing_teacher_is_an_event_and_the_others_go_on() -> None:
    def fails(ask: TeacherRequest) -> Exception:
        return TeacherError("dead", "unreachable", "connection refused")

    result, events = await decode(
        [ScriptedTeacher("dead", fails), ScriptedTeacher("t", counts_to(2, "x"))], prefers("x")
    )
    assert result.answerer == "t"
    assert {(event.teacher, event.kind) for event in of(TeacherFailed, events)} == {
        ("dead", "unreachable")
    }


async def test_when_all_teachers_fail_the_search_names_each_reason() -> None:
    def dead(name: str) -> Script:
        return lambda ask: TeacherError(name, "timeout", "too slow")

    events: list[Event] = []
    with pytest.raises(SearchError, match="a: too slow; b: too slow") as caught:
        await search(
            PROBLEM, [ScriptedTeacher(n, dead(n)) for n in "ab"], prefers("x"), SETTINGS, CUT, events.append
        )  # fmt: skip
    assert caught.value.kind == "no_candidates"
    assert events[-1] == Failed("no_candidates", str(caught.value))


def falls_silent(after: int, name: str) -> Script:
    """Writes steps up to `after`, then closes its thinking and says nothing."""

    def script(ask: TeacherRequest) -> Continuation:
        depth = ask.reasoning.count("### Step")
        if ask.answer is not None:
            return Continuation("answer", "eos", 1, 1)
        return (
            Continuation(f" {name}{depth}", "marker", 1, 1)
            if depth <= after
            else Continuation("", "closed", 1, 0)
        )

    return script


async def test_reasoning_is_complete_when_half_of_the_teachers_have_nothing_to_add() -> None:
    quiet, talker = (
        ScriptedTeacher("quiet", falls_silent(1, "q")),
        ScriptedTeacher("talker", counts_to(9, "t")),
    )
    result, events = await decode([quiet, talker], prefers("q"), replace(SETTINGS, beam_width=1))
    assert (result.winner.text, result.stopped) == ("### Step 1. q1\n\n", "closed")
    assert [event.reason for event in of(Pruned, events) if event.id > 1] == ["empty", "rank"]


async def test_one_silent_teacher_of_three_does_not_end_the_reasoning() -> None:
    quiet = ScriptedTeacher("quiet", falls_silent(1, "q"))
    talkers = [ScriptedTeacher(name, counts_to(3, name)) for name in "ab"]
    result, _ = await decode([quiet, *talkers], prefers("a"), replace(SETTINGS, beam_width=1))
    assert len(result.winner.candidates) == 3


async def test_silence_before_the_first_step_is_no_reasoning() -> None:
    with pytest.raises(SearchError) as caught:
        await decode([ScriptedTeacher("quiet", falls_silent(0, "q"))], prefers("q"))
    assert caught.value.kind == "no_candidates"


async def test_a_proposal_depends_on_its_prefix_and_teacher_alone() -> None:
    """Neither the width of the beam nor who else is asked changes what a teacher is asked, seed included."""
    asked = []
    for panel, width in (("a", 1), ("ab", 3)):
        teachers = [ScriptedTeacher(name, counts_to(2, name)) for name in panel]
        await decode(teachers, prefers("a"), replace(SETTINGS, beam_width=width))
        asked.append({ask for ask in teachers[0].history if ask.answer is None})
    assert asked[0] < asked[1]


async def test_a_failing_scorer_ends_the_search_with_its_own_error() -> None:
    def judge(prefix: str, step: str) -> float:
        raise ScorerError("unavailable", "no scorer")

    events: list[Event] = []
    with pytest.raises(ScorerError, match="no scorer"):
        await search(
            PROBLEM,
            [ScriptedTeacher("t", counts_to(2))],
            ScriptedScorer(judge),
            SETTINGS,
            CUT,
            events.append,
        )
    assert events[-1] == Failed("unavailable", "no scorer")


async def test_a_bug_in_a_teacher_flies_and_is_recorded_as_internal() -> None:
    def bug(ask: TeacherRequest) -> Exception:
        return ZeroDivisionError("oops")

    events: list[Event] = []
    with pytest.raises(BaseExceptionGroup) as caught:
        await search(
            PROBLEM, [ScriptedTeacher("t", bug)], prefers("x"), SETTINGS, CUT, events.append
        )
    assert caught.value.subgroup(ZeroDivisionError) is not None
    assert isinstance(events[-1], Failed) and events[-1].kind == "internal"


async def test_equal_steps_of_two_teachers_are_scored_once() -> None:
    scorer = prefers("x")
    _, events = await decode([ScriptedTeacher(name, counts_to(1, "x")) for name in "ab"], scorer)
    assert len(scorer.history) == len(of(Scored, events)) == 1
    assert [event.reason for event in of(Pruned, events)] == ["duplicate"]


async def test_a_step_that_says_nothing_is_dropped_unscored() -> None:
    scorer = prefers("x")
    silent = ScriptedTeacher("silent", lambda ask: says("  \n"))
    _, events = await decode([silent, ScriptedTeacher("t", counts_to(1, "x"))], scorer)
    assert [event.reason for event in of(Pruned, events)] == ["empty"] and len(scorer.history) == 1


async def test_a_straggler_is_left_behind_once_the_quorum_is_scored() -> None:
    cancelled = anyio.Event()

    async def hangs() -> Continuation:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    slow = ScriptedTeacher("slow", lambda ask: hangs())
    fast = [ScriptedTeacher(name, counts_to(1, name)) for name in "abc"]
    settings = replace(SETTINGS, quorum=0.75, patience_s=0.0)
    result, events = await decode([slow, *fast], prefers("a"), settings)
    assert cancelled.is_set() and result.answerer == "a"
    assert [(event.teacher, event.kind) for event in of(TeacherFailed, events)] == [
        ("slow", "straggler")
    ]


async def test_a_straggler_within_the_patience_still_counts() -> None:
    others_scored = anyio.Event()

    async def late() -> Continuation:
        await others_scored.wait()
        return says(" late", "closed")

    def judge(prefix: str, step: str) -> float:
        others_scored.set()
        return -0.1 if "late" in step else -1.0

    slow = ScriptedTeacher(
        "slow", lambda ask: late() if ask.answer is None else says("done", "eos")
    )
    settings = replace(SETTINGS, quorum=0.5, patience_s=60.0)
    result, _ = await decode(
        [slow, ScriptedTeacher("fast", counts_to(1, "f"))], ScriptedScorer(judge), settings
    )
    assert result.answerer == "slow"


async def test_a_repetition_does_not_make_the_one_it_repeats_a_straggler() -> None:
    teachers = [ScriptedTeacher(name, counts_to(2, "same")) for name in "abc"]
    hasty = replace(SETTINGS, quorum=0.0, patience_s=0.0)
    result, _ = await decode(teachers, prefers("same"), hasty)
    assert result.answer


@dataclass
class Slow(ScriptedTeacher):
    """A teacher that writes a step of many words, and lets the others run after each."""

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        words = [f" word-{i}" for i in range(30)] if ask.answer is None else ["done"]
        for word in words:
            if on_text is not None:
                on_text(word)
            await anyio.wait_all_tasks_blocked()
        return says("".join(words), "closed")


@pytest.mark.parametrize("ahead", [True, False])
async def test_the_scorer_reads_a_step_while_it_is_written_if_asked_to(ahead: bool) -> None:
    scorer = prefers("word")
    await decode(
        [Slow("slow", counts_to(1))], scorer, replace(SETTINGS, prefill_partial_steps=ahead)
    )
    [(_, prefix, step, _)] = scorer.history
    assert bool(scorer.prefill_partial_steps) == ahead
    for at, begun in scorer.prefill_partial_steps:
        assert at == prefix and step.startswith(begun + " ")
    assert all(len(b) - len(a) >= 64 for (_, a), (_, b) in pairwise(scorer.prefill_partial_steps))


async def test_cancelling_reaches_every_branch_and_is_recorded() -> None:
    started, stopped = anyio.Event(), []

    async def hangs() -> Continuation:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(True)

    events: list[Event] = []
    teachers = [ScriptedTeacher(name, lambda ask: hangs()) for name in "ab"]
    async with anyio.create_task_group() as group:
        group.start_soon(search, PROBLEM, teachers, prefers("x"), SETTINGS, CUT, events.append)
        await started.wait()
        group.cancel_scope.cancel()
    assert stopped == [True, True]
    assert events[-1] == Cancelled()


async def test_a_deadline_answers_from_the_best_trajectory_so_far() -> None:
    async def hangs() -> Continuation:
        await anyio.sleep_forever()
        raise AssertionError

    def script(ask: TeacherRequest) -> Continuation:
        if ask.answer is not None:
            return says("in time", "eos")
        return says(" one") if ask.reasoning.endswith("1.") else hangs()  # type: ignore[return-value]

    settings = replace(SETTINGS, budget=Budget(deadline_s=0.5))
    result, _ = await decode([ScriptedTeacher("t", script)], prefers("x"), settings)
    assert (result.winner.text, result.stopped, result.answer) == (
        "### Step 1. one\n\n",
        "deadline",
        "in time",
    )


async def test_a_deadline_before_the_first_step_is_an_error() -> None:
    async def hangs() -> Continuation:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(SearchError) as caught:
        settings = replace(SETTINGS, budget=Budget(deadline_s=0.0))
        await decode([ScriptedTeacher("t", lambda ask: hangs())], prefers("x"), settings)
    assert caught.value.kind == "deadline"


@pytest.mark.parametrize(
    ("budget", "steps", "stopped"),
    [
        (Budget(steps=3), 3, "steps"),
        (Budget(reasoning_tokens=12), 3, "tokens"),
        (Budget(total_tokens=12), 3, "tokens"),
    ],
)
async def test_a_spent_budget_ends_the_reasoning(budget: Budget, steps: int, stopped: str) -> None:
    result, _ = await decode(
        [ScriptedTeacher("t", counts_to(99, "x"))], prefers("x"), replace(SETTINGS, budget=budget)
    )
    assert (len(result.winner.candidates), result.stopped) == (steps, stopped)


async def test_tokens_left_bound_each_call_and_none_left_ends_with_length() -> None:
    teacher = ScriptedTeacher("t", counts_to(99, "x"))
    budget = Budget(step_tokens=8, total_tokens=12)
    result, _ = await decode([teacher], prefers("x"), replace(SETTINGS, budget=budget))
    assert [ask.max_tokens for ask in teacher.history] == [8, 7, 2]
    assert (result.answer, result.finish_reason) == ("", "length")


async def test_a_finished_hypothesis_waits_for_better_ones_still_growing() -> None:
    """The early closer leads at first; a beam that keeps thinking overtakes it."""
    early, late = (
        ScriptedTeacher("early", counts_to(1, "e")),
        ScriptedTeacher("late", counts_to(3, "l")),
    )
    scorer = ScriptedScorer(
        lambda prefix, step: -0.5 if "e1" in step else -1.0 + 0.45 * (prefix + step).count("l")
    )
    result, _ = await decode([early, late], scorer)
    assert result.winner.text.count("### Step") >= 2


async def test_steps_are_committed_when_the_beam_converges_and_never_retracted() -> None:
    teachers = [ScriptedTeacher(name, counts_to(4, name)) for name in "ab"]
    # Step 1 of either survives; from step 2 on only what grew from a's first step does.
    scorer = ScriptedScorer(
        lambda prefix, step: -0.1 if prefix.startswith("### Step 1. a") or not prefix else -5.0
    )
    result, events = await decode(teachers, scorer)
    kinds = [event for event in events if isinstance(event, StepDecided | Committed)]
    first = next(i for i, event in enumerate(kinds) if isinstance(event, Committed))
    assert isinstance(kinds[first - 1], StepDecided) and kinds[first - 1].depth == 2
    assert [event.candidate.id for event in of(Committed, events)] == list(result.winner.path)


async def test_the_lag_commits_the_best_beams_choice_before_the_search_ends() -> None:
    teachers = [ScriptedTeacher(name, counts_to(4, name)) for name in "ab"]
    scorer = ScriptedScorer(
        lambda prefix, step: -0.1 - (0.01 if (prefix + step).startswith("### Step 1. b") else 0)
    )
    _, events = await decode(teachers, scorer, replace(SETTINGS, commit_lag=1, diversity=1.0))
    assert any(event.reason == "lag" for event in of(Pruned, events))
    committed = next(i for i, event in enumerate(events) if isinstance(event, Committed))
    last_asked = max(i for i, event in enumerate(events) if isinstance(event, ProposalRequested))
    assert committed < last_asked


@pytest.mark.parametrize(
    ("ended", "step", "answer"),
    [
        (
            "eos",
            " 58 + 60 = 118. The final answer is \\boxed{118}",
            "58 + 60 = 118. The final answer is \\boxed{118}",
        ),
        ("eos", " So we add 58 and 60.", "written"),
        ("closed", " The final answer is \\boxed{118}", "written"),
    ],
)
async def test_an_answer_that_the_last_step_states_is_not_written_again(
    ended: str, step: str, answer: str
) -> None:
    def script(request: TeacherRequest) -> Continuation:
        return says("written", "eos") if request.answer is not None else says(step, ended)

    plain = replace(PROBLEM, stop=())
    events: list[Event] = []
    teacher = ScriptedTeacher("t", script)
    result = await search(plain, [teacher], prefers("x"), SETTINGS, CUT, events.append)
    assert result.answer == answer
    assert "".join(event.text for event in of(AnswerDelta, events)) == answer
    assert (len(teacher.history) == 1) == (answer != "written")


async def test_the_answer_is_written_by_the_configured_teacher() -> None:
    closer, writer = (
        ScriptedTeacher("closer", counts_to(1, "c")),
        ScriptedTeacher("writer", counts_to(9, "w")),
    )
    result, _ = await decode([closer, writer], prefers("c"), replace(SETTINGS, answerer="writer"))
    assert result.answerer == "writer"
    assert writer.history[-1].reasoning == "### Step 1. c1\n\n"


async def test_another_teacher_answers_when_the_first_fails_silently() -> None:
    def script(ask: TeacherRequest) -> Continuation | Exception:
        return (
            TeacherError("t", "timeout", "gone")
            if ask.answer is not None
            else says(" best", "closed")
        )

    result, events = await decode(
        [ScriptedTeacher("t", script), ScriptedTeacher("u", counts_to(1, "u"))], prefers("best")
    )
    assert result.answerer == "u"
    assert of(TeacherFailed, events)[-1] == TeacherFailed(None, "t", "timeout", "t: gone")


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
async def test_every_strategy_finds_an_answer(strategy: str) -> None:
    teachers = [ScriptedTeacher(name, counts_to(3, name)) for name in "ab"]
    result, events = await decode(teachers, prefers("a"), replace(SETTINGS, strategy=strategy))
    assert result.answer and result.winner.closed
    assert bool(of(Scored, events)) == (STRATEGIES[strategy].rank == "score")


async def test_curation_asks_for_whole_traces_and_keeps_the_best() -> None:
    def whole(mark: str) -> Script:
        def script(ask: TeacherRequest) -> Continuation:
            assert ask.answer is not None or ask.stop == ()
            return (
                says(mark, "eos")
                if ask.answer is not None
                else says(f" {mark}1\n\n### Step 2. {mark}2", "closed")
            )

        return script

    teachers = [ScriptedTeacher(name, whole(name)) for name in "ab"]
    result, events = await decode(teachers, prefers("b"), replace(SETTINGS, strategy="curation"))
    assert result.winner.text == "### Step 1. b1\n\n### Step 2. b2\n\n"
    assert len(of(Proposed, events)) == 2


async def test_longest_keeps_the_longest_step_and_random_depends_on_the_seed() -> None:
    teachers = [ScriptedTeacher(name, counts_to(3, name)) for name in ("a", "much longer")]
    result, _ = await decode(teachers, prefers("a"), replace(SETTINGS, strategy="longest"))
    assert {candidate.teacher for candidate in result.winner.candidates} == {"much longer"}
    texts = set()
    for seed in range(8):
        settings = replace(SETTINGS, strategy="random", sampling=Sampling(seed=seed))
        result, _ = await decode(teachers, prefers("a"), settings)
        again, _ = await decode(teachers, prefers("a"), settings)
        assert result.winner.text == again.winner.text
        texts.add(result.winner.text)
    assert len(texts) > 1


async def test_a_blend_scores_every_step_by_each_of_its_parts() -> None:
    """Either score alone would have chosen another teacher."""
    judges = {
        "safe": lambda prefix, step: {"a": -3.0, "b": -1.1, "c": -1.0}[step[-4]],
        "bold": lambda prefix, step: {"a": -10.0, "b": -11.0, "c": -30.0}[step[-4]],
    }
    scorer = ScriptedScorer(lambda prefix, step: 0.0, judges=judges)
    teachers = [ScriptedTeacher(mark, counts_to(1, mark)) for mark in "abc"]
    result, events = await decode(teachers, scorer, replace(SETTINGS, score="safe + bold"))
    assert result.winner.candidates[0].teacher == "b"
    assert [
        (event.score.objective, event.score.blended[0].objective) for event in of(Scored, events)
    ] == [("safe", "bold")] * 3
    assert result.value == -1.1


async def test_a_consensus_weighs_each_step_by_what_the_others_would_answer() -> None:
    elicited = {"a": ("four",), "b": ("four",), "c": ("five",)}
    scorer = ScriptedScorer(
        lambda prefix, step: scorer.pools[prefix + step].get("four", 0.0),
        elicits=lambda reasoning: elicited[reasoning[-4]],
    )
    teachers = [ScriptedTeacher(mark, counts_to(1, mark)) for mark in "abc"]
    result, events = await decode(
        teachers, scorer, replace(SETTINGS, score="consensus", beam_width=1)
    )
    assert scorer.pools == {
        "### Step 1. a1\n\n": {"four": 0.5, "five": 0.5},
        "### Step 1. b1\n\n": {"four": 0.5, "five": 0.5},
        "### Step 1. c1\n\n": {"four": 1.0},
    }
    assert result.winner.candidates[0].teacher == "c"
    assert [event.score.tokens_forwarded for event in of(Scored, events)] == [7, 7, 7], (
        "elicited answers are read, too"
    )


async def test_a_scorer_that_fails_at_the_consensus_ends_the_search() -> None:
    def judge(prefix: str, step: str) -> float:
        raise ScorerError("unavailable", "gone")

    scorer = ScriptedScorer(judge, elicits=lambda reasoning: ("x",))
    with pytest.raises(ScorerError, match="gone"):
        await decode(
            [ScriptedTeacher("t", counts_to(2, "t"))], scorer, replace(SETTINGS, score="consensus")
        )


async def test_an_adaptive_search_stops_asking_who_never_wins_and_says_so() -> None:
    bandit = Bandit()
    settings = replace(SETTINGS, adaptive=True, exploration=0.0, beam_width=1)
    calls: list[int] = []
    for seed in range(40):
        good, bad = (
            ScriptedTeacher("good", counts_to(2, "g")),
            ScriptedTeacher("bad", counts_to(2, "b")),
        )
        events: list[Event] = []
        seeded = replace(settings, sampling=Sampling(seed=seed))
        await search(PROBLEM, [good, bad], prefers("g"), seeded, CUT, events.append, bandit)
        calls.append(len(bad.history))
        assert len(of(TeacherSkipped, events)) == 2 - len(of(ProposalRequested, events)) + 2
    assert sum(calls[:10]) > sum(calls[-10:]) <= 2


async def test_exploration_keeps_asking_everyone_now_and_then() -> None:
    bandit = Bandit()
    for _ in range(200):
        bandit.learn("good", 1, True, 10)
        bandit.learn("bad", 1, False, 10)
    asked = [bandit.choose(["good", "bad"], 1, seed, 0.2) for seed in range(300)]
    assert all("good" in one for one in asked)
    assert 30 < sum("bad" in one for one in asked) < 90


async def test_a_dear_teacher_must_win_more_often() -> None:
    bandit = Bandit(thrift=1.0)
    for turn in range(200):
        bandit.learn("cheap", 1, turn % 2 == 0, 10)
        bandit.learn("dear", 1, turn % 2 == 0, 100)
    asked = [bandit.choose(["cheap", "dear"], 1, seed, 0.0) for seed in range(50)]
    assert all(one == {"cheap"} for one in asked)
    assert all(
        one == {"cheap", "dear"}
        for one in (bandit.choose(["cheap", "dear"], 9, s, 1.0) for s in range(9))
    )
