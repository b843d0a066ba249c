"""The scoring service over a real socket: its client, its errors, a service that dies, callers that
leave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
import uvicorn

from scoring.batcher import Batcher
from scoring.client import BadScoreRequest, ScorerClient, ScorerUnavailable
from scoring.engine import ScoringEngine, Task
from scoring.service import build_app
from scoring.types import Message, ScoreRequest, Tree
from tests import tiny

pytestmark = pytest.mark.anyio

REQUEST = ScoreRequest(
    Tree((Message("user", "hi"),), "", ("### Step 1. We add.\n\n",), ("42",)), "predictive", ("m",)
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ScoringEngine:
    return ScoringEngine.load(
        {"m": str(tiny.checkpoint(tmp_path_factory.mktemp("m")))}, device="cpu"
    )


@pytest.fixture(scope="module")
def socket(engine: ScoringEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("s") / "scorer.sock")
    server = uvicorn.Server(uvicorn.Config(build_app(engine), uds=path, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield path
    server.should_exit = True
    thread.join()


async def test_a_reply_over_the_wire_equals_the_engines(socket: str, engine: ScoringEngine) -> None:
    async with ScorerClient(socket) as client:
        replies = []
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                replies.append(await client.score(REQUEST))

            for _ in range(20):
                group.start_soon(ask)
    [task] = engine.score([REQUEST])
    assert [reply.scores[0].nats for reply in replies] == [
        pytest.approx(task.scores[0].nats, abs=1e-5)
    ] * 20
    assert {reply.revision for reply in replies} == {engine.revision}


async def test_a_bad_request_comes_back_typed(socket: str) -> None:
    async with ScorerClient(socket) as client:
        with pytest.raises(BadScoreRequest) as caught:
            await client.score(ScoreRequest(REQUEST.tree, "astrology", ("m",)))
    assert caught.value.param == "objective"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"tree": 3, "objective": "step", "models": []}']
)
async def test_a_malformed_body_is_a_clear_400(socket: str, body: bytes) -> None:
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://s"
    ) as client:
        reply = await client.post("/score", content=body)
    assert reply.status_code == 400 and set(reply.json()["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }


async def test_what_the_service_could_not_do_is_told_in_its_own_words(
    engine: ScoringEngine, tmp_path: Path
) -> None:
    """A model that is served elsewhere, by nobody."""
    folder = tiny.checkpoint(tmp_path / "m")
    lost = ScoringEngine.load({"m": f"vllm+http://127.0.0.1:9/v1?tokenizer={folder}#tiny"})
    transport = httpx.ASGITransport(build_app(lost))
    async with ScorerClient("http://scorer", retry_s=0.0, transport=transport) as client:
        with pytest.raises(ScorerUnavailable, match="m: ConnectError"):
            await client.score(REQUEST)
    lost.close()


async def test_health_and_metrics_tell_what_is_loaded(socket: str) -> None:
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://s"
    ) as client:
        assert (await client.get("/health")).json()["models"] == ["m"]
        assert 'scorer_forwarded_tokens_total{model="m"}' in (await client.get("/metrics")).text


async def test_a_service_that_is_away_is_unavailable_once_patience_ends(tmp_path: Path) -> None:
    async with ScorerClient(str(tmp_path / "none.sock"), retry_s=0.0) as client:
        with pytest.raises(ScorerUnavailable):
            await client.score(REQUEST)


async def test_a_call_that_met_a_restart_is_made_again(
    engine: ScoringEngine, tmp_path: Path
) -> None:
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


class Slow(ScoringEngine):
    """An engine whose steps wait to be let go."""

    def __init__(self, engine: ScoringEngine) -> None:
        super().__init__(engine.judges, engine.pool)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended: list[Task] = []

    def step(self) -> list[Task]:
        self.begun.set()
        self.go_on.wait()
        ended = super().step()
        self.ended += ended
        return ended


async def test_a_caller_that_left_is_dropped_before_the_device(engine: ScoringEngine) -> None:
    """While the device is held up, one of two callers leaves."""
    slow = Slow(engine)
    batcher = Batcher(slow)
    async with anyio.create_task_group() as running:
        running.start_soon(batcher.run)
        async with anyio.create_task_group() as callers:
            callers.start_soon(batcher.score, REQUEST)
            await anyio.to_thread.run_sync(slow.begun.wait)
            callers.cancel_scope.cancel()
        slow.go_on.set()
        assert (await batcher.score(REQUEST)).scores
        running.cancel_scope.cancel()
    gone, served = slow.ended
    assert gone.cancelled and gone.began is None and gone.forwarded == 0 and served.scores


async def test_a_request_joins_while_another_is_in_progress(engine: ScoringEngine) -> None:
    """Nobody waits for somebody else's request to end: a later short one overtakes an early long
    one."""
    many = ScoringEngine(engine.judges, engine.pool, batch_tokens=16)
    engine.pool.shrink(0)
    batcher = Batcher(many)
    order: list[str] = []

    async def ask(name: str, step: str) -> None:
        tree = Tree((Message("user", name),), "", (step,))
        await batcher.score(ScoreRequest(tree, "step", ("m",), name))
        order.append(name)

    async with anyio.create_task_group() as running:
        async with anyio.create_task_group() as callers:
            callers.start_soon(ask, "long", "### Step 1. We add and add and add.\n\n" * 12)
            callers.start_soon(ask, "short", "### Step 1. No.\n\n")
            running.start_soon(batcher.run)
        running.cancel_scope.cancel()
    assert order == ["short", "long"]


async def test_a_failing_device_fails_its_callers_and_not_the_next_ones(
    engine: ScoringEngine,
) -> None:
    model = engine.judges["m"].model
    forward = model.base_model.forward
    engine.pool.shrink(0)
    batcher = Batcher(engine)
    async with anyio.create_task_group() as running:
        running.start_soon(batcher.run)
        model.base_model.forward = lambda **inputs: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await batcher.score(REQUEST)
        model.base_model.forward = forward
        assert (await batcher.score(REQUEST)).batch_size == 1
        running.cancel_scope.cancel()
