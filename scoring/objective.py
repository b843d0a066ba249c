"""What is scored: each objective turns a tree into spans of text and their log-probabilities into
scores.

Pure: no torch, no tokens. An objective says which texts are to be read (`passages`) and how the models'
log-probabilities of the marked parts make a score (`combine`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from scoring.errors import BadScoreRequest
from scoring.types import CandidateScore, ModelScore, ScoreRequest


@dataclass(frozen=True, slots=True)
class Passage:
    """A continuation of the conversation. Only `scored` counts; `closing` elicits an answer on
    closed thinking.

    A plain step is `reasoning` + `scored`. With `closing`, the thinking is closed after
    `reasoning`, the model's elicitation is written, and `scored` is the answer in it; or with
    `write` > 0, what the model itself then answers in so many tokens at most. With `verdict` it is
    asked about the reasoning instead. With `ahead` > 0 the model first goes on reasoning by itself,
    likeliest token by token: by one step, or with `to_end` until it closes its thinking, in so many
    tokens at most. `weight` is the passage's share in its candidate's score, for the objectives
    that weigh.
    """

    candidate: int
    reasoning: str
    scored: str
    closing: bool
    write: int = 0
    verdict: bool = False
    weight: float = 1.0
    ahead: int = 0
    to_end: bool = False


@dataclass(frozen=True, slots=True)
class Marks:
    """A passage under one model: the log-probability of each scored token in nats, over `bytes`
    bytes of text.

    `written` is what the model answered, if it was to; `weight` is the passage's.
    """

    model: str
    logs: tuple[float, ...]
    bytes: int
    written: str = ""
    weight: float = 1.0

    @property
    def mean(self) -> float:
        """Nats a token."""
        return sum(self.logs) / len(self.logs)

    @property
    def share(self) -> ModelScore:
        """As callers see it."""
        return ModelScore(self.model, sum(self.logs), len(self.logs), self.bytes)


class Objective(Protocol):
    """One way to score. `graded` ones ask reward models, the others language models."""

    graded: ClassVar[bool]

    def passages(self, request: ScoreRequest) -> list[Passage]:
        """The texts to read under every model of the request."""
        ...

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        """One candidate's score from its passages, each under every model of the request."""
        ...


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Predictive:
    """Predictive perplexity (arXiv 2605.02290): how predictable the answer has become.

    S = exp((1/M) Σ log p(a_i | x, τ⊕s, a_<i)) over the M tokens of the answer; nats = log S, length 1. With several
    reference answers the most predictable counts, or with `mean` the arithmetic mean of their S. With `arithmetic`,
    S = (1/M) Σ p(a_i | …) instead, which one unlikely token hurts less (RLPR, arXiv 2506.18254).
    Cost: one closing, elicitation and answer a candidate and reference, on top of the step itself.
    """

    graded: ClassVar[bool] = False
    mean: bool = False
    arithmetic: bool = False

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        if not tree.answers:
            raise BadScoreRequest("this objective needs reference answers", param="tree.answers")
        return [
            Passage(i, tree.prefix + candidate, answer, closing=True)
            for i, candidate in enumerate(tree.candidates)
            for answer in tree.answers
        ]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        logs = [_mean([self._log(marks) for marks in parts]) for parts in passages]
        best = max(range(len(logs)), key=logs.__getitem__)
        nats = _log_mean_exp(logs) if self.mean else logs[best]
        return CandidateScore(nats, 1.0, tuple(marks.share for marks in passages[best]))

    def _log(self, marks: Marks) -> float:
        return _log_mean_exp(marks.logs) if self.arithmetic else marks.mean


@dataclass(frozen=True, slots=True)
class LookAhead(Predictive):
    """Predictive perplexity after the model has gone on by itself, greedily: by one step, or
    `to_end`.

    A weak meta-prover that must answer at once names the last number it saw, so a step that
    computes scores below one that announces. After a step of its own it has used what the candidate
    gave it. The score is `Predictive`'s of prefix, candidate and what the model wrote (`written`),
    `tokens` of it at most; where it closes its thinking at once it is `Predictive`'s own. Cost: on
    top of that a forward a written token.
    """

    tokens: int = 64
    to_end: bool = False

    def passages(self, request: ScoreRequest) -> list[Passage]:
        found = Predictive.passages(self, request)
        return [replace(passage, ahead=self.tokens, to_end=self.to_end) for passage in found]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        found = Predictive.combine(self, candidate, passages)
        return replace(found, written=tuple(marks.written for marks in passages[0]))


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure the model is of the answer it would give itself now (after DeepConf, arXiv
    2508.15260).

    The answer is elicited greedily, `longest` tokens at most; nats = (1/M) Σ log p(a_i | …), length
    1. A model that is wrong in a system is sure of it all the same. Cost: the elicitation, and a
    forward a token of the answer.
    """

    graded: ClassVar[bool] = False
    longest: int = 32

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        return [
            Passage(i, tree.prefix + text, "", True, self.longest)
            for i, text in enumerate(tree.candidates)
        ]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        (parts,) = passages
        nats = _mean([marks.mean for marks in parts])
        return CandidateScore(
            nats,
            1.0,
            tuple(marks.share for marks in parts),
            tuple(marks.written for marks in parts),
        )


@dataclass(frozen=True, slots=True)
class Expected(Predictive):
    """How predictable the answers are that others came to: nats = Σ_u π(u) (1/M) Σ log p(u_i | …),
    length 1.

    π are the tree's `weights` of its `answers`, by which a caller has pooled what several models
    answered after other candidates; with a pool of one answer it is predictive perplexity. Cost: as
    that, for each answer of the pool.
    """

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        if len(tree.weights) != len(tree.answers):
            raise BadScoreRequest("one weight an answer is needed", param="tree.weights")
        weights = tree.weights * len(tree.candidates)
        found = Predictive.passages(self, request)
        return [
            replace(passage, weight=weight) for passage, weight in zip(found, weights, strict=True)
        ]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        nats = sum(parts[0].weight * _mean([marks.mean for marks in parts]) for parts in passages)
        return CandidateScore(nats, 1.0, tuple(marks.share for marks in passages[0]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A model's judgment of the reasoning so far, as a generative verifier's (arXiv 2408.15240).

    nats = log p(yes) - log(p(yes) + p(no)) to the question whether all of it is right, length 1; the mean over models.
    Cost: one closing, question and word a candidate, twice.
    """

    graded: ClassVar[bool] = False

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        return [
            Passage(i, tree.prefix + candidate, word, closing=True, verdict=True)
            for i, candidate in enumerate(tree.candidates)
            for word in ("yes", "no")
        ]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        yes, no = passages
        pairs = [(sum(left.logs), sum(right.logs)) for left, right in zip(yes, no, strict=True)]
        nats = _mean([left - (_log_mean_exp((left, right)) + math.log(2)) for left, right in pairs])
        return CandidateScore(nats, 1.0, tuple(marks.share for marks in yes))


@dataclass(frozen=True, slots=True)
class StepLikelihood:
    """The step's own likelihood: nats = Σ log p(w_i | w_<i), length = its tokens, means over the
    models asked.

    Step perplexity is PPL = exp(-nats / length). Dividing by length**alpha, the caller normalises as it likes.
    Cost: the step alone.
    """

    graded: ClassVar[bool] = False

    def passages(self, request: ScoreRequest) -> list[Passage]:
        tree = request.tree
        return [
            Passage(i, tree.prefix, candidate, closing=False)
            for i, candidate in enumerate(tree.candidates)
        ]

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        (parts,) = passages
        shares = tuple(marks.share for marks in parts)
        return CandidateScore(
            _mean([s.nats for s in shares]), _mean([s.tokens for s in shares]), shares
        )


@dataclass(frozen=True, slots=True)
class ChunkLikelihood(StepLikelihood):
    """The likelihood of the step's chunks of `size` tokens, all of one length, so that no step
    gains by its own.

    nats = the mean over whole chunks of Σ log p(w_i | w_<i), or with `worst` the least of them (the
    lowest window of DeepConf, arXiv 2508.15260); length 1. A last chunk that is not whole is left
    out, unless it is the only one: then its mean a token stands for the missing. Against length
    bias, arXiv 2606.01682. Cost: the step alone.
    """

    size: int = 16
    worst: bool = False

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        (parts,) = passages
        nats = _mean([self._nats(marks.logs) for marks in parts])
        return CandidateScore(nats, 1.0, tuple(marks.share for marks in parts))

    def _nats(self, logs: Sequence[float]) -> float:
        if len(logs) < self.size:
            return _mean(logs) * self.size
        whole = len(logs) - len(logs) % self.size
        chunks = [sum(logs[at : at + self.size]) for at in range(0, whole, self.size)]
        return min(chunks) if self.worst else _mean(chunks)


@dataclass(frozen=True, slots=True)
class CrossLikelihood(StepLikelihood):
    """Cross-perplexity: the step's log-likelihood averaged over a panel of models, a soft vote on
    the step.

    nats = (1/J) Σ_j Σ_i log p_j(w_i | w_<i); length = UTF-8 bytes of the step, so that tokenizers compare.
    Cost: the step once under each of the J models. Holds while the judges' errors are independent.
    """

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        (parts,) = passages
        shares = tuple(marks.share for marks in parts)
        return CandidateScore(
            _mean([s.nats for s in shares]), float(len(candidate.encode())), shares
        )


@dataclass(frozen=True, slots=True)
class Contrastive(StepLikelihood):
    """What the meta-prover finds in a step beyond what made its proposer write it (arXiv
    2606.01682).

    nats = Σ log p_meta(w_i | w_<i) - Σ log p_proposer(w_i | w_<i); length = UTF-8 bytes of the
    step. The proposer's part comes with the tree (`proposed`, where its server returned
    log-probabilities), or is the request's second model. Cost: the step once under each model
    asked.
    """

    def passages(self, request: ScoreRequest) -> list[Passage]:
        if len(request.models) + bool(request.tree.proposed) != 2:
            raise BadScoreRequest(
                "this objective compares a model with the proposer: give two models, or `proposed`",
                param="models",
            )
        return StepLikelihood.passages(self, request)

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        ((own, proposer),) = passages
        nats = own.share.nats - proposer.share.nats
        return CandidateScore(nats, float(len(candidate.encode())), (own.share, proposer.share))


@dataclass(frozen=True, slots=True)
class Reward(StepLikelihood):
    """What a reward model, trained to tell good reasoning from bad, makes of the trajectory up to
    the step's end.

    nats = its log-probability of "good" (`scoring.grader`), length 1; the mean over the models
    asked. Cost: the conversation and the whole trajectory, anew for every candidate.
    """

    graded: ClassVar[bool] = True

    def combine(self, candidate: str, passages: Sequence[Sequence[Marks]]) -> CandidateScore:
        (parts,) = passages
        nats = _mean([marks.logs[-1] for marks in parts])
        return CandidateScore(
            nats,
            1.0,
            tuple(ModelScore(marks.model, marks.logs[-1], 1, marks.bytes) for marks in parts),
        )


OBJECTIVES: dict[str, Objective] = {
    "predictive": Predictive(),
    "predictive-mean": Predictive(mean=True),
    "predictive-arithmetic": Predictive(arithmetic=True),
    "lookahead": LookAhead(),
    "lookahead-rollout": LookAhead(tokens=192, to_end=True),
    "confidence": Confidence(),
    "expected": Expected(),
    "verdict": Verdict(),
    "reward": Reward(),
    "step": StepLikelihood(),
    "chunks": ChunkLikelihood(),
    "worst-chunk": ChunkLikelihood(worst=True),
    "cross": CrossLikelihood(),
    "contrastive": Contrastive(),
}
"""By the name a request uses."""


def _log_mean_exp(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(_mean([math.exp(log - top) for log in logs]))


def objective(name: str) -> Objective:
    """Look an objective up.

    Raises:
        BadScoreRequest: there is none of this name.
    """
    found = OBJECTIVES.get(name)
    if found is None:
        raise BadScoreRequest(
            f"unknown objective {name!r}; known are {', '.join(OBJECTIVES)}", param="objective"
        )
    return found
