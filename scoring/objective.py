"""What is scored: each objective turns a tree into spans of text and their log-probabilities into scores.

Pure: no torch, no tokens. An objective says which texts are to be read (`passages`) and how the models'
log-probabilities of the marked parts make a score (`combine`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scoring.errors import BadScoreRequest
from scoring.types import CandidateScore, ModelScore, ScoreRequest


@dataclass(frozen=True, slots=True)
class Passage:
    """A continuation of the conversation. Only `scored` counts; `closing` elicits an answer on closed thinking.

    A plain step is `reasoning` + `scored`. With `closing`, the thinking is closed after `reasoning`, the model's
    elicitation is written, and `scored` is the answer in it.
    """

    candidate: int
    reasoning: str
    scored: str
    closing: bool


class Objective(Protocol):
    """One way to score."""

    def passages(self, request: ScoreRequest) -> list[Passage]:
        """The texts to read under every model of the request."""
        ...

    def combine(self, candidate: str, scores: Sequence[Sequence[ModelScore]]) -> CandidateScore:
        """One candidate's score from its passages, each under every model."""
        ...


@dataclass(frozen=True, slots=True)
class Predictive:
    """Predictive perplexity (arXiv 2605.02290): how predictable the answer has become.

    S = exp((1/M) Σ log p(a_i | x, τ⊕s, a_<i)) over the M tokens of the answer; nats = log S, length 1.
    With several reference answers the most predictable counts, or with `mean` the arithmetic mean of their S.
    Cost: one closing, elicitation and answer a candidate and reference, on top of the step itself.
    """

    mean: bool = False

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        if not tree.answers:
            raise BadScoreRequest("this objective needs reference answers", param="tree.answers")
        return [
            Passage(i, tree.prefix + candidate, answer, closing=True)
            for i, candidate in enumerate(tree.candidates)
            for answer in tree.answers
        ]

    def combine(self, candidate: str, scores: Sequence[Sequence[ModelScore]]) -> CandidateScore:
        logs = [sum(part.nats / part.tokens for part in parts) / len(parts) for parts in scores]
        best = max(range(len(logs)), key=logs.__getitem__)
        if not self.mean:
            return CandidateScore(logs[best], 1.0, tuple(scores[best]))
        mean = math.log(sum(math.exp(log - logs[best]) for log in logs) / len(logs)) + logs[best]
        return CandidateScore(mean, 1.0, tuple(scores[best]))


@dataclass(frozen=True, slots=True)
class StepLikelihood:
    """The step's own likelihood under one model: nats = Σ log p(w_i | w_<i), length = its tokens.

    Step perplexity is PPL = exp(-nats / length). Cost: the step alone.
    """

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        return [Passage(i, tree.prefix, candidate, closing=False) for i, candidate in enumerate(tree.candidates)]

    def combine(self, candidate: str, scores: Sequence[Sequence[ModelScore]]) -> CandidateScore:
        (parts,) = scores
        nats = sum(part.nats for part in parts) / len(parts)
        return CandidateScore(nats, sum(part.tokens for part in parts) / len(parts), tuple(parts))


@dataclass(frozen=True, slots=True)
class CrossLikelihood(StepLikelihood):
    """Cross-perplexity: the step's log-likelihood averaged over a panel of models, a soft vote on the step.

    nats = (1/J) Σ_j Σ_i log p_j(w_i | w_<i); length = UTF-8 bytes of the step, so that tokenizers compare.
    Cost: the step once under each of the J models. Holds while the judges' errors are independent.
    """

    def combine(self, candidate: str, scores: Sequence[Sequence[ModelScore]]) -> CandidateScore:
        (parts,) = scores
        nats = sum(part.nats for part in parts) / len(parts)
        return CandidateScore(nats, float(len(candidate.encode())), tuple(parts))


OBJECTIVES: dict[str, Objective] = {
    "predictive": Predictive(),
    "predictive-mean": Predictive(mean=True),
    "step": StepLikelihood(),
    "cross": CrossLikelihood(),
}
"""By the name a request uses."""


def objective(name: str) -> Objective:
    """Look an objective up.

    Raises:
        BadScoreRequest: there is none of this name.
    """
    found = OBJECTIVES.get(name)
    if found is None:
        raise BadScoreRequest(f"unknown objective {name!r}; known are {', '.join(OBJECTIVES)}", param="objective")
    return found
