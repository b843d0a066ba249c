"""The decoder's scorer over the scoring service: which models are asked, and what the reply means.

What a score asks and means is in the registry, `scoring.scores`. Reference answers are sent only when the problem
brought them and the score reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from proxy.decoder.tool_calls import with_tools
from proxy.decoder.types import Problem, Score, ScorePart, Source
from proxy.errors import ScorerError
from scoring.client import BadScoreRequest, ScorerUnavailable
from scoring.scores import SCORES, ScoreSpec
from scoring.types import Message, ScoreReply, ScoreRequest, Tree


class ScoringService(Protocol):
    """The engine, wherever it is: behind `scoring.client`, or a `scoring.batcher` in this process."""

    async def score(self, request: ScoreRequest) -> ScoreReply: ...


@dataclass(frozen=True, slots=True)
class RemoteScorer:
    """A `decoder.ports.Scorer` whose models live in the scoring service."""

    client: ScoringService
    meta_prover: str
    judges: tuple[str, ...]
    reward_models: tuple[str, ...] = ()

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
        spec = SCORES[objective]
        weighed = pool or {}
        answers = problem.references if spec.needs_reference else tuple(weighed)
        tree = Tree(_messages(problem), prefix, (step,), answers, weights=tuple(weighed.values()))
        reply = await self._ask(
            ScoreRequest(tree, spec.objective, self._models(spec, proposer), problem.id, ahead)
        )
        (found,) = reply.scores
        return Score(
            nats=found.nats,
            length=found.length,
            additive=spec.additive,
            objective=objective,
            source=Source(spec.source),
            per_model=tuple(
                ScorePart(part.model, part.nats, part.tokens) for part in found.per_model
            ),
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
            raise ScorerError(
                "context_overflow" if too_long else "refused", f"the scorer refused: {exc}"
            ) from exc

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        """Have the beginning of a step read when nothing else waits; see `decoder.ports.Scorer`."""
        request = ScoreRequest(
            tree=Tree(_messages(problem), prefix, (begun,)),
            objective="step",
            models=self._models(SCORES[objective], ""),
            request_id=problem.id,
            ahead=True,
        )
        with suppress(ScorerUnavailable, BadScoreRequest):
            await self.client.score(request)

    def _models(self, spec: ScoreSpec, proposer: str) -> tuple[str, ...]:
        return spec.models(
            meta_prover=self.meta_prover,
            judges=self.judges,
            reward_models=self.reward_models,
            proposer=proposer,
        )


def _messages(problem: Problem) -> tuple[Message, ...]:
    return tuple(
        Message(message.role, message.content)
        for message in with_tools(problem.messages, problem.tools)
    )
