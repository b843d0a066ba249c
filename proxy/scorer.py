"""The decoder's scorer over the scoring service: what is asked of which models, and what the reply means.

The meta-prover judges against references; the panel of judges shares the cross-perplexity. References go into a
scoring request only when the problem brought them and the objective is one that reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from proxy.decoder.types import Problem, Score, ScorePart, Source
from proxy.errors import ScorerError
from scoring.client import BadScoreRequest, ScorerClient, ScorerUnavailable
from scoring.types import Message, ScoreRequest, Tree


@dataclass(frozen=True, slots=True)
class Objective:
    """How an objective of the scoring service is used here.

    `panel` asks all judges rather than the meta-prover alone, `contrast` the proposer beside it, which must be among
    the scorer's models by the teacher's name; `adds_up` as in `decoder.types.Score`.
    """

    source: Source
    panel: bool
    adds_up: bool
    contrast: bool = False


OBJECTIVES = {
    "predictive": Objective(Source.REFERENCE, panel=False, adds_up=False),
    "predictive-mean": Objective(Source.REFERENCE, panel=False, adds_up=False),
    "step": Objective(Source.NONE, panel=False, adds_up=True),
    "predictive-arithmetic": Objective(Source.REFERENCE, panel=False, adds_up=False),
    "confidence": Objective(Source.NONE, panel=False, adds_up=False),
    "chunks": Objective(Source.NONE, panel=False, adds_up=True),
    "worst-chunk": Objective(Source.NONE, panel=False, adds_up=True),
    "cross": Objective(Source.NONE, panel=True, adds_up=True),
    "contrastive": Objective(Source.NONE, panel=False, adds_up=True, contrast=True),
}
"""By the names of the scoring service's objectives."""


def usable(teachers: Collection[str], models: Collection[str]) -> frozenset[str]:
    """The objectives that can score what these teachers write, with these models in the scoring service."""
    everyone = set(teachers) <= set(models)
    return frozenset(name for name, kind in OBJECTIVES.items() if everyone or not kind.contrast)


@dataclass(frozen=True, slots=True)
class RemoteScorer:
    """A `decoder.ports.Scorer` whose models live in the scoring service."""

    client: ScorerClient
    meta_prover: str
    judges: tuple[str, ...]

    async def score(self, problem: Problem, prefix: str, step: str, objective: str, proposer: str = "") -> Score:
        """Score one step; see `decoder.ports.Scorer`."""
        kind = OBJECTIVES[objective]
        answers = problem.references if kind.source is Source.REFERENCE else ()
        request = ScoreRequest(
            tree=Tree(_messages(problem), prefix, (step,), answers),
            objective=objective,
            models=self._models(kind, proposer),
            request_id=problem.id,
        )
        try:
            reply = await self.client.score(request)
        except ScorerUnavailable as exc:
            raise ScorerError("unavailable", f"the scorer does not answer: {exc}") from exc
        except BadScoreRequest as exc:
            too_long = exc.code == "context_length_exceeded"
            raise ScorerError("context_overflow" if too_long else "refused", f"the scorer refused: {exc}") from exc
        (found,) = reply.scores
        return Score(
            nats=found.nats,
            length=found.length,
            adds_up=kind.adds_up,
            objective=objective,
            source=kind.source,
            parts=tuple(ScorePart(part.model, part.nats, part.tokens) for part in found.per_model),
            queue_s=reply.queue_s,
            batch_size=reply.batch_size,
            tokens_forwarded=reply.tokens_forwarded,
        )

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        """Have the beginning of a step read when nothing else waits; see `decoder.ports.Scorer`."""
        request = ScoreRequest(
            tree=Tree(_messages(problem), prefix, (begun,)),
            objective="step",
            models=self._models(OBJECTIVES[objective], ""),
            request_id=problem.id,
            ahead=True,
        )
        with suppress(ScorerUnavailable, BadScoreRequest):
            await self.client.score(request)

    def _models(self, kind: Objective, proposer: str) -> tuple[str, ...]:
        if kind.contrast and proposer:
            return (self.meta_prover, proposer)
        return self.judges if kind.panel else (self.meta_prover,)


def _messages(problem: Problem) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content) for message in problem.messages)
