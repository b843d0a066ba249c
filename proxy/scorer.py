"""The decoder's scorer over the scoring service: what is asked of which models, and what the reply means.

The meta-prover judges against references; the panel of judges shares the cross-perplexity. References go into a
scoring request only when the problem brought them and the objective is one that reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.decoder.tool_calls import with_tools
from proxy.decoder.types import Problem, Score, ScorePart, Source
from proxy.errors import ScorerError
from scoring.client import BadScoreRequest, ScorerUnavailable
from scoring.types import Message, ScoreReply, ScoreRequest, Tree


@dataclass(frozen=True, slots=True)
class Objective:
    """How an objective of the scoring service is used here.

    `models` are the ones asked: the meta-prover, the panel of judges, all of it but the proposer, the meta-prover and
    the proposer, who must be among the scorer's models by the teacher's name, or the reward models. `service` is the
    scoring service's own name for it; `additive` as in `decoder.types.Score`.
    """

    source: Source
    models: Literal["meta", "panel", "others", "contrast", "rewards"]
    additive: bool
    service: str


OBJECTIVES = {
    "predictive": Objective(Source.REFERENCE, "meta", False, "predictive"),
    "predictive-mean": Objective(Source.REFERENCE, "meta", False, "predictive-mean"),
    "predictive-arithmetic": Objective(Source.REFERENCE, "meta", False, "predictive-arithmetic"),
    "lookahead": Objective(Source.REFERENCE, "meta", False, "lookahead"),
    "lookahead-rollout": Objective(Source.REFERENCE, "meta", False, "lookahead-rollout"),
    "step": Objective(Source.NONE, "meta", True, "step"),
    "chunks": Objective(Source.NONE, "meta", True, "chunks"),
    "worst-chunk": Objective(Source.NONE, "meta", True, "worst-chunk"),
    "cross": Objective(Source.NONE, "panel", True, "cross"),
    "cross-others": Objective(Source.NONE, "others", True, "cross"),
    "contrastive": Objective(Source.NONE, "contrast", True, "contrastive"),
    "confidence": Objective(Source.NONE, "meta", False, "confidence"),
    "consensus": Objective(Source.CONSENSUS, "panel", False, "expected"),
    "verdict": Objective(Source.NONE, "meta", False, "verdict"),
    "reward": Objective(Source.NONE, "rewards", False, "reward"),
}
"""By the names that requests and routes use."""


def usable(teachers: Collection[str], scorer: RemoteScorer, models: Collection[str]) -> frozenset[str]:
    """The objectives that can score what these teachers write, with these models in the scoring service."""
    missing = {"contrast"} if set(teachers) - set(models) else set()
    missing |= set() if scorer.rewards else {"rewards"}
    missing |= {"others"} if len(scorer.judges) < 2 else set()
    return frozenset(name for name, kind in OBJECTIVES.items() if kind.models not in missing)


class ScoringService(Protocol):
    """The engine, wherever it is: behind `scoring.client`, or a `scoring.batcher` in this process."""

    async def score(self, request: ScoreRequest) -> ScoreReply: ...


@dataclass(frozen=True, slots=True)
class RemoteScorer:
    """A `decoder.ports.Scorer` whose models live in the scoring service."""

    client: ScoringService
    meta_prover: str
    judges: tuple[str, ...]
    rewards: tuple[str, ...] = ()

    async def score(
        self,
        problem: Problem,
        prefix: str,
        step: str,
        objective: str,
        proposer: str = "",
        pool: Mapping[str, float] | None = None,
        *,
        ahead: bool = False,
    ) -> Score:
        """Score one step; see `decoder.ports.Scorer`."""
        kind = OBJECTIVES[objective]
        weighed = pool or {}
        answers = problem.references if kind.source is Source.REFERENCE else tuple(weighed)
        tree = Tree(_messages(problem), prefix, (step,), answers, weights=tuple(weighed.values()))
        reply = await self._ask(ScoreRequest(tree, kind.service, self._models(kind, proposer), problem.id, ahead))
        (found,) = reply.scores
        return Score(
            nats=found.nats,
            length=found.length,
            additive=kind.additive,
            objective=objective,
            source=kind.source,
            per_model=tuple(ScorePart(part.model, part.nats, part.tokens) for part in found.per_model),
            queue_s=reply.queue_s,
            batch_size=reply.batch_size,
            tokens_forwarded=reply.tokens_forwarded,
        )

    async def elicit(self, problem: Problem, prefix: str, step: str) -> tuple[tuple[str, ...], int]:
        """What each judge would answer now; see `decoder.ports.Scorer`."""
        tree = Tree(_messages(problem), prefix, (step,))
        reply = await self._ask(ScoreRequest(tree, "confidence", self.judges, problem.id))
        (found,) = reply.scores
        return tuple(answer for answer in found.written if answer), reply.tokens_forwarded

    async def _ask(self, request: ScoreRequest) -> ScoreReply:
        try:
            return await self.client.score(request)
        except ScorerUnavailable as exc:
            raise ScorerError("unavailable", f"the scorer does not answer: {exc}") from exc
        except BadScoreRequest as exc:
            too_long = exc.code == "context_length_exceeded"
            raise ScorerError("context_overflow" if too_long else "refused", f"the scorer refused: {exc}") from exc

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
        match kind.models:
            case "contrast" if proposer:
                return self.meta_prover, proposer
            case "panel":
                return self.judges
            case "others":
                return tuple(name for name in self.judges if name != proposer)
            case "rewards":
                return self.rewards
        return (self.meta_prover,)


def _messages(problem: Problem) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content) for message in with_tools(problem.messages, problem.tools))
