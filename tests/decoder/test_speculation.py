"""Speculation changes when things are known and never what: the same search with it and without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.simulated import SimulatedScorer, SimulatedTeacher, Texts
from proxy.decoder.events import (
    Committed,
    Event,
    Finished,
    ProposalCancelled,
    ProposalRequested,
    Proposed,
    Pruned,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.ports import OnText
from proxy.decoder.search import search
from proxy.decoder.settings import Budget, Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Candidate, Continuation, Message, Problem, TeacherRequest
from proxy.errors import SearchError

PROBLEM = Problem("p", (Message("user", "What is it?"),), references=("42",))
ALL_ARE_WAITED_FOR = {"quorum": 1.0}


@dataclass
class Run:
    """One search in virtual time."""

    events: list[Event]
    seconds: float
    teachers: list[SimulatedTeacher]
    error: str | None

    def texts(self, ids: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
        """What candidates said, and who said it: their ids depend on timing."""
        return tuple((self.written[id].teacher, self.written[id].text) for id in ids)

    @property
    def written(self) -> dict[int, Candidate]:
        found = [event.candidate for event in self.events if isinstance(event, Proposed)]
        return {candidate.id: candidate for candidate in found}

    @property
    def told(self) -> list[Any]:
        """What is final, in order, without ids."""
        final: list[Any] = [self.error]
        for event in self.events:
            match event:
                case StepDecided(depth, beam, finished):
                    final.append((depth, self.texts(beam), self.texts(finished)))
                case Committed(candidate):
                    final.append(candidate.text)
                case Finished(result):
                    final.append((result.winner.text, result.value, result.stopped, result.answer))
        return final


def run(
    texts: Texts,
    chosen: Settings,
    grain: float = 0.0,
    teachers: int = 3,
    panel: Sequence[SimulatedTeacher] | None = None,
) -> Run:
    """Search on a clock that jumps to the next thing that happens."""
    panel = panel or [
        SimulatedTeacher(f"t{i}", texts, 60.0 - 7 * i, slowed=0) for i in range(teachers)
    ]
    events: list[Event] = []
    error: list[str] = []
    cut = Segmentation(instruction="")

    async def decode() -> float:
        began = anyio.current_time()
        try:
            await search(PROBLEM, panel, SimulatedScorer(grain=grain), chosen, cut, events.append)
        except SearchError as exc:
            error.append(str(exc))
        return anyio.current_time() - began

    clock = trio.testing.MockClock(autojump_threshold=0)
    seconds = anyio.run(decode, backend="trio", backend_options={"clock": clock})
    return Run(events, seconds, list(panel), error[0] if error else None)


CHOSEN = st.builds(
    Settings,
    strategy=st.sampled_from(["beam", "beam", "beam", "greedy", "random", "longest", "curation"]),
    score=st.sampled_from(["predictive", "step", "predictive + 0.5*step", "consensus + step"]),
    beam_width=st.integers(1, 4),
    samples=st.integers(1, 2),
    diversity=st.sampled_from([0.0, 0.2]),
    max_children_per_parent=st.sampled_from([None, 1, 2]),
    length_penalty=st.sampled_from([0.0, 1.0]),
    commit_lag=st.sampled_from([None, 0, 1, 8]),
    quorum=st.just(1.0),
    max_calls=st.sampled_from([None, 1, 5, 100]),
    budget=st.builds(
        Budget,
        steps=st.integers(1, 9),
        step_tokens=st.sampled_from([50, 512]),
        reasoning_tokens=st.sampled_from([700, 16384]),
        deadline_s=st.just(1e6),
    ),
)
TEXTS = st.builds(
    Texts,
    steps=st.integers(1, 7),
    spread=st.sampled_from([0.0, 0.4, 1.0]),
    failing=st.sampled_from([0.0, 0.15]),
    repeated=st.sampled_from([0.0, 0.5]),
    silent=st.sampled_from([0.0, 0.15]),
    early=st.sampled_from([0.0, 0.15]),
)


@given(texts=TEXTS, chosen=CHOSEN, grain=st.sampled_from([0.0, 0.25]), teachers=st.integers(1, 4))
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_what_is_final_is_the_same_with_speculation_and_without(
    texts: Texts, chosen: Settings, grain: float, teachers: int
) -> None:
    plain = run(texts, replace(chosen, speculate="off"), grain, teachers)
    ahead = run(texts, replace(chosen, speculate="auto"), grain, teachers)
    assert ahead.told == plain.told
    for one in (plain, ahead):
        assert_every_proposal_ends_once(one)
        asked_again = [count for teacher in one.teachers for count in teacher.calls.values()]
        assert max(asked_again, default=1) == 1, "a proposal that was finished was asked for again"
    assert not [event for event in plain.events if isinstance(event, ProposalCancelled)]


def assert_every_proposal_ends_once(one: Run) -> None:
    """Each is dropped, cancelled or failed once at most, and what is written has a parent."""
    ends = Counter(
        event.id
        for event in one.events
        if isinstance(event, Pruned | ProposalCancelled | TeacherFailed)
    )
    requested = {event.id for event in one.events if isinstance(event, ProposalRequested)}
    assert set(ends) - {None} <= requested
    assert max((count for id, count in ends.items() if id is not None), default=1) == 1
    if one.error is None:
        finished = one.events[-1]
        assert isinstance(finished, Finished)
        left = requested - set(ends) - set(finished.result.winner.path)
        assert not [id for id in left if not _outlived(one, id)]


def _outlived(one: Run, id: int) -> bool:
    """Whether a candidate was in a beam and all its children fell."""
    decided = [event for event in one.events if isinstance(event, StepDecided)]
    return any(id in (*event.beam, *event.finished) for event in decided)


def test_a_hung_teacher_costs_seconds_and_is_not_asked_for_ever() -> None:
    class Hung(SimulatedTeacher):
        async def write(
            self, request: TeacherRequest, on_text: OnText | None = None
        ) -> Continuation:
            await anyio.sleep_forever()
            raise AssertionError

    chosen = Settings(score="predictive", strategy="greedy", budget=Budget(deadline_s=1e6))
    texts = Texts(steps=12, tokens=50)
    well = run(texts, chosen)
    hung = Hung("hung", texts, 1.0)
    sick = run(
        texts, chosen, panel=[hung, *(SimulatedTeacher(f"t{i}", texts, 60.0) for i in range(2))]
    )
    assert sick.error is None and sick.seconds < 2 * well.seconds + 20
    given_up = [event for event in sick.events if isinstance(event, TeacherFailed)]
    assert {event.kind for event in given_up} == {"straggler"} and len(given_up) <= 6
    assert [event.teacher for event in sick.events if isinstance(event, TeacherSkipped)]


def test_speculation_saves_time() -> None:
    texts = Texts(steps=12, spread=0.7)
    chosen = Settings(score="predictive", max_children_per_parent=1, **ALL_ARE_WAITED_FOR)  # type: ignore[arg-type]
    plain = run(texts, replace(chosen, speculate="off"))
    ahead = run(texts, replace(chosen, speculate="auto"))
    assert ahead.seconds < 0.75 * plain.seconds


@pytest.mark.parametrize("calls", [1, 12, 18])
def test_calls_in_flight_are_bounded_by_a_step_or_by_the_setting(calls: int) -> None:
    most = now = 0
    chosen = Settings(score="predictive", max_calls=calls, **ALL_ARE_WAITED_FOR)  # type: ignore[arg-type]
    for event in run(Texts(steps=6, spread=1.0), chosen).events:
        match event:
            case ProposalRequested():
                now += 1
            case Proposed() | ProposalCancelled() | TeacherFailed():
                now -= 1
        most = max(most, now)
    assert most <= max(calls, 12)
