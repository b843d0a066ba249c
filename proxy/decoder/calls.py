"""The calls of one search: to teachers that write proposals, to the scorer that judges them.

Starts and stops them, keeps what came of them in the tree, and wakes whoever waits for news. What
to start and what to stop is decided elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from proxy.decoder import selection
from proxy.decoder.events import (
    ProposalCancelled,
    ProposalRequested,
    Proposed,
    Pruned,
    TeacherFailed,
)
from proxy.decoder.judging import Judge
from proxy.decoder.plan import Layer, Rules, Want
from proxy.decoder.ports import Emit
from proxy.decoder.prefill import Prefill
from proxy.decoder.steps import Segmentation
from proxy.decoder.tree import Proposal
from proxy.decoder.types import Candidate, Problem, TeacherRequest
from proxy.errors import ScorerError, TeacherError


@dataclass(slots=True)
class Calls:
    """What one search has in flight. `paces` are tokens a second, by teacher."""

    problem: Problem
    judge: Judge
    segmentation: Segmentation
    rules: Rules
    emit: Emit
    group: TaskGroup
    writing: dict[Proposal, Want] = field(default_factory=dict)
    judging: dict[Proposal, anyio.CancelScope] = field(default_factory=dict)
    requested: int = 0
    paces: dict[str, list[float]] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)

    async def news(self, until: float | None) -> None:
        """Wait for a call to come to its end, or for a moment on anyio's clock."""
        with anyio.move_on_at(float("inf") if until is None else until):
            await self._news.wait()
        self._news = anyio.Event()

    def request(self, want: Want) -> None:
        """Ask a teacher for a proposal."""
        proposal = Proposal(self.requested, want.slot, want.depth, anyio.current_time())
        self.requested += 1
        want.node.proposals[want.key] = proposal
        self.writing[proposal] = want
        teacher = want.slot.teacher.name
        self.emit(ProposalRequested(proposal.id, want.prefix.tip, want.depth, teacher))
        self.group.start_soon(self._write, proposal, want)

    def cancel(self, proposals: Iterable[Proposal]) -> None:
        """Stop calls to teachers whose outcome no longer matters. They may be made again."""
        for proposal in list(proposals):
            want = self.writing.pop(proposal)
            del want.node.proposals[want.key]
            proposal.call.cancel()
            teacher = want.slot.teacher.name
            pace = statistics.fmean(self.paces.get(teacher) or [0.0])
            tokens = round(pace * (anyio.current_time() - proposal.requested_s))
            self.emit(ProposalCancelled(proposal.id, teacher, min(tokens, want.max_tokens)))

    def abandon(self, proposals: Iterable[Proposal]) -> None:
        """Give up stragglers for good."""
        for proposal in proposals:
            proposal.abandoned = True
            self.stop_judging([proposal])
            if proposal not in self.writing:
                self.emit(Pruned(proposal.id, "unscored"))
                continue
            teacher = self.writing.pop(proposal).slot.teacher.name
            proposal.call.cancel()
            message = f"{teacher}: no proposal in the time that is usual for this step"
            self.emit(TeacherFailed(proposal.id, teacher, "straggler", message))

    def drop(self, proposals: Iterable[Proposal]) -> None:
        """Give up what was asked for ahead of need and turned out not to be needed."""
        for proposal in proposals:
            self.stop_judging([proposal])
            if proposal in self.writing:
                self.cancel([proposal])
            elif proposal.candidate is not None:
                self.emit(Pruned(proposal.id, "speculative"))

    def score(self, want: Want, proposal: Proposal, *, urgent: bool) -> None:
        """Have a proposal scored. One that is being scored ahead is asked for again when urgent."""
        if proposal.elicited is not None or proposal.failure is not None:
            return
        if proposal in self.judging:
            if not (urgent and proposal.ahead):
                return
            self.stop_judging([proposal])
        proposal.ahead = not urgent
        scope = self.judging[proposal] = anyio.CancelScope()
        self.group.start_soon(self._judge, proposal, want.prefix.text, None, scope)

    def weigh(self, layer: Layer) -> None:
        """Once all proposals of a step have arrived, weigh them against each other."""
        pool = [proposal for _, proposal in layer.unscored]
        if layer.missing or len(pool) < len(layer.unsettled):
            return
        if any(one.elicited is None or one in self.judging for one in pool):
            return
        for want, proposal in layer.unscored:
            scope = self.judging[proposal] = anyio.CancelScope()
            self.group.start_soon(self._judge, proposal, want.prefix.text, pool, scope)

    def stop_judging(self, proposals: Iterable[Proposal]) -> None:
        """Take scores back from the scorer's queue, where they are in it."""
        for proposal in proposals:
            scope = self.judging.pop(proposal, None)
            if scope is not None:
                scope.cancel()

    async def _write(self, proposal: Proposal, want: Want) -> None:
        """One call to a teacher. A failing teacher is an event, and the search goes on."""
        teacher = want.slot.teacher
        prefill = self._prefill(want)
        try:
            with proposal.call:
                on_text = prefill.on_text if prefill else None
                written = await teacher.write(self._step_request(want), on_text)
        except TeacherError as exc:
            if proposal in self.writing:
                proposal.failure = exc
                self.emit(TeacherFailed(proposal.id, teacher.name, exc.kind, str(exc)))
                del self.writing[proposal]
                self._settled(proposal)
            return
        finally:
            if prefill is not None:
                prefill.end()
        if proposal not in self.writing:
            return  # cancelled in the very moment it was done
        del self.writing[proposal]
        self._settled(proposal)
        proposal.candidate = Candidate(
            id=proposal.id,
            parent=want.prefix.tip,
            depth=want.depth,
            teacher=teacher.name,
            text=self.segmentation.canonical(want.depth, written.text),
            ended=written.ended,
            prompt_tokens=written.prompt_tokens,
            completion_tokens=written.completion_tokens,
            tokens_estimated=written.tokens_estimated,
            slot=want.slot.index,
        )
        seconds = proposal.settled_s - proposal.requested_s
        if written.completion_tokens and seconds:
            self.paces.setdefault(teacher.name, []).append(written.completion_tokens / seconds)
        self.emit(Proposed(proposal.candidate))

    def _step_request(self, want: Want) -> TeacherRequest:
        prefix, slot, segmentation = want.prefix.text, want.slot, self.segmentation
        sampling = self.rules.settings.sampling
        return TeacherRequest(
            messages=segmentation.instruct(self.problem.messages),
            reasoning=prefix + segmentation.header(want.depth),
            answer=None,
            stop=segmentation.stops if self.rules.strategy.unit == "step" else (),
            max_tokens=want.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=selection.derive(sampling.seed, prefix, slot.teacher.name, slot.sample),
            tools=self.problem.tools,
            min_chars=segmentation.min_step_chars,
        )

    def _prefill(self, want: Want) -> Prefill | None:
        """Hands the step to the scorer while it is written, where that is wanted."""
        if not (self.rules.settings.prefill_partial_steps and self.rules.scored):
            return None
        score, prefix = next(iter(self.rules.weights)), want.prefix.text
        prefill = Prefill(
            self.problem, self.judge.scorer, self.segmentation, prefix, want.depth, score
        )
        self.group.start_soon(prefill.run)
        return prefill

    async def _judge(
        self,
        proposal: Proposal,
        prefix: str,
        pool: Sequence[Proposal] | None,
        scope: anyio.CancelScope,
    ) -> None:
        """One proposal's scores; with a pool, how it is weighed against the others."""
        with scope:
            try:
                if pool is None:
                    await self.judge.score(proposal, prefix, ahead=proposal.ahead)
                else:
                    await self.judge.weigh(proposal, prefix, pool)
            except ScorerError as exc:
                proposal.failure = exc
        if self.judging.get(proposal) is scope:
            del self.judging[proposal]
            self._settled(proposal)

    def _settled(self, proposal: Proposal) -> None:
        """A call has come to its end: plan again."""
        proposal.settled_s = anyio.current_time()
        self._news.set()
