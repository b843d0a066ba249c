"""The search: follows the plan, and tells what has become final.

`decoder.plan` says what is wanted and what follows from what has landed, `decoder.stragglers` what
is no longer waited for; `decoder.calls` carries it out. What happens is told to `emit`,
synchronously; the search itself keeps no record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio

from proxy.decoder import plan, selection
from proxy.decoder.answer import Answering
from proxy.decoder.bandit import Bandit
from proxy.decoder.calls import Calls
from proxy.decoder.events import (
    Cancelled,
    Committed,
    Failed,
    Finished,
    Pruned,
    PruneReason,
    Started,
    StepDecided,
    TeacherSkipped,
)
from proxy.decoder.judging import Judge
from proxy.decoder.limits import Limits, has_settled
from proxy.decoder.plan import Layer, Rules
from proxy.decoder.ports import Emit, Scorer, Teacher
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.stragglers import patience
from proxy.decoder.strategies import STRATEGIES
from proxy.decoder.tree import Node, Proposal, Slot
from proxy.decoder.types import Candidate, Problem, Result, StopCause, Trajectory
from proxy.errors import ScorerError, SearchError

_STRIKES = 2
"""A teacher that was given up so many times, and wrote nothing in between, is not asked again."""

_CALLS = 1.5
"""Calls in flight with speculation, by default: so many times those of one step."""


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

    Emits `Started` first and exactly one terminal event last, also when cancelled. With
    `settings.adaptive` the bandit says which teachers to ask, and learns from a search that
    finishes.

    Raises:
        SearchError: no teacher proposed anything, or none wrote an answer.
        ScorerError: the scorer is away or refused the text.
    """
    began_s = anyio.current_time()
    strategy = STRATEGIES[settings.strategy]
    panel = panel[: strategy.teachers]
    scored = strategy.rank == "score"
    names = tuple(teacher.name for teacher in panel)
    emit(Started(problem, settings, names, settings.score if scored else None))
    limits = Limits(settings.budget, strategy.unit)
    try:
        weights = selection.blend(settings.score) if scored else {}
        rules = Rules(settings, strategy, limits, weights)
        judge = Judge(problem, scorer, weights, emit)
        roster = _Roster(panel, settings, bandit if settings.adaptive else None, emit)
        reasoning = _Reasoning(rules, roster, emit)
        failure: SearchError | ScorerError | None = None
        async with anyio.create_task_group() as group:
            calls = Calls(problem, judge, segmentation, rules, emit, group)
            try:
                await reasoning.run(calls, began_s + settings.budget.deadline_s)
            except (SearchError, ScorerError) as exc:
                failure = exc  # raised outside of the group, which would wrap it
            calls.cancel(calls.writing)
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        winner, stopped = reasoning.winner()
        due_s = began_s + limits.answer_s
        answering = Answering(problem, panel, settings, segmentation, limits, due_s, emit)
        result = await answering.write(winner, stopped)
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
class _Roster:
    """Which teachers are asked for a step, decided once for each depth."""

    panel: Sequence[Teacher]
    settings: Settings
    bandit: Bandit | None
    emit: Emit
    decided: dict[int, tuple[Slot, ...]] = field(default_factory=dict)
    strikes: Counter[str] = field(default_factory=Counter)

    def strike(self, stragglers: Iterable[Proposal], written: Iterable[Candidate]) -> None:
        """Note who was given up at a step at which others wrote."""
        for teacher in {one.slot.teacher.name for one in stragglers if one.candidate is None}:
            self.strikes[teacher] += 1
        for candidate in written:
            self.strikes.pop(candidate.teacher, None)

    def slots(self, depth: int) -> Sequence[Slot]:
        """The slots of every prefix of this depth."""
        if depth not in self.decided:
            names = [teacher.name for teacher in self.panel]
            asked = frozenset(name for name in names if self.strikes[name] < _STRIKES)
            if self.bandit is not None:
                seed = selection.derive(self.settings.sampling.seed, "bandit", depth)
                asked &= self.bandit.choose(names, depth, seed, self.settings.exploration)
                asked = asked or frozenset(names)
            for name in names:
                if name not in asked:
                    self.emit(TeacherSkipped(depth, name))
            samples = self.settings.samples
            self.decided[depth] = tuple(
                Slot(i * samples + sample, teacher, sample)
                for i, teacher in enumerate(self.panel)
                if teacher.name in asked
                for sample in range(samples)
            )
        return self.decided[depth]

    def learn(self, candidates: Iterable[Candidate], winner: Trajectory) -> None:
        """Tell the bandit how the proposals that were decided on have ended."""
        if self.bandit is not None:
            for one in candidates:
                won = one.id in winner.path
                self.bandit.learn(one.teacher, one.depth, won, one.completion_tokens)


@dataclass(slots=True)
class _Reasoning:
    """One problem's reasoning while it is decoded. `beam` is final; the tree may know more."""

    rules: Rules
    roster: _Roster
    emit: Emit
    beam: tuple[Trajectory, ...] = (Trajectory(),)
    root: Node = field(default_factory=Node)
    committed: int = 0
    decided: list[Candidate] = field(default_factory=list)
    late: bool = False

    async def run(self, calls: Calls, deadline: float) -> None:
        """Reason until the beam has settled, a budget is spent, or the deadline passes."""
        with anyio.move_on_at(deadline) as time:
            await self._grow(calls)
        if time.cancelled_caught:
            self.late = True
            self._conclude_late(calls)
        for trajectory in self.beam:
            calls.drop(self.root.at(trajectory).below())

    def winner(self) -> tuple[Trajectory, StopCause]:
        """The best hypothesis and why the reasoning ended; what was alive beside it falls."""
        winner, *others = self.beam
        if not winner.candidates:
            limit = f"{self.rules.settings.budget.deadline_s:g} s"
            raise SearchError("deadline", f"no step was finished within {limit}")
        self._prune(_tips(others), "outranked")
        self._commit(winner.candidates)
        self.roster.learn(self.decided, winner)
        return winner, self.rules.limits.cause(winner, self.late)

    async def _grow(self, calls: Calls) -> None:
        """Take one decision after the other, each as soon as it is final."""
        settings = self.rules.settings
        while any(map(self.rules.limits.is_open, self.beam)):
            layers = plan.layers(self.beam, self.root, self.rules, self.roster.slots)
            layer = next(layers)
            for _, proposal in layer.unscored:
                if isinstance(proposal.failure, ScorerError):
                    raise proposal.failure
            waiting = patience(layer, settings, anyio.current_time())
            if waiting.overdue:
                calls.abandon(waiting.overdue)
                self.roster.strike(waiting.overdue, layer.written)
            elif layer.settled:
                before = self.beam
                self._conclude(layer, calls)
                if has_settled(before, self.beam):
                    return
            else:
                ahead = list(layers) if settings.speculate == "auto" else []
                self._steer(calls, [layer, *ahead])
                await calls.news(waiting.until)

    def _steer(self, calls: Calls, layers: Sequence[Layer]) -> None:
        """Start what is wanted, in order of worth; stop what no layer wants any more."""
        wanted = {want.proposal for layer in layers for want in layer.wants}
        calls.cancel([one for one in calls.writing if one not in wanted])
        calls.stop_judging([one for one in calls.judging if one not in wanted])
        first, *later = layers
        most = self.rules.settings.max_calls or int(_CALLS * self._calls_a_step)
        speculative = [one for layer in later for one in layer.proposals if one in calls.writing]
        excess = max(len(calls.writing) + len(first.missing) - most, 0)
        # The least worthy make room for what the next decision waits for.
        calls.cancel(speculative[max(len(speculative) - excess, 0) :])
        for layer in layers:
            urgent = layer is first
            for want in layer.missing:
                if urgent or len(calls.writing) < most:
                    calls.request(want)
            for want, proposal in layer.unscored:
                calls.score(want, proposal, urgent=urgent)
        if calls.judge.weighs:
            calls.weigh(first)

    @property
    def _calls_a_step(self) -> int:
        width = self.rules.strategy.width or self.rules.settings.beam_width
        return width * len(self.roster.panel) * self.rules.settings.samples

    def _conclude(self, layer: Layer, calls: Calls) -> None:
        """Make a layer's decision final: drop what falls, commit what all survivors share."""
        if layer.decision is None or not (layer.landed or any(t.closed for t in self.beam)):
            reasons = "; ".join(dict.fromkeys(layer.failures))
            raise SearchError("no_candidates", reasons or "no teacher wrote anything in this step")
        decision = layer.decision
        self.beam = decision.beam
        self.decided += layer.written
        self._prune([one.id for one in layer.empty], "empty")
        for proposal, kept in layer.duplicates:
            self.emit(Pruned(proposal.id, "duplicate", kept.id))
        self._prune([one.id for one in layer.surplus], "rank")
        self._prune(_tips(decision.outranked), "rank")
        self._prune(_tips(decision.repeated), "duplicate")
        self._prune(_tips(decision.lagging), "lag")
        calls.drop(self._fallen(layer))
        living = [trajectory for trajectory in self.beam if not trajectory.closed]
        closed = [trajectory for trajectory in self.beam if trajectory.closed]
        self.emit(StepDecided(layer.depth, _tips(living), _tips(closed)))
        self._commit(selection.shared(self.beam))

    def _conclude_late(self, calls: Calls) -> None:
        """The deadline has passed: decide by what has landed of the open step, if anything has."""
        if any(map(self.rules.limits.is_open, self.beam)):
            layer = plan.grow(self.beam, self.root, self.rules, self.roster.slots)
            calls.abandon(layer.unsettled)
            if layer.landed:
                self._conclude(layer, calls)

    def _fallen(self, layer: Layer) -> list[Proposal]:
        """Take what was asked ahead under prefixes that did not survive out of the tree."""
        is_open = self.rules.limits.is_open
        alive = {self.root.at(trajectory) for trajectory in self.beam if is_open(trajectory)}
        needed = {want.proposal for want in layer.wants}
        fallen: list[Proposal] = []
        for node in dict.fromkeys(want.node for want in layer.wants):
            fallen += [one for one in node.proposals.values() if one not in needed]
            node.proposals.clear()
            for step, child in list(node.children.items()):
                if child not in alive:
                    fallen += child.below()
                    del node.children[step]
        return fallen

    def _prune(self, ids: Iterable[int], reason: PruneReason) -> None:
        for id in ids:
            self.emit(Pruned(id, reason))

    def _commit(self, candidates: Sequence[Candidate]) -> None:
        """Announce the steps that have become final since the last time."""
        for candidate in candidates[self.committed :]:
            self.emit(Committed(candidate))
        self.committed = max(self.committed, len(candidates))


def _tips(trajectories: Iterable[Trajectory]) -> tuple[int, ...]:
    return tuple(trajectory.candidates[-1].id for trajectory in trajectories)
