"""Hosted teachers through the real litellm, against a chat server on loopback that streams what it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.litellm import LitellmTeacher

pytestmark = [
    pytest.mark.anyio,
    # What litellm and its dependencies warn about is theirs to mend.
    pytest.mark.filterwarnings("ignore"),
]


@dataclass
class Hosted:
    """A chat server: the next reply is queued, what it was sent is kept."""

    url: str = ""
    words: list[str] = field(default_factory=list)
    failure: tuple[int, str] | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, int] = field(
        default_factory=lambda: {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    )

    async def chat(self, request: Request) -> Response:
        self.sent.append(await request.json())
        if self.failure is not None:
            status, message = self.failure
            error = {"error": {"message": message, "type": "x", "code": None}}
            return JSONResponse(error, status_code=status, headers={"retry-after": "7"})
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[bytes]:
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for i, word in enumerate(self.words):
            delta = {"role": "assistant", "content": word} if i == 0 else {"content": word}
            yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield _event({**head, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@pytest.fixture(scope="module")
def hosted() -> Iterator[Hosted]:
    found = Hosted()
    app = Starlette(routes=[Route("/v1/chat/completions", found.chat, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    found.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield found
    server.should_exit = True
    thread.join()


def ask(reasoning: str, answer: str | None = None) -> TeacherRequest:
    return TeacherRequest(
        (Message("user", "Q"),), reasoning, answer, ("\n### Step",), 64, 0.5, 1.0, 3
    )


def teacher(hosted: Hosted, model: str = "openai/some-model") -> LitellmTeacher:
    return LitellmTeacher("far", model, api_base=hosted.url, api_key="k")


async def test_a_first_step_is_cut_at_its_marker_and_loses_the_header_it_repeats(
    hosted: Hosted,
) -> None:
    hosted.words, hosted.failure = ["### Step 1. add", " two\n", "\n### St", "ep 2. more"], None
    heard: list[str] = []
    written = await teacher(hosted).write(ask("### Step 1."), heard.append)
    assert (written.text, written.ended) == (" add two\n", "marker")
    assert written.completion_tokens > 0
    assert hosted.sent[-1]["messages"] == [{"role": "user", "content": "Q"}]
    assert hosted.sent[-1]["stream"] is True


async def test_the_end_of_thinking_and_of_the_turn_are_told_apart(hosted: Hosted) -> None:
    hosted.words, hosted.failure = [" done\n\n", "### Answer\n\n42"], None
    assert (await teacher(hosted).write(ask("### Step 1."))).ended == "closed"
    hosted.words = [" done"]
    written = await teacher(hosted).write(ask("### Step 1."))
    assert (written.text, written.ended, written.prompt_tokens, written.completion_tokens) == (
        " done",
        "eos",
        9,
        4,
    )


async def test_a_model_that_cannot_continue_a_turn_is_refused_later_steps(hosted: Hosted) -> None:
    with pytest.raises(TeacherError, match="cannot continue") as caught:
        await teacher(hosted).write(ask("### Step 1. a\n\n### Step 2."))
    assert caught.value.kind == "refused"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ((404, "no such model"), "unknown_model"),
        ((429, "slow down"), "rate_limited"),
        ((503, "busy"), "overloaded"),
        ((500, "oops"), "broken"),
        ((400, "This model's maximum context length is 8 tokens"), "context_overflow"),
    ],
)
async def test_each_failure_has_its_kind(
    hosted: Hosted, failure: tuple[int, str], kind: str
) -> None:
    hosted.failure = failure
    with pytest.raises(TeacherError) as caught:
        await teacher(hosted).write(ask("### Step 1."))
    assert caught.value.kind == kind and "\n" not in str(caught.value)
    if kind == "rate_limited":
        assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("words", "completion_tokens"),
    [([" fo\ud800ur"], 4), ([" and" * 1000] * 20, 4), ([" four"], -4), ([" four"], 10_000)],
    ids=[
        "half a surrogate pair",
        "text past max_tokens",
        "negative usage",
        "more tokens than asked for",
    ],
)
async def test_malformed_reply_is_its_teachers_failure(
    hosted: Hosted, words: list[str], completion_tokens: int
) -> None:
    hosted.words, hosted.failure, fit = words, None, hosted.usage
    hosted.usage = {**fit, "completion_tokens": completion_tokens}
    try:
        with pytest.raises(TeacherError) as caught:
            await teacher(hosted).write(ask("### Step 1."))
    finally:
        hosted.usage = fit
    assert caught.value.kind == "broken"


async def test_a_server_that_is_away_is_a_typed_failure(hosted: Hosted) -> None:
    away = LitellmTeacher("far", "openai/some-model", api_base="http://127.0.0.1:9/v1", api_key="k")
    with pytest.raises(TeacherError) as caught:
        await away.write(ask("### Step 1."))
    assert caught.value.kind in ("unreachable", "broken")
