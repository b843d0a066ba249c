"""The scoring service over a real socket: its client, its errors, a service that dies, callers that leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn

from scoring.batcher import Batcher
from scoring.client import BadScoreRequest, ScorerClient, ScorerUnavailable
from scoring.engine import Engine, Outcome
from scoring.service import build_app
from scoring.types import Message, ScoreRequest, Tree
from tests import tiny

pytestmark = pytest.mark.anyio

REQUEST = ScoreRequest(Tree((Message("user", "hi"),), "", ("### Step 1. We add.\n\n",), ("42",)), "predictive", ("m",))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.load({"m": str(tiny.checkpoint(tmp_path_factory.mktemp("m")))}, device="cpu")


@pytest.fixture(scope="module")
def socket(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("s") / "scorer.sock")
    server = uvicorn.Server(uvicorn.Config(build_app(engine), uds=path, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield path
    server.should_exit = True
    thread.join()


async def test_a_reply_over_the_wire_equals_the_engines(socket: str, engine: Engine) -> None:
    async with ScorerClient(socket) as client:
        replies = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                replies.append(await client.score(REQUEST))

            for _ in range(20):
                group.start_soon(ask)
    [outcome] = engine.score([REQUEST])
    assert [reply.scores[0].nats for reply in replies] == [pytest.approx(outcome.scores[0].nats, abs=1e-5)] * 20
    assert {reply.revision for reply in replies} == {engine.revision}


async def test_a_bad_request_comes_back_typed(socket: str) -> None:
    async with ScorerClient(socket) as client:
        with pytest.raises(BadScoreRequest) as caught:
            await client.score(ScoreRequest(REQUEST.tree, "astrology", ("m",)))
    assert caught.value.param == "objective"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"tree": 3, "objective": "step", "models": []}'])
async def test_a_malformed_body_is_a_clear_400(socket: str, body: bytes) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://s") as client:
        reply = await client.post("/score", content=body)
    assert reply.status_code == 400 and set(reply.json()["error"]) == {"message", "type", "param", "code"}


async def test_health_and_metrics_tell_what_is_loaded(socket: str) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://s") as client:
        assert (await client.get("/health")).json()["models"] == ["m"]
        assert 'scorer_forwarded_tokens_total{model="m"}' in (await client.get("/metrics")).text


async def test_a_service_that_is_away_is_unavailable_once_patience_ends(tmp_path: Path) -> None:
    async with ScorerClient(str(tmp_path / "none.sock"), retry_s=0.0) as client:
        with pytest.raises(ScorerUnavailable):
            await client.score(REQUEST)


async def test_a_call_that_met_a_restart_is_made_again(engine: Engine, tmp_path: Path) -> None:
    path = str(tmp_path / "late.sock")
    server = uvicorn.Server(uvicorn.Config(build_app(engine), uds=path, log_level="warning"))
    async with ScorerClient(path, retry_s=60.0) as client, anyio.create_task_group() as group:
        replies = []

        async def ask() -> None:
            replies.append(await client.score(REQUEST))

        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=server.run)
        thread.start()
    server.should_exit = True
    await anyio.to_thread.run_sync(thread.join)
    assert replies[0].scores[0].nats < 0


async def test_a_caller_that_left_is_dropped_before_the_device() -> None:
    """While the device works on the first request, the second leaves and the third waits."""
    began, go_on = threading.Event(), threading.Event()
    batches: list[Sequence[ScoreRequest]] = []

    def score(requests: Sequence[ScoreRequest]) -> list[Outcome]:
        batches.append(requests)
        began.set()
        go_on.wait()
        return [Outcome() for _ in requests]

    batcher = Batcher(score)
    async with anyio.create_task_group() as running:
        running.start_soon(batcher.run)
        async with anyio.create_task_group() as callers:
            callers.start_soon(batcher.score, REQUEST)
            await anyio.to_thread.run_sync(began.wait)
            with anyio.CancelScope() as leaving:
                callers.start_soon(batcher.score, REQUEST)
                leaving.cancel()
                await batcher.score(REQUEST)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        running.cancel_scope.cancel()
    assert [len(batch) for batch in batches] == [1, 1]


async def test_a_failing_device_fails_its_callers_and_not_the_next_ones() -> None:
    def score(requests: Sequence[ScoreRequest]) -> list[Outcome]:
        if requests[0].request_id == "boom":
            raise RuntimeError("out of memory")
        return [Outcome() for _ in requests]

    batcher = Batcher(score)
    async with anyio.create_task_group() as running:
        running.start_soon(batcher.run)
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.score(ScoreRequest(REQUEST.tree, "step", ("m",), "boom"))
        assert (await batcher.score(REQUEST)).batch_size == 1
        running.cancel_scope.cancel()
