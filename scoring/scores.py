"""The registry of scores: everything there is to know about a score without computing it. Pure
data, free of torch.

Configuration, API, proxy, docs and tests read it. How an objective's passages and numbers are made
is in `scoring.objective`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Source = Literal["reference", "consensus", "none"]
"""Where the knowledge in a score comes from: an answer that the request brought, answers that the
judges were asked for, or neither."""


class Asked(StrEnum):
    """Which models a score asks. The values are for readers."""

    META_PROVER = "meta-prover"
    JUDGES = "all judges"
    OTHER_JUDGES = "all judges but the step's author"
    PROPOSER = "meta-prover and proposer"
    REWARD_MODELS = "reward models"


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """One score, by the name that requests and configuration use.

    `objective` is what the scoring service computes for it. An `additive` score judges a step
    alone, so that a trajectory's score sums over its steps; any other judges the trajectory so far.
    `paper` is an arXiv number.
    """

    name: str
    objective: str
    source: Source
    asks: Asked
    additive: bool
    formula: str
    cost: str
    paper: str = ""

    @property
    def needs_reference(self) -> bool:
        """Whether the request must bring an answer."""
        return self.source == "reference"

    @property
    def needs(self) -> str:
        """What must be there for it, in words; empty where a meta-prover is enough."""
        if self.needs_reference:
            return "a reference answer"
        return {
            Asked.OTHER_JUDGES: "two judges",
            Asked.PROPOSER: "every teacher among `scorer.models`, by its name",
            Asked.REWARD_MODELS: "`scorer.reward_models`",
        }.get(self.asks, "")

    def models(
        self,
        *,
        meta_prover: str,
        judges: Sequence[str],
        reward_models: Sequence[str],
        proposer: str,
    ) -> tuple[str, ...]:
        """The models to ask about a step that `proposer` wrote; an unknown proposer is empty."""
        match self.asks:
            case Asked.JUDGES:
                return tuple(judges)
            case Asked.OTHER_JUDGES:
                return tuple(name for name in judges if name != proposer)
            case Asked.PROPOSER if proposer:
                return meta_prover, proposer
            case Asked.REWARD_MODELS:
                return tuple(reward_models)
        return (meta_prover,)


_ANSWER = "closing, elicitation and answer per candidate"
_STEP = "the step"

SCORES: dict[str, ScoreSpec] = {
    spec.name: spec
    for spec in (
        ScoreSpec(
            "predictive", "predictive", "reference", Asked.META_PROVER, False,
            "mean log p of the reference answer after closing the thinking; of several references the best",
            f"{_ANSWER} and reference", "2605.02290",
        ),
        ScoreSpec(
            "predictive-mean", "predictive-mean", "reference", Asked.META_PROVER, False,
            "the same, but of several references the log of their mean probability",
            f"{_ANSWER} and reference", "2605.02290",
        ),
        ScoreSpec(
            "predictive-arithmetic", "predictive-arithmetic", "reference", Asked.META_PROVER, False,
            "log of the mean probability of the reference answer's tokens",
            f"{_ANSWER} and reference", "2506.18254",
        ),
        ScoreSpec(
            "lookahead", "lookahead", "reference", Asked.META_PROVER, False,
            "`predictive` after the meta-prover has written one more step of its own (greedy, at most 64 tokens)",
            f"{_ANSWER} and reference, a forward per token of the step",
        ),
        ScoreSpec(
            "lookahead-rollout", "lookahead-rollout", "reference", Asked.META_PROVER, False,
            "`predictive` after the meta-prover has reasoned on until it closes its thinking (at most 192 tokens)",
            f"{_ANSWER} and reference, a forward per token of the rollout",
        ),
        ScoreSpec(
            "cross", "cross", "none", Asked.JUDGES, True,
            "log p of the step, averaged over the judges, in nats per byte",
            f"{_STEP}, under every judge",
        ),
        ScoreSpec(
            "cross-others", "cross", "none", Asked.OTHER_JUDGES, True,
            "the same without the judge that wrote the step, where it is one",
            f"{_STEP}, under every other judge",
        ),
        ScoreSpec(
            "step", "step", "none", Asked.META_PROVER, True,
            "log p of the step, in nats per token", _STEP,
        ),
        ScoreSpec(
            "chunks", "chunks", "none", Asked.META_PROVER, True,
            "log p of the step's chunks of 16 tokens: their mean", _STEP, "2606.01682",
        ),
        ScoreSpec(
            "worst-chunk", "worst-chunk", "none", Asked.META_PROVER, True,
            "log p of the step's chunks of 16 tokens: the least", _STEP, "2508.15260",
        ),
        ScoreSpec(
            "contrastive", "contrastive", "none", Asked.PROPOSER, True,
            "log p of the step under the meta-prover less that under the teacher that wrote it, in nats per byte",
            f"{_STEP}, under two models", "2606.01682",
        ),
        ScoreSpec(
            "confidence", "confidence", "none", Asked.META_PROVER, False,
            "mean log p of the answer that the meta-prover would give now",
            f"{_ANSWER}, a forward per token of it", "2508.15260",
        ),
        ScoreSpec(
            "consensus", "expected", "consensus", Asked.JUDGES, False,
            "mean log p of the answers that the judges would give after the *other* candidates of the step, each "
            "answer by its share; known once all proposals of the step are in",
            f"{_ANSWER} and pooled answer, under every judge, twice",
        ),
        ScoreSpec(
            "verdict", "verdict", "none", Asked.META_PROVER, False,
            "log p of \"yes\" against \"no\" to whether all steps are correct",
            "closing, question and word per candidate, twice", "2408.15240",
        ),
        ScoreSpec(
            "reward", "reward", "none", Asked.REWARD_MODELS, False,
            "log p of \"good\"", "conversation and trajectory per candidate, read anew",
        ),
    )
}  # fmt: skip
"""By name."""


def available_scores(
    *,
    teachers: Collection[str],
    models: Collection[str],
    judges: Collection[str],
    reward_models: Collection[str],
) -> frozenset[str]:
    """The names of the scores that can judge what these teachers write, with these models in the
    scoring service."""
    possible = {
        Asked.OTHER_JUDGES: len(judges) > 1,
        Asked.PROPOSER: set(teachers) <= set(models),
        Asked.REWARD_MODELS: bool(reward_models),
    }
    return frozenset(name for name, spec in SCORES.items() if possible.get(spec.asks, True))
