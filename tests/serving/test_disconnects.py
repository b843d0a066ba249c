"""A client that goes away, streaming or not, over a real socket: its sequence stops and its place
is free.

The model has room for a million tokens and never ends by itself, so nothing but the disconnect can
stop it.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

from serving.app import build_app
from serving.engine import GenerationEngine
from serving.sequence import Delta, Sequence
from tests import tiny

pytestmark = pytest.mark.anyio


class Watched(GenerationEngine):
    """An engine that remembers its sequences and says when the first has been written to."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sequences: list[Sequence] = []
        self.ended: dict[int, float] = {}  # when the sequence of this number was given up
        self.begun = threading.Event()

    def submit(self, sequence: Sequence) -> None:
        passed_on, number = sequence.sink, len(self.sequences)

        def sink(delta: Delta) -> None:
            self.begun.set()
            if delta.finish == "cancelled":
                self.ended[number] = time.perf_counter()
            passed_on(delta)

        sequence.sink = sink
        self.sequences.append(sequence)
        super().submit(sequence)


@dataclass
class Served:
    """A running server of one sequence at a time, and how to reach it."""

    engine: Watched
    path: str
    endless: dict[str, Any] = field(
        default_factory=lambda: {
            "model": "tiny",
            "prompt": "abc",
            "max_tokens": None,
            "ignore_eos": True,
        }
    )

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.path, retries=20)
        return httpx.AsyncClient(transport=transport, base_url="http://model/v1/", timeout=60)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    words = tiny.tokenizer()
    model = tiny.model("llama", len(words))
    model.config.max_position_embeddings = 1_000_000
    engine = Watched(model, words, max_batch=1)
    path = str(tmp_path / "model.sock")
    server = uvicorn.Server(
        uvicorn.Config(build_app(engine, "tiny"), uds=path, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    yield Served(engine, path)
    server.should_exit = True
    thread.join()


async def the_place_is_free(served: Served) -> None:
    """With one place only, this is answered only once the endless sequence has left it."""
    async with served.client() as other:
        reply = await other.post("completions", json={**served.endless, "max_tokens": 1})
    assert reply.json()["usage"]["completion_tokens"] == 1
    assert served.engine.sequences[0].cancelled
    assert len(served.engine.sequences[0].written) < 100_000


async def test_a_stream_that_is_closed_stops_its_sequence(served: Served) -> None:
    async with served.client() as client:
        async with client.stream(
            "POST", "completions", json={**served.endless, "stream": True}
        ) as reply:
            assert (await anext(reply.aiter_lines())).startswith("data: ")
        await the_place_is_free(served)


async def test_a_client_that_stops_waiting_for_a_whole_reply_stops_its_sequence(
    served: Served,
) -> None:
    async with served.client() as client, anyio.create_task_group() as group:

        async def ask() -> None:
            await client.post("completions", json=served.endless)

        group.start_soon(ask)
        await anyio.to_thread.run_sync(served.engine.begun.wait)
        group.cancel_scope.cancel()
    await the_place_is_free(served)


async def test_a_client_that_leaves_while_queued_is_dropped(served: Served) -> None:
    async with served.client() as client:
        async with client.stream(
            "POST", "completions", json={**served.endless, "stream": True}
        ) as reply:
            await anext(reply.aiter_lines())
            async with client.stream(
                "POST", "completions", json={**served.endless, "stream": True}
            ) as queued:
                assert queued.status_code == 200
        await the_place_is_free(served)
    assert (
        served.engine.sequences[1].cancelled and len(served.engine.sequences[1].written) < 100_000
    )


async def test_cancelling_and_asking_again_at_once_stops_each_sequence_within_100_ms(
    served: Served,
) -> None:
    """Over a real socket, time and again: each call begins the moment the one before is closed."""
    closed: list[float] = []
    async with served.client() as client:
        for _ in range(20):
            async with client.stream(
                "POST", "completions", json={**served.endless, "stream": True}
            ) as reply:
                await anext(reply.aiter_lines())
                closed.append(time.perf_counter())
        await the_place_is_free(served)
        page = (await client.get("http://model/metrics")).text
    delays = [served.engine.ended[i] - closed[i] for i in range(20)]
    assert statistics.median(delays) < 0.1
    assert "serving_cancelled_sequences_total 20.0" in page
    # The prompt has two tokens; the second one is always read, for its logits.
    assert served.engine.counters.prefilled == 2 + 20
    assert (
        "serving_prefilled_tokens_total 22.0" in page and "serving_reused_tokens_total 20.0" in page
    )
