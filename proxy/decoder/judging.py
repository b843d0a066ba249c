"""Scoring one proposal: by one score, by a blend, or against what the others would answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.decoder import selection
from proxy.decoder.events import Scored, ScoreRequested
from proxy.decoder.ports import Emit, Scorer
from proxy.decoder.tree import Proposal
from proxy.decoder.types import Problem, Source

CONSENSUS = Source.CONSENSUS.value
"""The score that is known only when all proposals of a step are in."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores one problem's proposals by a blend: `weights` by the name of the score."""

    problem: Problem
    scorer: Scorer
    weights: Mapping[str, float]
    emit: Emit

    @property
    def weighs(self) -> bool:
        """Whether proposals must be weighed against each other once all are in."""
        return CONSENSUS in self.weights

    async def score(self, proposal: Proposal, prefix: str, *, ahead: bool) -> None:
        """Find every score that can be told of the proposal alone; elicit answers if needed.

        Raises:
            ScorerError: the scorer is away or refused the text.
        """
        candidate = proposal.candidate
        assert candidate is not None
        step = candidate.text
        self.emit(ScoreRequested(candidate.id))
        if self.weighs:
            proposal.elicited, proposal.elicited_tokens = await self.scorer.elicit(
                self.problem, prefix, step
            )
        for name in self.weights:
            if name != CONSENSUS:
                proposal.scores[name] = await self.scorer.score(
                    self.problem, prefix, step, name, candidate.teacher, ahead=ahead
                )
        if not self.weighs:
            self._join(proposal)

    async def weigh(self, proposal: Proposal, prefix: str, pool: Sequence[Proposal]) -> None:
        """Score a proposal by what the others of the pool would answer.

        Raises:
            ScorerError: the scorer is away or refused the text.
        """
        candidate = proposal.candidate
        assert candidate is not None
        elicited = {one.id: one.elicited or () for one in pool}
        answers = selection.answers_of_others(elicited, candidate.id)
        score = await self.scorer.score(
            self.problem, prefix, candidate.text, CONSENSUS, candidate.teacher, answers
        )
        tokens = score.tokens_forwarded + proposal.elicited_tokens
        proposal.scores[CONSENSUS] = replace(score, tokens_forwarded=tokens)
        self._join(proposal)

    def _join(self, proposal: Proposal) -> None:
        """All scores are known: join them in the order of the blend."""
        first, *others = (proposal.scores[name] for name in self.weights)
        proposal.score = replace(first, blended=tuple(others))
        self.emit(Scored(proposal.id, proposal.score))
