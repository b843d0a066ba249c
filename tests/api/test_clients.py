"""The contract with the official client, over a real server and real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import openai
import pytest
import uvicorn

from proxy.api.auth import master_key
from proxy.decoder.events import Cancelled
from proxy.decoder.types import TeacherRequest
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask, fails_with

QUESTION: Any = [{"role": "user", "content": "What is 6 × 7?"}]
ANSWER = "it is 42 — ben"
REASONING = "### Step 1. anna thinks 1\n\n### Step 2. ben thinks 2\n\n"
KEY = "sesame"


@contextmanager
def serving(panel: Panel) -> Iterator[int]:
    """A server on a port of its own. Its socket listens before the thread starts, so nobody has to wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            panel.app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with serving(Panel(options=replace(OPTIONS, keys=(master_key(KEY),)))) as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


def test_a_whole_completion_parses_strictly(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="cord",
        messages=QUESTION,
        seed=7,
        extra_body={"cord": {"reference": "42", "beam_width": 2}},
    )
    reply = raw.parse()
    assert type(reply).model_validate(reply.model_dump(), strict=True) == reply
    message: Any = reply.choices[0].message
    assert (message.content, message.reasoning_content, message.refusal) == (
        ANSWER,
        REASONING,
        None,
    )
    assert raw.headers["x-cord-source"] == "reference"
    assert reply._request_id == raw.headers["x-request-id"]
    assert reply.usage is not None and reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 8
    cord: Any = reply.model_extra
    assert [step["teacher"] for step in cord["cord"]["steps"]] == ["anna", "ben"]


def test_an_iterated_stream_carries_reasoning_answer_and_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="cord",
            messages=QUESTION,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(getattr(delta, "reasoning", "") for delta in deltas) == REASONING
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 25


def test_the_stream_helper_puts_the_whole_reply_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="cord", messages=QUESTION, seed=7) as stream:
        kinds = [event.type for event in stream]
        reply = stream.get_final_completion()
    whole = client.chat.completions.create(model="cord", messages=QUESTION, seed=7)
    message, expected = reply.choices[0].message, whole.choices[0].message
    assert (message.content, message.role) == (expected.content, "assistant")
    assert (message.model_extra or {})["reasoning"] == (expected.model_extra or {})["reasoning"]
    assert reply.choices[0].finish_reason == "stop"
    assert "content.delta" in kinds and kinds[-1] == "content.done"


def test_a_reply_can_be_sent_back_as_history(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="cord", messages=QUESTION).choices[0].message
    turns: Any = [*QUESTION, message.model_dump(), {"role": "user", "content": "Why?"}]
    assert (
        client.chat.completions.create(model="cord", messages=turns).choices[0].finish_reason
        == "stop"
    )
    objects: Any = [*QUESTION, message, {"role": "user", "content": "Why?"}]
    assert (
        client.chat.completions.create(model="cord", messages=objects).choices[0].finish_reason
        == "stop"
    )


def test_errors_reach_the_client_as_its_own_classes(base_url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="cord", messages=QUESTION, n=2)
    assert (bad.value.param, bad.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert (missing.value.code, bool(missing.value.request_id)) == ("model_not_found", True)
    with openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["cord", "anna", "ben"]
    assert client.models.retrieve("anna").owned_by == "cord"


def test_an_expensive_failure_is_not_repeated_by_the_client() -> None:
    panel = Panel(teachers=[Teacher("anna", fails_with("unreachable"))])
    with (
        serving(panel) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x") as client,
    ):
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model="cord", messages=QUESTION)
    assert (failed.value.status_code, failed.value.code, len(panel.kept)) == (
        503,
        "no_candidates",
        1,
    )


def test_a_failure_in_the_middle_of_a_stream_raises_in_the_client() -> None:
    panel = Panel(
        teachers=[Teacher("anna", fails_with("broken", lambda ask: ask.answer is not None))]
    )
    heard = []
    with (
        serving(panel) as port,
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x") as client,
    ):
        with pytest.raises(openai.APIError, match="scripted failure"):
            for chunk in client.chat.completions.create(
                model="cord", messages=QUESTION, stream=True
            ):
                heard.append(chunk)
    assert len(heard) == 3


def test_a_body_that_is_too_long_is_refused_while_it_is_still_coming() -> None:
    with serving(Panel(options=replace(OPTIONS, max_body_bytes=1000))) as port:
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0
        ) as client:
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(
                    model="cord", messages=[{"role": "user", "content": "x" * 5000}]
                )
            assert refused.value.status_code == 413
            assert (
                client.chat.completions.create(model="cord", messages=QUESTION)
                .choices[0]
                .finish_reason
                == "stop"
            )


@pytest.mark.anyio
async def test_fifty_requests_at_once_each_get_their_own_reply(base_url: str) -> None:
    replies: dict[int, str] = {}
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:

        async def one(i: int) -> None:
            if i % 2:
                reply = await client.chat.completions.create(
                    model="cord", messages=QUESTION, seed=i
                )
                replies[i] = str((reply.model_extra or {})["cord"]["seed"])
                assert reply.choices[0].message.content == ANSWER
                return
            stream = await client.chat.completions.create(
                model="cord", messages=QUESTION, seed=i, stream=True
            )
            chunks = [chunk async for chunk in stream]
            replies[i] = str((chunks[-1].model_extra or {})["cord"]["seed"])
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER

        async with anyio.create_task_group() as group:
            for i in range(50):
                group.start_soon(one, i)
    assert replies == {i: str(i) for i in range(50)}


@dataclass
class Held:
    """A gate that never opens, seen from another thread."""

    begun: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, _: TeacherRequest) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("stream", [False, True])
def test_closing_the_socket_cancels_the_search(stream: bool) -> None:
    gate = Held()
    panel = Panel(teachers=[Teacher("anna", gate)])
    body = json.dumps(ask(stream=stream)).encode()
    fields = f"host: cord\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    head = f"POST {CHAT} HTTP/1.1\r\n{fields}\r\n\r\n"
    with serving(panel) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            assert gate.begun.wait(10)
        assert gate.cancelled.wait(10)
    assert panel.kept[0][1][-1] == Cancelled()
