"""The search: ask every teacher for the next step, score what lands, keep the best, until thinking closes.

The one place of the decoder that awaits. Every strategy is this same loop under other parameters: greedy is a
beam of one, curation a beam whose step is the whole trace, one teacher alone a panel of one. What happens is
told to `emit`, synchronously; the loop itself keeps no record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio

from proxy.decoder import selection
from proxy.decoder.bandit import Bandit
from proxy.decoder.barrier import Barrier, Draft, Landing
from proxy.decoder.events import (
    AnswerDelta,
    AnswerRequested,
    Cancelled,
    Committed,
    Failed,
    Finished,
    ProposalRequested,
    Proposed,
    Pruned,
    PruneReason,
    Scored,
    ScoreRequested,
    Started,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.ports import Emit, Scorer, Teacher
from proxy.decoder.selection import Rank, Spread
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Candidate, FinishReason, Problem, Result, Source, StopCause, TeacherRequest, Trajectory
from proxy.errors import ScorerError, SearchError, TeacherError

_CONSENSUS = Source.CONSENSUS.value
"""The score that is known only when all proposals of a step are in."""

_RISE = 1e-3
"""Nats by which the best score must have risen for a step not to count towards a plateau."""

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
    bandit: Bandit | None = None,
) -> Result:
    """Decode one problem collaboratively.

    Emits `Started` first and exactly one terminal event last, also when cancelled. With `settings.adaptive` the
    bandit says whom to ask, and learns from a search that finishes.

    Raises:
        SearchError: no teacher proposed anything, or none wrote an answer.
        ScorerError: the scorer is away or refused the text.
    """
    strategy = STRATEGIES[settings.strategy]
    panel = panel[: strategy.teachers]
    scored = strategy.rank == "score"
    names = tuple(teacher.name for teacher in panel)
    emit(Started(problem, settings, names, settings.score if scored else None))
    adaptive = bandit if settings.adaptive else None
    try:
        blend = selection.blend(settings.score) if scored else {}
        decoding = _Decoding(problem, panel, scorer, settings, segmentation, strategy, blend, emit, adaptive)
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
class _Decoding:
    """One problem being decoded. `blend` are the scores that rank, with their weights; none where something else does.

    `early` is why the reasoning ends though it could go on.
    """

    problem: Problem
    panel: Sequence[Teacher]
    scorer: Scorer
    settings: Settings
    segmentation: Segmentation
    strategy: Strategy
    blend: Mapping[str, float]
    emit: Emit
    bandit: Bandit | None
    asked: int = 0
    committed: int = 0
    proposed: list[Candidate] = field(default_factory=list)
    highest: float = -math.inf
    stale: int = 0
    early: StopCause | None = None

    async def reason(self) -> tuple[Trajectory, StopCause]:
        """Grow the beam until it has settled or a budget is spent; the best trajectory and why it ended."""
        beam: tuple[Trajectory, ...] = (Trajectory(),)
        with anyio.move_on_after(self.settings.budget.deadline_s) as deadline:
            while any(self._open(trajectory) for trajectory in beam):
                before, beam = beam, self._decide(beam, await self._expand(beam))
                self._watch(beam[0])
                if selection.settled(before, beam) or self.early is not None:
                    break
        winner, *others = beam
        if not winner.candidates:
            raise SearchError("deadline", f"no step was finished within {self.settings.budget.deadline_s:g} s")
        self._drop(others, "outranked")
        self._commit(winner.candidates)
        if self.bandit is not None:
            for candidate in self.proposed:
                won = candidate.id in winner.path
                self.bandit.learn(candidate.teacher, candidate.depth, won, candidate.completion_tokens)
        return winner, self._cause(winner, deadline.cancelled_caught)

    async def answer(self, winner: Trajectory, stopped: StopCause) -> Result:
        """Have the final answer written on top of the winning reasoning.

        A teacher that fails before it has said anything is replaced by the next; after that nothing can be
        taken back, and the search fails.
        """
        ask = TeacherRequest(
            messages=self.segmentation.instruct(self.problem.messages),
            reasoning=winner.text,
            answer="",
            stop=self.problem.stop,
            max_tokens=self._answer_tokens(winner),
            temperature=self.settings.sampling.temperature,
            top_p=self.settings.sampling.top_p,
            seed=selection.derive(self.settings.sampling.seed, "answer"),
            format=self.problem.format,
            tools=self.problem.tools,
        )
        value = winner.value(self.settings.length_penalty)
        closer = winner.candidates[-1].teacher
        if ask.max_tokens <= 0:
            return Result(winner, value, stopped, "", closer, 0, 0, "length")
        failures: list[TeacherError] = []
        for teacher in self._answerers(closer):
            self.emit(AnswerRequested(teacher.name))
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
        raise SearchError("no_answer", reasons or "no teacher can write what is asked for")

    def _open(self, trajectory: Trajectory) -> bool:
        """Whether this trajectory can take another step."""
        within_steps = len(trajectory.candidates) < self.settings.budget.steps
        return not trajectory.closed and within_steps and self._step_tokens(trajectory) > 0

    def _watch(self, best: Trajectory) -> None:
        """Note whether the best score has risen, and end when it has not for as many steps as are allowed."""
        value = best.value(self.settings.length_penalty)
        self.stale = 0 if value > self.highest + _RISE else self.stale + 1
        self.highest = max(self.highest, value)
        if self.settings.plateau is not None and self.stale >= self.settings.plateau:
            self.early = self.early or "plateau"

    def _cause(self, winner: Trajectory, late: bool) -> StopCause:
        if winner.closed:
            return "closed"
        if late:
            return "deadline"
        if self.early is not None:
            return self.early
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
        """Who may write the answer, best suited first: those who can hold it to its format and call tools, if asked."""
        first, problem = self.settings.answerer or closer, self.problem
        able = [
            teacher
            for teacher in self.panel
            if (teacher.supports_response_format or problem.format is None)
            and (teacher.supports_tools or not problem.tools)
        ]
        return sorted(able, key=lambda teacher: teacher.name != first)

    def _roster(self, depth: int) -> Sequence[Teacher]:
        """Whom to ask for this step."""
        if self.bandit is None:
            return self.panel
        seed = selection.derive(self.settings.sampling.seed, "bandit", depth)
        names = [teacher.name for teacher in self.panel]
        asked = self.bandit.choose(names, depth, seed, self.settings.exploration)
        for name in names:
            if name not in asked:
                self.emit(TeacherSkipped(depth, name))
        return [teacher for teacher in self.panel if teacher.name in asked]

    async def _expand(self, beam: Sequence[Trajectory]) -> list[Trajectory]:
        """Let every teacher propose under every open prefix: B×K calls at once, each scored when it lands.

        Once the quorum is scored the rest are granted `patience_s` and then left behind, their calls cancelled.
        """
        growing = [trajectory for trajectory in beam if self._open(trajectory)]
        roster = self._roster(len(growing[0].candidates) + 1)
        samples = range(self.settings.samples)
        asks = [(prefix, teacher, sample) for prefix in growing for teacher in roster for sample in samples]
        first = self.asked
        self.asked += len(asks)
        spare = math.floor((1 - self.settings.quorum) * len(asks))
        barrier = Barrier({first + i: teacher for i, (_, teacher, _) in enumerate(asks)}, spare)
        async with anyio.create_task_group() as group:
            for id, (prefix, teacher, sample) in enumerate(asks, first):
                draft = Draft()
                group.start_soon(self._propose, barrier, id, prefix, teacher, sample, draft)
                if self._reads_ahead:
                    group.start_soon(self._read_ahead, prefix, draft)
            await barrier.reached.wait()
            with anyio.move_on_after(self.settings.patience_s):
                while barrier.out and barrier.broken is None:
                    barrier.reached = anyio.Event()
                    await barrier.reached.wait()
            group.cancel_scope.cancel()
        if _CONSENSUS in self.blend:
            await self._weigh(barrier)
        if barrier.broken is not None:
            raise barrier.broken
        for id, teacher in barrier.out.items():
            self.emit(TeacherFailed(id, teacher.name, "straggler", f"{teacher.name}: left behind after the quorum"))
        complete = [prefix for prefix in growing if barrier.is_complete(prefix)]
        moot = {prefix.tip for prefix in complete}
        extended = [landing.trajectory for landing in barrier.landed if landing.prefix.tip not in moot]
        self._drop([landing.trajectory for landing in barrier.landed if landing.prefix.tip in moot], "rank")
        if not complete and not extended and not any(trajectory.closed for trajectory in beam):
            reasons = "; ".join(dict.fromkeys(str(failure) for failure in barrier.failures))
            raise SearchError("no_candidates", reasons or "no teacher wrote anything in this step")
        return [replace(prefix, complete=True) for prefix in complete] + extended

    async def _propose(
        self, barrier: Barrier, id: int, prefix: Trajectory, teacher: Teacher, sample: int, draft: Draft
    ) -> None:
        """One proposal from the call to its score. A failing teacher is an event; a failing scorer ends the step."""
        depth = len(prefix.candidates) + 1
        self.emit(ProposalRequested(id, prefix.tip, depth, teacher.name))
        try:
            seed = selection.derive(self.settings.sampling.seed, prefix.text, teacher.name, sample)
            ask = self._step_ask(prefix, depth, seed)
            written = await teacher.write(ask, draft.hear if self._reads_ahead else None)
            draft.end()
            text = self.segmentation.canonical(depth, written.text)
            tokens = (written.prompt_tokens, written.completion_tokens)
            candidate = Candidate(id, prefix.tip, depth, teacher.name, text, written.ended, *tokens)
            self.emit(Proposed(candidate))
            self.proposed.append(candidate)
            if not text:
                self.emit(Pruned(id, "empty"))
                if candidate.closes and prefix.tip is not None:
                    barrier.silent[prefix.tip] += 1
            elif (prefix.tip, text) in barrier.said:
                self.emit(Pruned(id, "duplicate"))
            else:
                barrier.said.add((prefix.tip, text))
                landing = Landing(prefix, candidate)
                await self._score(landing)
                barrier.landed.append(landing)
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
        return self.settings.prefill_partial_steps and self.strategy.rank == "score"

    async def _read_ahead(self, prefix: Trajectory, draft: Draft) -> None:
        """Let the scorer read a step while it is written, so that only its end is left to read when it is done."""
        depth, known = len(prefix.candidates) + 1, 0
        while not draft.ended:
            await draft.news.wait()
            draft.news = anyio.Event()
            # The last word may still grow into other tokens.
            begun = self.segmentation.canonical(depth, draft.text).rstrip().rpartition(" ")[0]
            if not draft.ended and len(begun) >= known + _READ_AHEAD_CHARS:
                known = len(begun)
                await self.scorer.read(self.problem, prefix.text, begun, next(iter(self.blend)))

    def _step_ask(self, prefix: Trajectory, depth: int, seed: int) -> TeacherRequest:
        return TeacherRequest(
            messages=self.segmentation.instruct(self.problem.messages),
            reasoning=prefix.text + self.segmentation.header(depth),
            answer=None,
            stop=self.segmentation.stops if self.strategy.unit == "step" else (),
            max_tokens=self._step_tokens(prefix),
            temperature=self.settings.sampling.temperature,
            top_p=self.settings.sampling.top_p,
            seed=seed,
            tools=self.problem.tools,
        )

    async def _score(self, landing: Landing) -> None:
        """Score a proposal by all that can be told of it alone; for a consensus, have answers drafted."""
        candidate, blend = landing.candidate, self.blend
        if not blend:
            return
        self.emit(ScoreRequested(candidate.id))
        on_top_of = (self.problem, landing.prefix.text, candidate.text)
        if _CONSENSUS in blend:
            landing.drafts, landing.drafted = await self.scorer.draft(*on_top_of)
        for name in blend:
            if name != _CONSENSUS:
                landing.scores[name] = await self.scorer.score(*on_top_of, name, candidate.teacher)
        if _CONSENSUS not in blend:
            self._tell(landing)

    async def _weigh(self, barrier: Barrier) -> None:
        """Score what has landed by what the others would answer, now that it is known."""
        drafts = {landing.candidate.id: landing.drafts for landing in barrier.landed}
        said = [answer for answers in drafts.values() for answer in answers]
        wanted = self.settings.agreement
        if wanted is not None and said and max(map(said.count, said)) >= wanted * len(said):
            self.early = "agreement"

        async def weigh(landing: Landing) -> None:
            candidate = landing.candidate
            on_top_of = (self.problem, landing.prefix.text, candidate.text)
            try:
                pool = selection.others(drafts, candidate.id)
                scored = await self.scorer.score(*on_top_of, _CONSENSUS, candidate.teacher, pool)
            except ScorerError as exc:
                barrier.broken = exc
                return
            tokens = scored.tokens_forwarded + landing.drafted
            landing.scores[_CONSENSUS] = replace(scored, tokens_forwarded=tokens)
            self._tell(landing)

        async with anyio.create_task_group() as group:
            for landing in barrier.landed:
                group.start_soon(weigh, landing)

    def _tell(self, landing: Landing) -> None:
        """All scores of a proposal are known: join them in the order of the blend."""
        first, *others = (landing.scores[name] for name in self.blend)
        landing.score = replace(first, beside=tuple(others))
        self.emit(Scored(landing.candidate.id, landing.score))

    def _decide(self, beam: Sequence[Trajectory], extended: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        """Let the barrier fall: keep the best, drop the rest, commit what all survivors share."""
        pool = [trajectory for trajectory in beam if not self._open(trajectory)] + list(extended)
        width = self.strategy.width or self.settings.beam_width
        spread = Spread(
            self.settings.diversity, self.settings.max_children_per_parent, self.settings.similarity_threshold
        )
        best = selection.choose(pool, self._rank(pool), width, spread)
        kept = selection.enforce_lag(best.beam, self.settings.commit_lag)
        self._drop(best.dropped, "rank")
        self._drop(best.repeated, "duplicate")
        self._drop(kept.dropped, "lag")
        closed = [trajectory for trajectory in kept.beam if trajectory.closed]
        living = [trajectory for trajectory in kept.beam if not trajectory.closed]
        depth = max(len(trajectory.candidates) for trajectory in pool)
        self.emit(StepDecided(depth, _tips(living), _tips(closed)))
        self._commit(selection.shared(kept.beam))
        return kept.beam

    def _rank(self, pool: Sequence[Trajectory]) -> Rank:
        match self.strategy.rank:
            case "score" if len(self.blend) > 1:
                return selection.by_blend(pool, self.blend, self.settings.length_penalty)
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
