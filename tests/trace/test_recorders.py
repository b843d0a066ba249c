"""A recorder never fails a request, and no order of events fails a recorder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decoder.events import (
    AnswerDelta,
    AnswerRequested,
    Cancelled,
    Committed,
    Event,
    Failed,
    Finished,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    ScoreRequested,
    Started,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.journal import Listener, Stamped
from proxy.decoder.steps import Segmentation
from proxy.decoder.summary import summarise
from proxy.decoder.types import Candidate, Result, Score, Source, Trajectory
from proxy.service import Job, Service
from proxy.trace.codec import from_json, to_json
from proxy.trace.fold import record
from proxy.trace.metrics import Metrics
from proxy.trace.record import Provenance
from tests.decoder.scripted import ScriptedScorer, ScriptedTeacher, counts_to
from tests.trace.figures import figures_of
from tests.trace.searches import Kept, finished, job

CANDIDATE = Candidate(0, None, 1, "ada", "text", "marker", 7, -5)
IDS = st.integers(0, 3)
CANDIDATES = st.builds(
    Candidate,
    IDS,
    st.none() | IDS,
    st.integers(1, 3),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(["a", "\ud800", ""]),
    st.sampled_from(["marker", "closed"]),
    st.integers(-5, 5),
    st.integers(-5, 5),
)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
SCORES = st.builds(
    Score,
    NUMBERS,
    NUMBERS,
    st.booleans(),
    st.just("predictive"),
    st.sampled_from(Source),
    queue_s=NUMBERS,
)
RESULTS = st.builds(
    Result,
    st.builds(Trajectory, st.lists(CANDIDATES, max_size=2).map(tuple)),
    NUMBERS,
    st.just("closed"),
    st.just("42"),
    st.just("ada"),
    st.integers(-5, 5),
    st.integers(-5, 5),
    st.just("stop"),
)
TEACHERS = st.sampled_from(["ada", "bob"])
JOB = job(ScriptedTeacher("ada", counts_to(2)))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Started(JOB.problem, JOB.settings, ("ada",), "predictive")),
    st.builds(ProposalRequested, IDS, st.none() | IDS, st.integers(1, 3), TEACHERS),
    st.builds(TeacherSkipped, st.integers(1, 3), TEACHERS),
    st.builds(Proposed, CANDIDATES),
    st.builds(
        TeacherFailed,
        st.none() | IDS,
        TEACHERS,
        st.sampled_from(["straggler", "broken"]),
        st.just("why"),
    ),
    st.builds(ScoreRequested, IDS),
    st.builds(Scored, IDS, SCORES),
    st.builds(Pruned, IDS, st.just("rank")),
    st.builds(StepDecided, st.integers(1, 3), st.just(()), st.just(())),
    st.builds(Committed, CANDIDATES),
    st.builds(AnswerRequested, TEACHERS),
    st.builds(AnswerDelta, st.just("4")),
    st.builds(Finished, RESULTS),
    st.builds(Failed, st.just("deadline"), st.just("late")),
    st.just(Cancelled()),
)
JOURNALS = st.lists(st.builds(Stamped, st.floats(-1, 10), EVENTS), max_size=12)


@given(JOURNALS)
def test_no_order_of_events_fails_a_fold(journal: Sequence[Stamped]) -> None:
    metrics = Metrics()
    listener = metrics.listen(JOB)
    for stamped in journal:
        listener(stamped)
    metrics.record(JOB, journal)
    metrics.render()
    summarise(stamped.event for stamped in journal)
    found = record(JOB, journal, Provenance())
    back = from_json(to_json(found).encode("utf-8", "replace"))
    assert [candidate.id for candidate in back.candidates] == [
        candidate.id for candidate in found.candidates
    ]
    assert len([back.prefix(candidate.id) for candidate in back.candidates]) == len(back.candidates)


def test_an_event_that_is_not_known_is_ignored() -> None:
    class News:
        pass

    journal = [Stamped(0.0, News()), Stamped(1.0, Cancelled())]  # type: ignore[arg-type]
    metrics = Metrics()
    listener = metrics.listen(JOB)
    for stamped in journal:
        listener(stamped)
    metrics.record(JOB, journal)
    assert record(JOB, journal, Provenance()).outcome == "cancelled"


def test_a_straggler_that_was_proposed_and_not_scored_is_one_call() -> None:
    metrics = Metrics()
    listener = metrics.listen(JOB)
    events = [
        ProposalRequested(0, None, 1, "ada"),
        Proposed(CANDIDATE),
        ScoreRequested(0),
        TeacherFailed(0, "ada", "straggler", "left behind"),
        Cancelled(),
    ]
    for at, event in enumerate(events):
        listener(Stamped(float(at), event))
    calls = figures_of(metrics)
    key = "cord_teacher_call_duration_seconds_count"
    assert calls[key, (("outcome", "ok"), ("teacher", "ada"))] == 1
    assert (key, (("outcome", "straggler"), ("teacher", "ada"))) not in calls


@pytest.mark.anyio
async def test_a_search_that_leaves_an_unscored_straggler_behind_answers() -> None:
    held = anyio.Event()

    class SlowScorer(ScriptedScorer):
        async def score(
            self, problem, prefix, step, objective, proposer="", pool=None, *, ahead=False
        ):  # type: ignore[no-untyped-def]
            if "b" in step:
                await held.wait()
            return await super().score(problem, prefix, step, objective, proposer, pool)

    metrics, kept = Metrics(), Kept()
    recorders = {"metrics": metrics.record, "kept": kept.keep}
    tested = Service(
        {},
        SlowScorer(lambda *_: -1.0),
        Segmentation(),
        recorders=recorders,
        listeners={"metrics": metrics.listen},
    )
    teachers = [ScriptedTeacher(name, counts_to(2, name)) for name in ("a", "b")]
    result, _ = await tested.decode(job(*teachers, quorum=0.5, patience_s=0.0))
    assert result.answer == "answer by a\n"
    assert any(
        isinstance(stamped.event, Pruned) and stamped.event.reason == "unscored"
        for stamped in kept.journals[0]
    )
    found = figures_of(metrics)
    assert not any(name == "cord_recorder_failures_total" for name, _ in found)


def breaks(*_: object) -> None:
    raise RuntimeError("no more ink")


@pytest.mark.anyio
async def test_a_failing_recorder_is_counted_and_logged_and_the_others_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, kept = Metrics(), Kept()
    tested = Service(
        {},
        ScriptedScorer(lambda *_: -1.0),
        Segmentation(),
        recorders={"broken": breaks, "kept": kept.keep},
        on_recorder_failure=metrics.on_recorder_failure,
    )
    result, _ = await tested.decode(job(ScriptedTeacher("a", counts_to(2, "a"))))
    assert result.answer == "answer by a\n" and len(kept.journals) == 1
    assert figures_of(metrics)["cord_recorder_failures_total", (("recorder", "broken"),)] == 1
    [logged] = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert "broken" in logged.getMessage() and logged.exc_info is not None


@pytest.mark.anyio
async def test_a_failing_listener_goes_on_hearing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, heard = Metrics(), list[Stamped]()

    def opens(job: Job) -> Listener:
        return breaks

    def cannot_open(job: Job) -> Listener:
        raise RuntimeError("closed")

    tested = Service(
        {},
        ScriptedScorer(lambda *_: -1.0),
        Segmentation(),
        listeners={"broken": opens, "shut": cannot_open, "good": lambda job: heard.append},
        on_recorder_failure=metrics.on_recorder_failure,
    )
    _, journal = await tested.decode(job(ScriptedTeacher("a", counts_to(2, "a"))))
    assert heard == journal
    found = figures_of(metrics)
    assert found["cord_recorder_failures_total", (("recorder", "broken"),)] == 1
    assert found["cord_recorder_failures_total", (("recorder", "shut"),)] == 1
    assert len([entry for entry in caplog.records if entry.levelno == logging.ERROR]) == 2


@pytest.mark.anyio
async def test_negative_usage_breaks_no_recorder(caplog: pytest.LogCaptureFixture) -> None:
    metrics, kept = Metrics(), Kept()
    await finished(kept)
    journal = [
        Stamped(
            stamped.at_s,
            Proposed(CANDIDATE) if isinstance(stamped.event, Proposed) else stamped.event,
        )
        for stamped in kept.journals[0]
    ]
    metrics.record(kept.jobs[0], journal)
    lost = {
        labels: value
        for (name, labels), value in figures_of(metrics).items()
        if "generated_tokens" in name
    }
    assert all(value >= 0 for value in lost.values())
