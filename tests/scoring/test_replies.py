"""A scorer that says what cannot be is not believed, and not asked again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from scoring.client import BadScoreReply, ScorerClient
from scoring.types import Message, ScoreRequest, Tree

pytestmark = pytest.mark.anyio

REQUEST = ScoreRequest(Tree((Message("user", "hi"),), "", ("a", "b")), "step", ("m",))


def score(nats: Any = -1.5, length: Any = 2.0, part: Any = -1.5, tokens: Any = 2) -> dict[str, Any]:
    return {
        "nats": nats,
        "length": length,
        "per_model": [{"model": "m", "nats": part, "tokens": tokens, "bytes": 4}],
    }


class Says(httpx.AsyncBaseTransport):
    def __init__(self, body: bytes, repeat: int = 1) -> None:
        self._body, self._repeat = body, repeat
        self.calls = self.read = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1

        async def body() -> AsyncIterator[bytes]:
            for _ in range(self._repeat):
                self.read += len(self._body)
                yield self._body

        return httpx.Response(200, content=body())


async def refused(said: Says) -> str:
    async with ScorerClient("http://s", transport=said) as client:
        with pytest.raises(BadScoreReply) as caught:
            await client.score(REQUEST)
    assert said.calls == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("scores", "what"),
    [
        ([score()], "1 scores for 2 candidates"),
        ([score()] * 3, "3 scores for 2 candidates"),
        ([score(), score(nats=float("nan"))], "scores.1: nan nats"),
        ([score(), score(nats=float("inf"))], "scores.1: inf nats"),
        ([score(nats=float("-inf")), score()], "scores.0: -inf nats"),
        ([score(), score(length=float("inf"))], "a length of inf"),
        ([score(), score(length=-1.0)], "a length of -1.0"),
        ([score(), score(part=float("nan"))], "nan nats over 2 tokens"),
        ([score(), score(part=0.7)], "above 0"),
        ([score(), score(tokens=-1)], "over -1 tokens"),
        ([score(), score(nats="good")], "scores.1.nats"),
        ([score(), None], "scores.1"),
    ],
)
async def test_scores_that_cannot_be_are_refused(scores: list[Any], what: str) -> None:
    assert what in await refused(Says(json.dumps({"scores": scores}).encode()))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b"[" * 100_000, b'{"scores": 1}'])
async def test_reply_that_is_none_is_refused(body: bytes) -> None:
    await refused(Says(body))


async def test_reply_without_end_is_not_read() -> None:
    said = Says(b" " * (1 << 20), repeat=200)
    assert "longer than" in await refused(said)
    assert said.read <= 2 << 20


async def test_score_that_is_possible_is_believed() -> None:
    said = Says(json.dumps({"scores": [score(part=1e-6), score(nats=0.4)]}).encode())
    async with ScorerClient("http://s", transport=said) as client:
        reply = await client.score(REQUEST)
    assert [found.nats for found in reply.scores] == [-1.5, 0.4]
