"""Every failure as the client meets it: a status, four keys, and whether to try again."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request

from proxy.api.auth import master_key
from proxy.api.body import TooSlow, read_json
from proxy.api.errors import describe
from proxy.api.limits import RequestLimits
from proxy.errors import ConfigError, ScorerError, TeacherError
from tests.api.panel import CHAT, OPTIONS, Panel, Scorer, Teacher, ask, events_of, fails_with

pytestmark = pytest.mark.anyio


async def post(
    panel: Panel, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    async with panel.client() as client:
        return await client.post(CHAT, json=ask(**fields), headers=headers or {})


def assert_error(
    reply: httpx.Response, status: int, code: str | None, retry: str | None = None
) -> dict[str, Any]:
    body = reply.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    assert (reply.status_code, body["error"]["code"], reply.headers.get("x-should-retry")) == (
        status,
        code,
        retry,
    )
    assert reply.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


def failing(kind: str) -> list[Teacher]:
    return [Teacher(name, fails_with(kind)) for name in ("anna", "ben")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_search_without_candidates_is_503_and_not_worth_repeating(stream: bool) -> None:
    panel = Panel(teachers=failing("unreachable"))
    error = assert_error(await post(panel, stream=stream), 503, "no_candidates", "false")
    assert "scripted failure" in error["message"]
    assert len(panel.kept) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_no_teacher_can_hold_is_the_requests_fault(stream: bool) -> None:
    error = assert_error(
        await post(Panel(failing("context_overflow")), stream=stream),
        400,
        "context_length_exceeded",
    )
    assert error["param"] == "messages"


async def test_an_answer_that_nobody_writes_is_503() -> None:
    mute = fails_with("broken", lambda ask: ask.answer is not None)
    reply = await post(Panel(teachers=[Teacher("anna", mute), Teacher("ben", mute)]))
    assert_error(reply, 503, "no_answer", "false")


async def test_a_deadline_before_the_first_step_is_504() -> None:
    async def hang(_: object) -> None:
        await anyio.sleep_forever()

    panel = Panel(teachers=[Teacher("anna", hang)])
    assert_error(await post(panel, cord={"deadline_s": 0.1}), 504, "deadline", "false")


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("unavailable", 503, "scorer_unavailable"),
        ("context_overflow", 400, "context_length_exceeded"),
        ("refused", 500, "scorer_refused"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_scorer_that_fails_is_told_apart(
    kind: Any, status: int, code: str, stream: bool
) -> None:
    panel = Panel(scorer=Scorer("ben", ScorerError(kind, "scripted")))
    assert_error(await post(panel, stream=stream), status, code, "false")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_is_logged_and_tells_the_client_nothing(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(_: object) -> None:
        raise ZeroDivisionError("internal detail")

    with caplog.at_level(logging.ERROR, "proxy.api"):
        reply = await post(
            Panel(teachers=[Teacher("anna", bug)]), {"x-request-id": "r-9"}, stream=stream
        )
    assert_error(reply, 500, "internal_error", "false")
    assert "internal detail" not in reply.text
    assert "r-9" in caplog.text and "internal detail" in caplog.text


def test_an_error_that_should_not_have_come_this_far_is_a_bug() -> None:
    for stray in (
        TeacherError("anna", "broken", "http://10.0.0.1/secret"),
        ConfigError("a.b", "secret"),
    ):
        assert (describe(stray).status, "secret" in describe(stray).message) == (500, False)


async def test_a_failure_in_the_middle_of_a_stream_is_its_last_event() -> None:
    mute = fails_with("broken", lambda ask: ask.answer is not None)
    reply = await post(Panel(teachers=[Teacher("anna", mute), Teacher("ben", mute)]), stream=True)
    assert reply.status_code == 200
    *chunks, failure = events_of(reply.content)
    assert len([chunk for chunk in chunks if "step" in chunk.get("cord", {})]) == 2
    assert failure["error"]["code"] == "no_answer"
    assert failure["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_404(stream: bool) -> None:
    error = assert_error(await post(Panel(), model="gpt-9", stream=stream), 404, "model_not_found")
    assert error["param"] == "model"


async def test_unknown_paths_and_wrong_methods_are_told_in_the_same_form() -> None:
    async with Panel().client() as client:
        assert_error(await client.get("/v2/nothing"), 404, "not_found")
        wrong = await client.get(CHAT)
    assert_error(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_a_body_that_is_too_long_is_413() -> None:
    panel = Panel(options=replace(OPTIONS, max_body_bytes=100))
    assert_error(await post(panel, user="x" * 100), 413, "request_too_large")
    assert panel.asks == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer sesamé",
        "sesame",
        "Basic sesame",
        "Bearer sesame x",
    ],
)
async def test_without_the_key_nothing_is_answered(header: str) -> None:
    panel = Panel(options=replace(OPTIONS, keys=(master_key("sesame"),)))
    async with panel.client() as client:
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/models/cord")):
            reply = await client.request(method, path, headers={b"authorization": header.encode()})
            error = assert_error(reply, 401, "invalid_api_key")
            assert "sesame" not in error["message"]
            assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["sesame", "schlüssel-🔑"])
async def test_the_key_opens_and_the_probes_need_none(key: str) -> None:
    panel = Panel(options=replace(OPTIONS, keys=(master_key(key),)))
    async with panel.client() as client:
        opened = await client.post(
            CHAT, json=ask(), headers={b"authorization": f"bearer {key}".encode()}
        )
        probes = [await client.get(path) for path in ("/health", "/ready", "/metrics")]
    assert [reply.status_code for reply in (opened, *probes)] == [200] * 4


async def test_one_search_too_many_is_told_to_come_again_and_is_let_in_afterwards() -> None:
    begun, go_on = anyio.Event(), anyio.Event()

    async def gate(_: object) -> None:
        begun.set()
        await go_on.wait()

    panel = Panel(
        teachers=[Teacher("anna", gate)],
        options=replace(OPTIONS, limits=RequestLimits(requests=1), retry_after_s=3),
    )
    replies: list[httpx.Response] = []
    async with panel.client() as client, anyio.create_task_group() as group:

        async def first() -> None:
            replies.append(await client.post(CHAT, json=ask()))

        group.start_soon(first)
        await begun.wait()
        for stream in (False, True):
            busy = await client.post(CHAT, json=ask(stream=stream))
            assert_error(busy, 429, "too_many_requests")
            assert busy.headers["retry-after"] == "3"
        assert_error(await client.post(CHAT, json=ask(n=2)), 400, "unsupported_parameter")
        go_on.set()
    assert replies[0].status_code == 200
    assert (await post(panel)).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def receive() -> Any:
        await anyio.sleep_forever()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(TooSlow) as slow:
        await read_json(Request(scope, receive), 100, timeout_s=0.01)
    assert describe(slow.value).status == 408
