"""Straight through to one teacher: the same bytes both ways, and nothing of it decoded."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.api.relay import Upstream
from runtime.transport import PooledTransport
from serving.app import build_app
from serving.engine import GenerationEngine
from tests import tiny
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask, events_of

pytestmark = pytest.mark.anyio

PATHS = frozenset({"chat/completions", "completions", "embeddings", "responses"})
TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object"}}}


class Stub:
    """Somebody's server: remembers what came, and answers as told."""

    def __init__(self, answer: Callable[[Request], Awaitable[Response]]) -> None:
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self._answer = answer
        self.app = Starlette(routes=[Route("/v1/{path:path}", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.came.append((request.path_params["path"], dict(request.headers), await request.body()))
        return await self._answer(request)

    def upstream(self, name: str = "anna", paths: frozenset[str] = PATHS) -> Upstream:
        transport = httpx.ASGITransport(self.app)
        headers = {"authorization": "Bearer its-own"}
        client = httpx.AsyncClient(
            transport=transport, base_url="http://upstream/v1/", headers=headers
        )
        return Upstream(name, f"org/{name}-32B", client, paths)


def says(
    content: bytes, status: int = 200, **headers: str
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(
            content, status, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer


async def test_a_request_for_one_teacher_goes_through_as_it_is() -> None:
    """Unknown fields, odd spacing of the reply, its status and headers: all as they were."""
    stub = Stub(
        says(b'{"odd" :  1}', 418, content_type="application/json", x_ratelimit_remaining="3")
    )
    panel = Panel(upstreams=[stub.upstream()])
    body = ask(model="anna", tools=[TOOL], something_new={"a": [1.5, None, "é"]})
    async with panel.client() as client:
        reply = await client.post(
            CHAT, json=body, headers={"authorization": "Bearer mine", "openai-beta": "x=1"}
        )
    [(path, headers, sent)] = stub.came
    assert (path, json.loads(sent)) == ("chat/completions", {**body, "model": "org/anna-32B"})
    assert headers["authorization"] == "Bearer its-own" and headers["openai-beta"] == "x=1"
    assert headers["x-request-id"] == reply.headers["x-request-id"]
    assert (reply.status_code, reply.content) == (418, b'{"odd" :  1}')
    assert (
        reply.headers["x-ratelimit-remaining"] == "3" and reply.headers["x-cord-relayed"] == "anna"
    )
    assert panel.asks == [] and panel.relayed == [("anna", "chat/completions", "4xx")]


async def test_a_body_that_names_the_model_as_its_server_does_is_not_touched() -> None:
    stub = Stub(says(b"{}"))
    upstream = stub.upstream()
    panel = Panel(upstreams=[Upstream("anna", "anna", upstream.client, PATHS)])
    body = b'{ "model":"anna","messages" : [],  "temperature":1e0}'
    async with panel.client() as client:
        await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert stub.came[0][2] == body


@pytest.mark.parametrize("wanted", [None, "gzip"])
async def test_compressed_bytes_stay_so_and_only_for_those_who_take_them(
    wanted: str | None,
) -> None:
    packed = gzip.compress(b'{"a": 1}')
    stub = Stub(says(packed, content_encoding="gzip", content_type="application/json"))
    panel = Panel(upstreams=[stub.upstream()])
    async with panel.client() as client:
        client.headers.pop("accept-encoding")
        headers = {"accept-encoding": wanted} if wanted else {}
        async with client.stream("POST", CHAT, json=ask(model="anna"), headers=headers) as reply:
            raw = b"".join([chunk async for chunk in reply.aiter_raw()])
    assert stub.came[0][1]["accept-encoding"] == (wanted or "identity")
    assert raw == packed and reply.headers["content-encoding"] == "gzip"


async def test_a_search_for_one_teacher_is_decoded() -> None:
    stub = Stub(says(b"{}"))
    panel = Panel(upstreams=[stub.upstream()])
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(model="anna", cord={"max_steps": 1}))
    assert reply.json()["cord"]["strategy"] == "single" and stub.came == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                ]
            },
            "messages",
        ),
        ({"messages": [{"role": "function", "name": "weigh", "content": "3 kg"}]}, "messages"),
    ],
)
async def test_what_cannot_be_decoded_together_goes_to_one_if_asked(
    fields: dict[str, Any], why: str
) -> None:
    stub = Stub(says(b"{}"))
    panel = Panel(upstreams=[stub.upstream("ben")])
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(**fields, cord={"relay": True}))
        searched = await client.post(
            CHAT, json=ask(**fields, cord={"relay": True, "beam_width": 1})
        )
        refused = await client.post(CHAT, json=ask(**fields))
    assert reply.status_code == 200 and panel.asks == []
    assert "cord" not in json.loads(stub.came[0][2])
    assert refused.status_code == 400 and refused.json()["error"]["param"].partition("[")[0] == why
    assert (
        "ben" in refused.json()["error"]["message"]
        and "relay" in refused.json()["error"]["message"]
    )
    assert (reply.headers["x-cord-relayed"], reply.headers["x-cord-relayed-for"]) == ("ben", why)
    assert json.loads(stub.came[0][2])["model"] == "org/ben-32B"
    assert searched.status_code == 400 and len(stub.came) == 1


FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "label", "schema": {"type": "object"}, "strict": True},
}


async def test_an_answer_is_held_to_a_format_by_a_teacher_that_can() -> None:
    """Reasoned together, and free of it; written by the one who can, though another closed the thinking."""
    stub = Stub(says(b"{}"))
    panel = Panel(
        [Teacher("anna", supports_response_format=True), Teacher("ben")],
        upstreams=[stub.upstream("anna")],
    )
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(response_format=FORMAT))
    assert reply.json()["cord"]["answerer"] == "anna" and stub.came == []
    assert {asked.format is None for asked in panel.asks if asked.answer is None} == {True}
    assert [asked.format for asked in panel.asks if asked.answer is not None] == [FORMAT]
    [(job, _)] = panel.kept
    assert job.metadata["response_format"] == FORMAT


@pytest.mark.parametrize(
    "asked",
    [
        {"type": "json_schema"},
        {"type": "yaml"},
        {"type": "json_object", "json_schema": FORMAT["json_schema"]},
        3,
    ],
)
async def test_a_format_that_makes_no_sense_is_refused_by_name(asked: Any) -> None:
    panel = Panel([Teacher("anna", supports_response_format=True)])
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(response_format=asked))
    assert reply.status_code == 400 and reply.json()["error"]["param"].startswith("response_format")


async def test_without_a_teacher_that_can_it_is_refused_by_name() -> None:
    stub = Stub(says(b"{}"))
    panel = Panel(upstreams=[stub.upstream("ben", frozenset({"completions"}))])
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(tools=[TOOL]))
    assert (
        reply.status_code == 400 and reply.json()["error"]["param"] == "tools" and stub.came == []
    )


async def test_a_stream_is_passed_on_piece_by_piece() -> None:
    """Each piece reaches the client before the next is written."""
    go_on = anyio.Event()

    class Pieces(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'data: {"n": 1}\n\n'
            await go_on.wait()
            yield b"data: [DONE]\n\n"

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Pieces())),
        base_url="http://upstream/v1/",
    )
    app = Panel(upstreams=[Upstream("anna", "anna", client, PATHS)]).app
    heard: list[bytes] = []

    async def send(message: Any) -> None:
        if message.get("body"):
            heard.append(message["body"])
            go_on.set()

    await app(scope(), receive_of(ask(model="anna", stream=True)), send)
    assert heard == [b'data: {"n": 1}\n\n', b"data: [DONE]\n\n"]


async def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    class Breaking(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'data: {"n": 1}\n\n'
            raise httpx.ReadError("gone")

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Breaking())

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(handle), base_url="http://upstream/v1/"
    )
    panel = Panel(upstreams=[Upstream("anna", "anna", client, PATHS)])
    async with panel.client() as asking:
        reply = await asking.post(CHAT, json=ask(model="anna", stream=True))
    first, error = events_of(reply.content)
    assert first == {"n": 1} and error["error"]["code"] == "upstream_failed"


async def test_a_client_that_leaves_closes_the_teachers_connection() -> None:
    left, closed = anyio.Event(), anyio.Event()

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"first"
            left.set()
            await anyio.sleep_forever()

        async def aclose(self) -> None:
            closed.set()

    client = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=Endless())),
        base_url="http://upstream/v1/",
    )
    panel = Panel(upstreams=[Upstream("anna", "anna", client, PATHS)])
    messages = [
        {"type": "http.request", "body": json.dumps(ask(model="anna")).encode(), "more_body": False}
    ]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        """Nobody listens."""

    await panel.app(scope(), receive, send)
    assert closed.is_set() and panel.relayed == [("anna", "chat/completions", "2xx")]


async def test_a_teacher_that_is_away_is_a_bad_gateway() -> None:
    async with httpx.AsyncClient(
        transport=PooledTransport("/nowhere"), base_url="http://upstream/v1/"
    ) as client:
        panel = Panel(upstreams=[Upstream("anna", "anna", client, PATHS)])
        async with panel.client() as asking:
            reply = await asking.post(CHAT, json=ask(model="anna"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_failed")
    assert panel.relayed == [("anna", "chat/completions", "unreachable")]


async def test_completions_of_a_real_server_come_through(tmp_path: Path) -> None:
    engine = GenerationEngine.load(tiny.checkpoint(tmp_path), device="cpu")
    served = httpx.AsyncClient(
        transport=httpx.ASGITransport(build_app(engine, "tiny")), base_url="http://t/v1/"
    )
    panel = Panel(upstreams=[Upstream("anna", "tiny", served, frozenset({"completions"}))])
    body = {"prompt": "### Step 1.", "max_tokens": 5, "temperature": 0}
    async with panel.client() as client:
        through = await client.post("/v1/completions", json={**body, "model": "anna"})
        direct = await served.post("completions", json={**body, "model": "tiny"})
        models = (await client.get("/v1/models")).json()["data"]
    engine.close()
    assert (
        through.json()["choices"] == direct.json()["choices"] and through.json()["model"] == "tiny"
    )
    assert [model["id"] for model in models] == ["cord", "anna", "ben"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": "cord"}', "model"),
        (b'{"model": 3}', "model"),
        (b"{}", "model"),
        (b"[", None),
        (b"[]", None),
    ],
)
async def test_a_path_for_single_models_says_who_answers_it(body: bytes, param: str | None) -> None:
    panel = Panel(upstreams=[Stub(says(b"{}")).upstream()])
    async with panel.client() as client:
        reply = await client.post(
            "/v1/embeddings", content=body, headers={"content-type": "application/json"}
        )
    assert reply.status_code in (400, 404) and reply.json()["error"]["param"] == param


def scope() -> dict[str, Any]:
    headers = [(b"content-type", b"application/json"), (b"host", b"cord")]
    return {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "headers": headers,
        "query_string": b"",
        "root_path": "",
    }


def receive_of(body: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await anyio.sleep_forever()

    return receive


async def test_an_operator_may_let_everything_go_to_one_teacher() -> None:
    stub = Stub(says(b"{}"))
    panel = Panel(
        upstreams=[stub.upstream("ben")], options=replace(OPTIONS, relay_unsupported=True)
    )
    async with panel.client() as client:
        passed = await client.post(CHAT, json=ask(n=2))
        kept = await client.post(CHAT, json=ask(n=2, cord={"relay": False}))
    assert passed.headers["x-cord-relayed-for"] == "n"
    assert kept.status_code == 400 and len(stub.came) == 1


async def test_a_teachers_server_learns_nothing_of_the_clients_keys_and_addresses() -> None:
    stub = Stub(says(b"{}"))
    secrets = {
        "cookie": "session=1", "x-api-key": "k", "api-key": "k", "authorization": "Bearer mine", "forwarded": "for=1",
        "x-forwarded-for": "10.0.0.1", "x-forwarded-host": "h", "x-real-ip": "10.0.0.1", "via": "1.1 proxy",
    }  # fmt: skip
    async with Panel(upstreams=[stub.upstream()]).client() as client:
        await client.post(
            CHAT, json=ask(model="anna"), headers={**secrets, "openai-organization": "o"}
        )
    [(_, headers, _)] = stub.came
    assert headers["authorization"] == "Bearer its-own" and headers["openai-organization"] == "o"
    assert not headers.keys() & (secrets.keys() - {"authorization"})
