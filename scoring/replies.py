"""A scoring service's reply, read within bounds and checked against what was asked.

A score that is not a number would win or lose every comparison without a sign, so it is refused
here.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable

from pydantic import TypeAdapter, ValidationError

from scoring.errors import BadScoreReply
from scoring.types import CandidateScore, ScoreReply, ScoreRequest

_REPLY = TypeAdapter(ScoreReply)
_ENVELOPE_BYTES = 64 << 10
_CANDIDATE_BYTES = 64 << 10
"""A candidate's scores, and what each model answered, in a few dozen tokens."""
_ROUNDING_NATS = 1e-3
"""How far above 0 the sum of a text's log-probabilities may come by rounding."""


async def read(body: AsyncIterable[bytes], request: ScoreRequest) -> ScoreReply:
    """The reply to this request.

    Raises:
        BadScoreReply: it is too long, is no reply, or holds scores that cannot be.
    """
    most_bytes = _ENVELOPE_BYTES + _CANDIDATE_BYTES * len(request.tree.candidates)
    received = bytearray()
    async for piece in body:
        received += piece
        if len(received) > most_bytes:
            raise BadScoreReply(f"the reply is longer than {most_bytes:,} bytes")
    try:
        reply = _REPLY.validate_json(bytes(received))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise BadScoreReply(f"{where}: {first['msg']}") from exc
    check(reply, request)
    return reply


def check(reply: ScoreReply, request: ScoreRequest) -> None:
    """That a reply is possible.

    Raises:
        BadScoreReply: it is not.
    """
    asked = len(request.tree.candidates)
    if len(reply.scores) != asked:
        raise BadScoreReply(f"{len(reply.scores)} scores for {asked} candidates")
    if reply.tokens_forwarded < 0 or not math.isfinite(reply.queue_s + reply.compute_s):
        raise BadScoreReply("its cost is negative or not finite")
    for i, score in enumerate(reply.scores):
        _check(score, f"scores.{i}")


def _check(score: CandidateScore, where: str) -> None:
    if not math.isfinite(score.nats) or not math.isfinite(score.length) or score.length < 0:
        raise BadScoreReply(f"{where}: {score.nats} nats over a length of {score.length}")
    for part in score.per_model:
        if not math.isfinite(part.nats) or part.tokens < 0 or part.bytes < 0:
            raise BadScoreReply(
                f"{where}: {part.nats} nats over {part.tokens} tokens under {part.model!r:.80}"
            )
        if part.nats > _ROUNDING_NATS * max(part.tokens, 1):
            raise BadScoreReply(
                f"{where}: a log-probability of {part.nats} nats under {part.model!r:.80}, above 0"
            )
