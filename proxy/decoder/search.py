"""The search: ask every teacher for the next step, score what lands, keep the best, until thinking closes.

The one place of the decoder that awaits. Every strategy is this same loop under other parameters: greedy is a
beam of one, curation a beam whose step is the whole trace, one teacher alone a panel of one. What happens is
told to `emit`, synchronously; the loop itself keeps no record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import anyio

from proxy.decoder import selection
from proxy.decoder.events import (
    AnswerAsked,
    AnswerDelta,
    Asked,
    Cancelled,
    Committed,
    Failed,
    Finished,
    Proposed,
    Pruned,
    PruneReason,
    ScoreAsked,
    Scored,
    Started,
    StepDecided,
    TeacherFailed,
)
from proxy.decoder.ports import Emit, Scorer, Teacher
from proxy.decoder.selection import Rank
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Ask, Candidate, FinishReason, Problem, Result, Score, Settings, StopCause, Trajectory
from proxy.errors import ScorerError, SearchError, TeacherError

_READ_AHEAD_CHARS = 64
"""A step is handed to the scorer while it is written whenever so much more of it is there."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """What sets one strategy apart: what a step is, how steps are ranked, and the beam's width if not the user's."""

    unit: Literal["step", "trace"] = "step"
    rank: Literal["score", "chance", "length"] = "score"
    width: int | None = None
    teachers: int | None = None


STRATEGIES = {
    "beam": Strategy(),
    "greedy": Strategy(width=1),
    "curation": Strategy(unit="trace", width=1),
    "random": Strategy(rank="chance", width=1),
    "longest": Strategy(rank="length", width=1),
    "single": Strategy(rank="length", width=1, teachers=1),
}
"""By name: see docs/search.md. "single" asks the panel's first teacher alone, step by step, so that it streams."""


async def search(
    problem: Problem,
    panel: Sequence[Teacher],
    scorer: Scorer,
    settings: Settings,
    segmentation: Segmentation,
    emit: Emit,
) -> Result:
    """Decode one problem collaboratively.

    Emits `Started` first and exactly one terminal event last, also when cancelled.

    Raises:
        SearchError: no teacher proposed anything, or none wrote an answer.
        ScorerError: the scorer is away or refused the text.
    """
    strategy = STRATEGIES[settings.strategy]
    panel = panel[: strategy.teachers]
    scored = strategy.rank == "score"
    names = tuple(teacher.name for teacher in panel)
    emit(Started(problem, settings, names, settings.score if scored else None))
    decoding = _Decoding(problem, panel, scorer, settings, segmentation, strategy, emit)
    try:
        winner, stopped = await decoding.reason()
        result = await decoding.answer(winner, stopped)
    except anyio.get_cancelled_exc_class():
        emit(Cancelled())
        raise
    except (SearchError, ScorerError) as exc:
        emit(Failed(exc.kind, str(exc)))
        raise
    except BaseException as exc:
        emit(Failed("internal", f"{type(exc).__name__}: {exc}"))
        raise
    emit(Finished(result))
    return result


@dataclass(slots=True)
class _Barrier:
    """One step's proposals on their way: who is still out, what has landed, and when the rest may be left behind.

    `spare` is how many may be missing when the patience with stragglers begins to run.
    """

    out: dict[int, Teacher]
    spare: int
    reached: anyio.Event = field(default_factory=anyio.Event)
    landed: list[Trajectory] = field(default_factory=list)
    said: set[tuple[int | None, str]] = field(default_factory=set)
    failures: list[TeacherError] = field(default_factory=list)
    broken: ScorerError | None = None

    def settle(self, id: int) -> None:
        """Note that a proposal has come to its end, good or bad; wake the barrier when it may fall."""
        del self.out[id]
        if not self.out or (self.landed and len(self.out) <= self.spare):
            self.reached.set()


@dataclass(slots=True)
class _Draft:
    """A step while it is being written. `news` is set when there is more of it, or it has `ended`."""

    text: str = ""
    ended: bool = False
    news: anyio.Event = field(default_factory=anyio.Event)

    def hear(self, delta: str) -> None:
        self.text += delta
        self.news.set()

    def end(self) -> None:
        self.ended = True
        self.news.set()


@dataclass(slots=True)
class _Decoding:
    """One problem being decoded."""

    problem: Problem
    panel: Sequence[Teacher]
    scorer: Scorer
    settings: Settings
    segmentation: Segmentation
    strategy: Strategy
    emit: Emit
    asked: int = 0
    committed: int = 0

    async def reason(self) -> tuple[Trajectory, StopCause]:
        """Grow the beam until it has settled or a budget is spent; the best trajectory and why it ended."""
        beam: tuple[Trajectory, ...] = (Trajectory(),)
        with anyio.move_on_after(self.settings.budget.deadline_s) as deadline:
            while any(self._open(trajectory) for trajectory in beam):
                before, beam = beam, self._decide(beam, await self._expand(beam))
                if selection.settled(before, beam):
                    break
        winner, *others = beam
        if not winner.candidates:
            raise SearchError("deadline", f"no step was finished within {self.settings.budget.deadline_s:g} s")
        self._drop(others, "outranked")
        self._commit(winner.candidates)
        return winner, self._cause(winner, deadline.cancelled_caught)

    async def answer(self, winner: Trajectory, stopped: StopCause) -> Result:
        """Have the final answer written on top of the winning reasoning.

        A teacher that fails before it has said anything is replaced by the next; after that nothing can be
        taken back, and the search fails.
        """
        ask = Ask(
            messages=self.segmentation.instruct(self.problem.messages),
            reasoning=winner.text,
            answer="",
            stop=self.problem.stop,
            max_tokens=self._answer_tokens(winner),
            temperature=self.settings.sampling.temperature,
            top_p=self.settings.sampling.top_p,
            seed=selection.derive(self.settings.sampling.seed, "answer"),
            format=self.problem.format,
        )
        value = winner.value(self.settings.length_penalty)
        closer = winner.candidates[-1].teacher
        if ask.max_tokens <= 0:
            return Result(winner, value, stopped, "", closer, 0, 0, "length")
        failures: list[TeacherError] = []
        for teacher in self._answerers(closer):
            self.emit(AnswerAsked(teacher.name))
            reply = _Reply(self.emit)
            try:
                written = await teacher.write(ask, reply.hear)
            except TeacherError as exc:
                self.emit(TeacherFailed(None, teacher.name, exc.kind, str(exc)))
                failures.append(exc)
                if reply.text:
                    break
                continue
            finish: FinishReason = "length" if written.ended == "length" else "stop"
            tokens, prompt_tokens = written.completion_tokens, written.prompt_tokens
            return Result(winner, value, stopped, reply.text, teacher.name, tokens, prompt_tokens, finish)
        reasons = "; ".join(str(failure) for failure in failures)
        raise SearchError("no_answer", reasons or "no teacher can hold an answer to a format")

    def _open(self, trajectory: Trajectory) -> bool:
        """Whether this trajectory can take another step."""
        within_steps = len(trajectory.candidates) < self.settings.budget.steps
        return not trajectory.closed and within_steps and self._step_tokens(trajectory) > 0

    def _cause(self, winner: Trajectory, late: bool) -> StopCause:
        if winner.closed:
            return "closed"
        if late:
            return "deadline"
        return "steps" if len(winner.candidates) >= self.settings.budget.steps else "tokens"

    def _step_tokens(self, trajectory: Trajectory) -> int:
        """How long the next step may be."""
        budget = self.settings.budget
        total = budget.reasoning_tokens if budget.total_tokens is None else budget.total_tokens
        left = min(budget.reasoning_tokens, total) - trajectory.tokens
        return left if self.strategy.unit == "trace" else min(budget.step_tokens, left)

    def _answer_tokens(self, winner: Trajectory) -> int:
        budget = self.settings.budget
        if budget.total_tokens is None:
            return budget.answer_tokens
        return min(budget.answer_tokens, budget.total_tokens - winner.tokens)

    def _answerers(self, closer: str) -> list[Teacher]:
        """Who may write the answer, best suited first; only those who can hold it to its format, if it has one."""
        first = self.settings.answerer or closer
        able = [teacher for teacher in self.panel if teacher.formats or self.problem.format is None]
        return sorted(able, key=lambda teacher: teacher.name != first)

    async def _expand(self, beam: Sequence[Trajectory]) -> list[Trajectory]:
        """Let every teacher propose under every open prefix: B×K calls at once, each scored when it lands.

        Once the quorum is scored the rest are granted `patience_s` and then left behind, their calls cancelled.
        """
        asks = [
            (trajectory, teacher)
            for trajectory in beam
            if self._open(trajectory)
            for teacher in self.panel
            for _ in range(self.settings.samples)
        ]
        first = self.asked
        self.asked += len(asks)
        spare = math.floor((1 - self.settings.quorum) * len(asks))
        barrier = _Barrier({first + i: teacher for i, (_, teacher) in enumerate(asks)}, spare)
        async with anyio.create_task_group() as group:
            for i, (trajectory, teacher) in enumerate(asks):
                draft = _Draft()
                group.start_soon(self._propose, barrier, first + i, trajectory, teacher, draft)
                if self._reads_ahead:
                    group.start_soon(self._read_ahead, trajectory, draft)
            await barrier.reached.wait()
            with anyio.move_on_after(self.settings.patience_s):
                while barrier.out and barrier.broken is None:
                    barrier.reached = anyio.Event()
                    await barrier.reached.wait()
            group.cancel_scope.cancel()
        if barrier.broken is not None:
            raise barrier.broken
        for id, teacher in barrier.out.items():
            self.emit(TeacherFailed(id, teacher.name, "straggler", f"{teacher.name}: left behind after the quorum"))
        if not barrier.landed and not any(trajectory.closed for trajectory in beam):
            reasons = "; ".join(dict.fromkeys(str(failure) for failure in barrier.failures))
            raise SearchError("no_candidates", reasons or "no teacher wrote anything in this step")
        return barrier.landed

    async def _propose(self, barrier: _Barrier, id: int, prefix: Trajectory, teacher: Teacher, draft: _Draft) -> None:
        """One proposal from the call to its score. A failing teacher is an event; a failing scorer ends the step."""
        depth = len(prefix.candidates) + 1
        self.emit(Asked(id, prefix.tip, depth, teacher.name))
        try:
            written = await teacher.write(self._step_ask(prefix, depth, id), draft.hear if self._reads_ahead else None)
            draft.end()
            text = self.segmentation.canonical(depth, written.text)
            tokens = (written.prompt_tokens, written.completion_tokens)
            candidate = Candidate(id, prefix.tip, depth, teacher.name, text, written.ended, *tokens)
            self.emit(Proposed(candidate))
            if not text:
                self.emit(Pruned(id, "empty"))
            elif (prefix.tip, text) in barrier.said:
                self.emit(Pruned(id, "duplicate"))
            else:
                barrier.said.add((prefix.tip, text))
                barrier.landed.append(prefix.extend(candidate, await self._score(prefix, candidate)))
        except TeacherError as exc:
            self.emit(TeacherFailed(id, teacher.name, exc.kind, str(exc)))
            barrier.failures.append(exc)
        except ScorerError as exc:
            barrier.broken = exc
            barrier.reached.set()
        draft.end()
        barrier.settle(id)

    @property
    def _reads_ahead(self) -> bool:
        return self.settings.read_ahead and self.strategy.rank == "score"

    async def _read_ahead(self, prefix: Trajectory, draft: _Draft) -> None:
        """Let the scorer read a step while it is written, so that only its end is left to read when it is done."""
        depth, known = len(prefix.candidates) + 1, 0
        while not draft.ended:
            await draft.news.wait()
            draft.news = anyio.Event()
            # The last word may still grow into other tokens.
            begun = self.segmentation.canonical(depth, draft.text).rstrip().rpartition(" ")[0]
            if not draft.ended and len(begun) >= known + _READ_AHEAD_CHARS:
                known = len(begun)
                await self.scorer.read(self.problem, prefix.text, begun, self.settings.score)

    def _step_ask(self, prefix: Trajectory, depth: int, id: int) -> Ask:
        return Ask(
            messages=self.segmentation.instruct(self.problem.messages),
            reasoning=prefix.text + self.segmentation.header(depth),
            answer=None,
            stop=(self.segmentation.stop,) if self.strategy.unit == "step" else (),
            max_tokens=self._step_tokens(prefix),
            temperature=self.settings.sampling.temperature,
            top_p=self.settings.sampling.top_p,
            seed=selection.derive(self.settings.sampling.seed, depth, id),
        )

    async def _score(self, prefix: Trajectory, candidate: Candidate) -> Score | None:
        if self.strategy.rank != "score":
            return None
        self.emit(ScoreAsked(candidate.id))
        asked = (self.problem, prefix.text, candidate.text, self.settings.score, candidate.teacher)
        score = await self.scorer.score(*asked)
        self.emit(Scored(candidate.id, score))
        return score

    def _decide(self, beam: Sequence[Trajectory], extended: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        """Let the barrier fall: keep the best, drop the rest, commit what all survivors share."""
        pool = [trajectory for trajectory in beam if not self._open(trajectory)] + list(extended)
        width = self.strategy.width or self.settings.beam_width
        best = selection.choose(pool, self._rank, width, self.settings.diversity)
        kept = selection.enforce_lag(best.beam, self.settings.commit_lag)
        self._drop(best.dropped, "rank")
        self._drop(kept.dropped, "lag")
        closed = [trajectory for trajectory in kept.beam if trajectory.closed]
        living = [trajectory for trajectory in kept.beam if not trajectory.closed]
        depth = max(len(trajectory.candidates) for trajectory in pool)
        self.emit(StepDecided(depth, _tips(living), _tips(closed)))
        self._commit(selection.shared(kept.beam))
        return kept.beam

    @property
    def _rank(self) -> Rank:
        match self.strategy.rank:
            case "score":
                return selection.by_score(self.settings.length_penalty)
            case "chance":
                return selection.by_chance(self.settings.sampling.seed)
            case "length":
                return selection.by_length

    def _drop(self, trajectories: Sequence[Trajectory], reason: PruneReason) -> None:
        for trajectory in trajectories:
            self.emit(Pruned(trajectory.candidates[-1].id, reason))

    def _commit(self, candidates: Sequence[Candidate]) -> None:
        """Announce the steps that have become final since the last time."""
        for candidate in candidates[self.committed :]:
            self.emit(Committed(candidate))
        self.committed = max(self.committed, len(candidates))


def _tips(trajectories: Sequence[Trajectory]) -> tuple[int, ...]:
    return tuple(trajectory.candidates[-1].id for trajectory in trajectories)


@dataclass(slots=True)
class _Reply:
    """The answer as it is heard; the blank lines that templates put before it are left out."""

    emit: Emit
    text: str = ""

    def hear(self, delta: str) -> None:
        delta = delta if self.text else delta.lstrip()
        if delta:
            self.text += delta
            self.emit(AnswerDelta(delta))
