"""Replies that are no replies: each is its teacher's failure, bounded in what it costs, told in one line."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from proxy import sse
from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import TeacherError, one_line
from proxy.teachers import tokens, wire
from proxy.teachers.compatible import CompatibleTeacher, Provider
from proxy.teachers.failures import retry_after
from proxy.teachers.ollama import OllamaTeacher
from proxy.teachers.template import ChatTemplate
from runtime.transport import PooledTransport
from tests import tiny

pytestmark = pytest.mark.anyio

ASK = TeacherRequest(
    (Message("user", "hi"),), "### Step 1.", None, ("\n### Step",), 24, 0.0, 1.0, 1
)
WHOLE, STREAMED = Provider(reports_stop=True), Provider()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    made = tmp_path_factory.mktemp("t")
    tiny.tokenizer().save_pretrained(made)
    return ChatTemplate.load(str(made))


class Says(httpx.AsyncBaseTransport):
    """Answers every call with these bytes, and counts how many of them were read."""

    def __init__(self, *pieces: bytes, status: int = 200, repeat: int = 1, **headers: str) -> None:
        self._pieces, self._repeat = pieces, repeat
        self._status = status
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.read = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async def body() -> AsyncIterator[bytes]:
            for _ in range(self._repeat):
                for piece in self._pieces:
                    self.read += len(piece)
                    yield piece

        return httpx.Response(self._status, content=body(), headers=self._headers)


@asynccontextmanager
async def asked(
    transport: httpx.AsyncBaseTransport,
    template: ChatTemplate,
    provider: Provider,
    kind: type[CompatibleTeacher] = CompatibleTeacher,
) -> AsyncIterator[CompatibleTeacher]:
    async with httpx.AsyncClient(transport=transport, base_url="http://t/v1/") as client:
        yield kind("t", "m", client, template, provider)


async def fails(
    transport: httpx.AsyncBaseTransport, template: ChatTemplate, provider: Provider
) -> TeacherError:
    async with asked(transport, template, provider) as teacher:
        with pytest.raises(TeacherError) as caught:
            await teacher.write(ASK)
    return caught.value


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"text": " four", "finish_reason": "stop", **fields}]}


def usage(prompt: Any = 3, completion: Any = 2) -> dict[str, Any]:
    return {**choice(), "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


BROKEN: dict[str, Any] = {
    "no object": "four",
    "a choice that is text": {"choices": ["x"]},
    "choices that are none": {"choices": "x"},
    "choices that are a number": {"choices": 7},
    "text that is a number": choice(text=4),
    "text that is a list": choice(text=["four"]),
    "a finish reason that is an object": choice(finish_reason={}),
    "negative usage": usage(completion=-1),
    "infinite usage": usage(completion=float("inf")),
    "usage that is not a number": usage(prompt=float("nan")),
    "usage in fractions": usage(completion=1.5),
    "usage as text": usage(prompt="3"),
    "usage as truth": usage(prompt=True),
    "usage beyond reason": usage(prompt=10**30),
    "half a usage": {**choice(), "usage": {"prompt_tokens": 3}},
    "usage that is a list": {**choice(), "usage": [1, 2]},
    "more tokens than asked for": usage(completion=10_000),
}
RAW = {
    "a lone surrogate": b'{"choices": [{"text": " fo\\ud800ur", "finish_reason": "stop"}]}',
    "deep JSON": b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep JSON beside": b'{"x": '
    + b'{"x":' * 100_000
    + b"1"
    + b"}" * 100_000
    + b', "choices": [{"text": "a"}]}',
    "no JSON": b"<html>",
    "half of JSON": b'{"choices": [{"text": " four"',
    "nothing": b"",
    "no UTF-8": b'{"choices": [{"text": "\xff\xfe", "finish_reason": "stop"}]}',
}


@pytest.mark.parametrize("name", [*BROKEN, *RAW, "null text", "no choices"])
async def test_malformed_whole_reply_is_its_teachers_failure(
    name: str, template: ChatTemplate
) -> None:
    more = {"null text": choice(text=None), "no choices": {"choices": []}, **BROKEN}
    body = RAW[name] if name in RAW else json.dumps(more[name]).encode()
    assert (await fails(Says(body), template, WHOLE)).kind == "broken"


@pytest.mark.parametrize("name", [*BROKEN, *(set(RAW) - {"nothing", "no UTF-8"})])
async def test_malformed_event_is_its_teachers_failure(name: str, template: ChatTemplate) -> None:
    body = RAW[name] if name in RAW else json.dumps(BROKEN[name]).encode()
    assert (await fails(Says(b"data: " + body + b"\n\n"), template, STREAMED)).kind == "broken"


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"response": 4}',
        b'{"response": "a", "done": true, "eval_count": -1}',
        b"{" * 10_000,
    ],
)
async def test_malformed_line_of_ollamas_is_its_teachers_failure(
    line: bytes, template: ChatTemplate
) -> None:
    async with asked(Says(line + b"\n"), template, STREAMED, OllamaTeacher) as teacher:
        with pytest.raises(TeacherError) as caught:
            await teacher.write(ASK)
    assert caught.value.kind == "broken"


async def test_null_text_is_nothing_in_a_stream(template: ChatTemplate) -> None:
    events = [choice(finish_reason=None), choice(text=None), {"choices": [], "usage": None}]
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    async with asked(Says(stream), template, STREAMED) as teacher:
        written = await teacher.write(ASK)
    assert (written.text, written.ended, written.tokens_estimated) == (" four", "eos", True)


async def test_a_characters_bytes_may_come_apart(template: ChatTemplate) -> None:
    event = b"data: " + json.dumps(choice(text=" für 四"), ensure_ascii=False).encode() + b"\n\n"
    async with asked(
        Says(*(event[i : i + 1] for i in range(len(event)))), template, STREAMED
    ) as teacher:
        assert (await teacher.write(ASK)).text == " für 四"


@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
async def test_stream_of_another_content_type_is_its_teachers_failure(
    content_type: str, template: ChatTemplate
) -> None:
    found = await fails(
        Says(json.dumps(choice()).encode(), content_type=content_type), template, STREAMED
    )
    assert found.kind == "broken" and content_type in str(found)


MEBIBYTE = b"x" * (1 << 20)
EVENT = b"data: " + json.dumps({"choices": [{"text": " and" * 20}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("provider", "piece"),
    [(WHOLE, MEBIBYTE), (STREAMED, b"data: " + MEBIBYTE), (STREAMED, MEBIBYTE), (STREAMED, EVENT),
     (STREAMED, b"data: {}\n\n"), (STREAMED, b": still here\n\n")],
    ids=["a whole reply", "data lines without end", "one line without end", "text without end", "events without text",
         "comments without end"],
)  # fmt: skip
async def test_reply_without_end_is_cut_off(
    provider: Provider, piece: bytes, template: ChatTemplate
) -> None:
    said = Says(piece, repeat=200 * (1 << 20) // len(piece))
    assert (await fails(said, template, provider)).kind == "broken"
    assert said.read < 2 << 20


async def test_teacher_that_ignores_max_tokens_has_its_connection_closed(
    template: ChatTemplate,
) -> None:
    closed = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            with pytest.raises(anyio.BrokenResourceError):
                while True:
                    await stream.send(EVENT)
            closed.set()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1/"
        async with httpx.AsyncClient(transport=PooledTransport(), base_url=url) as client:
            heard: list[str] = []
            with pytest.raises(TeacherError, match="max_tokens"):
                await CompatibleTeacher("t", "m", client, template, STREAMED).write(
                    ASK, heard.append
                )
            with anyio.fail_after(5):
                await closed.wait()
        group.cancel_scope.cancel()
    assert sum(map(len, heard)) <= wire.Bounds.of(ASK.max_tokens).chars


async def test_error_is_told_in_one_bounded_line(template: ChatTemplate) -> None:
    hostile = json.dumps(
        {"error": {"message": "no\r\nINFO forged\x1b[31m" + "x" * 10_000_000}}
    ).encode()
    for provider, body in ((WHOLE, hostile), (WHOLE, b"a\nb\x00" + MEBIBYTE), (STREAMED, hostile)):
        said = Says(body, status=400)
        found = await fails(said, template, provider)
        assert found.kind == "refused" and str(found).isprintable() and len(str(found)) < 600
    streamed = await fails(Says(b'data: {"error": "a\\nb\\u001b[1m"}\n\n'), template, STREAMED)
    assert str(streamed).isprintable() and "\\n" in str(streamed)


def test_one_line_keeps_what_can_be_printed() -> None:
    assert one_line("ß 四\tx\ud800\u202e") == "ß 四\\tx\\ud800\\u202e"
    assert one_line("abcdef", 3) == "abc …"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "1.5"}, 1.5), ({"retry-after-ms": "250"}, 0.25),
     ({"retry-after": "-1"}, None), ({"retry-after": "soon"}, None), ({"retry-after": "inf"}, None),
     ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0), ({"retry-after": "9" * 400}, None)],
)  # fmt: skip
async def test_retry_after_is_read(
    headers: dict[str, str], seconds: float | None, template: ChatTemplate
) -> None:
    assert retry_after(headers) == seconds
    found = await fails(Says(b"", status=429, **headers), template, WHOLE)
    assert (found.kind, found.retry_after_s) == ("rate_limited", seconds)


@pytest.mark.parametrize(
    "error",
    [{"code": "context_length_exceeded"}, {"type": "exceed_context_size_error", "code": 400, "n_ctx": 512},
     {"message": "This model's maximum context length is 8 tokens"}],
)  # fmt: skip
async def test_overflow_is_known_by_its_code_its_type_or_its_words(
    error: dict[str, Any], template: ChatTemplate
) -> None:
    body = json.dumps({"error": error}).encode()
    assert (await fails(Says(body, status=400), template, WHOLE)).kind == "context_overflow"
    assert (
        await fails(Says(b"data: " + body + b"\n\n"), template, STREAMED)
    ).kind == "context_overflow"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"error": ["a"]}',
        b'{"error": null}',
        b'{"detail": 4}',
        b"\xff",
        b'{"error": {"message": {}}}',
    ],
)
async def test_errors_of_any_form_are_refusals(body: bytes, template: ChatTemplate) -> None:
    assert (await fails(Says(body, status=400), template, WHOLE)).kind == "refused"


async def test_address_in_a_message_has_no_password(template: ChatTemplate) -> None:
    async with httpx.AsyncClient(
        transport=PooledTransport(), base_url="http://me:secret@127.0.0.1:9/v1/"
    ) as client:
        with pytest.raises(TeacherError) as caught:
            await CompatibleTeacher("t", "m", client, template, WHOLE).write(ASK)
    assert caught.value.kind == "unreachable" and "secret" not in str(caught.value)


async def test_long_conversations_are_rendered_and_counted_off_the_event_loop(
    template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, threads = threading.get_ident(), []

    def noting(done: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any) -> Any:
            threads.append(threading.get_ident() == here)
            return done(*args)

        return note

    monkeypatch.setattr(ChatTemplate, "turn", noting(ChatTemplate.turn))
    monkeypatch.setattr(tokens, "approximate_tokens", noting(tokens.approximate_tokens))
    for messages in (
        (Message("user", "hi"),),
        (Message("user", "x " * 200_000),),
        (Message("user", "hi"),) * 1000,
    ):
        ask = TeacherRequest(messages, "", None, (), 24, 0.0, 1.0, 1)
        async with asked(
            Says(b"data: " + json.dumps(choice()).encode() + b"\n\n"), template, STREAMED
        ) as teacher:
            await teacher.write(ask)
    assert threads == [True] * 3 + [False] * 6


def test_event_of_many_lines_is_bounded() -> None:
    decoder = sse.Decoder(max_event_bytes=100)
    assert decoder.feed(b"data: " + b"x" * 80 + b"\n\n" + b"data: " + b"y" * 80 + b"\n\n")
    with pytest.raises(sse.EventTooLong):
        decoder.feed(b"data: 12345678\n" * 10)
