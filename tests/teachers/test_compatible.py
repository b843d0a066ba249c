"""The teacher contract over real servers: the embedded one, and a scripted one for what a real one seldom does."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from anyio.abc import SocketAttribute, SocketStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.compatible import CompatibleTeacher, Provider
from proxy.teachers.template import ChatTemplate
from runtime.literal import JOINER
from runtime.markup import PLAIN, MarkupName
from runtime.transport import PooledTransport
from scoring.objective import Passage
from scoring.tokens import Elicitation, Encoder
from scoring.types import Message as Said
from serving.app import build_app
from serving.engine import GenerationEngine
from tests import tiny

pytestmark = pytest.mark.anyio

ASK = TeacherRequest(
    (Message("user", "What is the label?"),), "### Step 1.", None, ("\n### Step",), 24, 0.0, 1.0, 1
)
REPORTS = Provider(reports_stop=True, extra={"add_special_tokens": False})
SILENT = Provider(extra={"add_special_tokens": False})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"), seed=3)


@pytest.fixture(scope="module")
def socket(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("s") / "t.sock")
    app = build_app(GenerationEngine.load(folder, device="cpu"), "tiny")
    server = uvicorn.Server(uvicorn.Config(app, uds=path, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield path
    server.should_exit = True
    thread.join()


@asynccontextmanager
async def teacher(
    transport: httpx.AsyncBaseTransport, template: ChatTemplate, provider: Provider
) -> AsyncIterator[CompatibleTeacher]:
    async with httpx.AsyncClient(transport=transport, base_url="http://t/v1/") as client:
        yield CompatibleTeacher("t", "tiny", client, template, provider)


@asynccontextmanager
async def real(
    socket: str, folder: Path, provider: Provider = REPORTS
) -> AsyncIterator[CompatibleTeacher]:
    async with teacher(PooledTransport(socket), ChatTemplate.load(str(folder)), provider) as made:
        yield made


async def test_a_continuation_is_that_of_the_rendered_prompt(socket: str, folder: Path) -> None:
    prompt = "<|im_start|>user\nWhat is the label?<|im_end|>\n<|im_start|>assistant\n<think>\n### Step 1."
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://t"
    ) as client:
        body = {
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": 24,
            "temperature": 0,
            "add_special_tokens": False,
        }
        raw = (await client.post("/v1/completions", json=body)).json()
    async with real(socket, folder) as model:
        written = await model.write(ASK)
    assert written.text == raw["choices"][0]["text"]
    assert (written.prompt_tokens, written.completion_tokens, written.ended) == (
        raw["usage"]["prompt_tokens"], 24, "length",
    )  # fmt: skip


@pytest.mark.parametrize(
    "provider", [REPORTS, SILENT], ids=["server finds the stop", "proxy finds the stop"]
)
async def test_a_step_ends_at_its_marker_and_says_so(
    socket: str, folder: Path, provider: Provider
) -> None:
    async with real(socket, folder, provider) as model:
        whole = (await model.write(ASK)).text
        marker = whole[10:13]
        cut = TeacherRequest(ASK.messages, ASK.reasoning, None, (marker,), 24, 0.0, 1.0, 1)
        written = await model.write(cut)
    assert (written.text, written.ended) == (whole[: whole.index(marker)], "marker")


@pytest.mark.parametrize(
    "provider", [REPORTS, SILENT], ids=["server finds the stop", "proxy finds the stop"]
)
async def test_text_is_heard_as_it_is_written(
    socket: str, folder: Path, provider: Provider
) -> None:
    heard: list[str] = []
    async with real(socket, folder, provider) as model:
        whole = await model.write(ASK)
        streamed = await model.write(ASK, heard.append)
    assert "".join(heard) == streamed.text == whole.text and len(heard) > 3


async def test_a_context_overflow_is_typed(socket: str, folder: Path) -> None:
    async with real(socket, folder) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(
                TeacherRequest((Message("user", "x " * 3000),), "", None, (), 8, 0.0, 1.0, 1)
            )
    assert caught.value.kind == "context_overflow"


async def test_a_server_that_is_away_is_unreachable(tmp_path: Path, folder: Path) -> None:
    async with real(str(tmp_path / "none.sock"), folder) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == "unreachable"


def scripted(reply: Response) -> httpx.ASGITransport:
    async def completions(_: Request) -> Response:
        return reply

    return httpx.ASGITransport(
        app=Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
    )


def error(status: int, message: str = "no", code: str | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": code}}, status_code=status)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(404), "unknown_model"),
        (error(429), "rate_limited"),
        (error(503), "overloaded"),
        (error(500), "broken"),
        (error(422), "refused"),
        (error(400, "This model's maximum context length is 8 tokens"), "context_overflow"),
        (Response("<html>", status_code=502), "overloaded"),
        (Response("<html>"), "broken"),
        (JSONResponse([]), "broken"),
        (JSONResponse({"choices": []}), "broken"),
    ],
)
async def test_each_failure_has_its_kind(reply: Response, kind: str, folder: Path) -> None:
    async with teacher(scripted(reply), ChatTemplate.load(str(folder)), REPORTS) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "events",
    [
        b'data: {"choices": [{"text": "half"}]}\n\n',
        b'data: {"choices": [{"text": "half"}]}\n\ndata: {"error": {"message": "lost"}}\n\n',
        b"data: {broken\n\n",
    ],
)
async def test_a_stream_that_breaks_off_is_broken(events: bytes, folder: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield events

    async with teacher(
        scripted(StreamingResponse(body())), ChatTemplate.load(str(folder)), SILENT
    ) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == "broken"


async def test_a_stream_that_ends_without_a_word_is_asked_for_its_reason(folder: Path) -> None:
    async def completions(request: Request) -> Response:
        streamed = (await request.json()).get("stream")
        return (
            Response(b"", media_type="text/event-stream")
            if streamed
            else error(400, "", "context_length_exceeded")
        )

    transport = httpx.ASGITransport(
        app=Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
    )
    async with teacher(transport, ChatTemplate.load(str(folder)), SILENT) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == "context_overflow"


async def test_tokens_are_estimated_where_a_server_does_not_count(folder: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'data: {"choices": [{"text": " one two"}]}\n\n'
        yield b'data: {"choices": [{"text": "", "finish_reason": "stop"}]}\n\n'

    async with teacher(
        scripted(StreamingResponse(body())), ChatTemplate.load(str(folder)), SILENT
    ) as model:
        written = await model.write(ASK)
    assert (written.text, written.ended, written.completion_tokens) == (" one two", "eos", 2)


async def test_cancelling_a_call_closes_its_connection(folder: Path) -> None:
    began, closed = anyio.Event(), anyio.Event()

    class Hanging(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                closed.set()
            raise AssertionError

    async with teacher(Hanging(), ChatTemplate.load(str(folder)), REPORTS) as model:
        async with anyio.create_task_group() as group:
            group.start_soon(model.write, ASK)
            await began.wait()
            group.cancel_scope.cancel()
    assert closed.is_set()


class Counts:
    """A completions server of a model whose tokens are `<s>` and single characters."""

    def __init__(self, *, adds_bos: bool, counts: bool = True) -> None:
        self.prompts: list[str] = []
        self._added = int(adds_bos)
        self._counts = counts

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.prompts.append(body["prompt"])
        tokens = len(body["prompt"].replace("<s>", "#")) + self._added
        usage = {"prompt_tokens": tokens, "completion_tokens": 1} if self._counts else None
        return JSONResponse({"choices": [{"text": "x", "finish_reason": "stop"}], "usage": usage})

    @property
    def transport(self) -> httpx.ASGITransport:
        app = Starlette(routes=[Route("/v1/completions", self.completions, methods=["POST"])])
        return httpx.ASGITransport(app=app)


@pytest.mark.parametrize(
    ("adds", "counts", "may", "sent"),
    [
        (True, True, True, "Q|"),
        (False, True, True, "<s>Q|"),
        (True, False, True, "<s>Q|"),
        (True, True, False, "<s>Q|"),
    ],
    ids=["it adds one", "it adds none", "it does not say", "it is told not to"],
)
async def test_sequence_begins_once(adds: bool, counts: bool, may: bool, sent: str) -> None:
    template = ChatTemplate(
        "{{ bos_token }}{{ messages[0].content }}|", {"bos_token": "<s>"}, PLAIN
    )
    server = Counts(adds_bos=adds, counts=counts)
    provider = Provider(reports_stop=True, may_add_bos=may)
    ask = replace(ASK, messages=(Message("user", "Q"),))
    async with (
        teacher(server.transport, template, provider) as model,
        anyio.create_task_group() as group,
    ):
        for _ in range(3):
            group.start_soon(model.write, ask)
    assert server.prompts[-3:] == [f"{sent}### Step 1."] * 3
    assert len(server.prompts) == (5 if may else 3)


async def test_words_come_back_as_they_were_said(folder: Path) -> None:
    """What was broken up in the prompt, the model may repeat."""
    template, broken = ChatTemplate.load(str(folder)), f"<{JOINER}|im_end|>"
    for provider in (REPORTS, SILENT):
        heard: list[str] = []
        event = {"choices": [{"text": f" It is {broken}", "finish_reason": "stop"}]}
        body = json.dumps(event) if provider is REPORTS else f"data: {json.dumps(event)}\n\n"
        asked = replace(ASK, messages=(Message("user", "What is <|im_end|>?"),))
        async with teacher(scripted(Response(body)), template, provider) as model:
            written = await model.write(asked, None if provider is REPORTS else heard.append)
        assert written.text == " It is <|im_end|>" and "".join(heard) in ("", written.text)


THINKS = "{{ messages[0].content }}|{% if add_generation_prompt %}A:{% endif %}{# </think> #}"


TALK = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
MANNERS = {
    "qwen3": (TALK + "<|im_start|>assistant{{ '\n' }}", "<|im_start|>assistant\n<think>\ns", "</think>\n\na"),
    "deepseek-r1": (
        "{% for m in messages %}<|User|>{{ m.content }}{% endfor %}<|Assistant|><think>\n{# </think> #}",
        "<|Assistant|><think>\ns", "</think>\n\na",
    ),
    "phi-4-reasoning": (
        "<|im_start|>system<|im_sep|>Think in <think> and </think>.<|im_end|>"
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "<|im_start|>assistant<|im_sep|>",
        "<|im_start|>assistant<|im_sep|><think>\ns", "</think>\n\na",
    ),
    "llama-3": (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% endfor %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}",
        "<|start_header_id|>assistant<|end_header_id|>\n\ns", "### Answer\n\na",
    ),
    "gpt-oss": (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant"
        "{# <|channel|> #}",
        "<|start|>assistant<|channel|>analysis<|message|>s", "<|end|><|start|>assistant<|channel|>final<|message|>a",
    ),
    "magistral": (
        "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}{# [/THINK] #}",
        "[INST]Q[/INST][THINK]s", "[/THINK]a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("manner", MANNERS)
def test_a_turn_goes_on_in_the_manner_of_each_family(manner: str, tmp_path: Path) -> None:
    """By the proxy for its teachers, and by the scorer for its models: to both a step stands in the same place."""
    source, thinking, answering = MANNERS[manner]
    (tmp_path / "chat_template.jinja").write_text(source)
    template = ChatTemplate.load(str(tmp_path))
    turn = TeacherRequest((Message("user", "Q"),), "s", None, (), 1, 0.0, 1.0, 0)
    assert template.turn(turn).endswith(thinking)
    assert template.turn(replace(turn, answer="a")).endswith(thinking + answering)
    words = tiny.tokenizer(source)
    row = Encoder(words, Elicitation("{answer}.")).row(
        (Said("user", "Q"),), Passage(0, "s", "a", closing=True)
    )
    assert words.decode(row.ids).rstrip(".").endswith(thinking + answering)


@pytest.mark.parametrize("markup", ["harmony", "think"])
async def test_special_tokens_are_asked_for_where_thinking_ends_by_one(
    markup: MarkupName, folder: Path
) -> None:
    came: list[dict[str, Any]] = []

    async def completions(request: Request) -> Response:
        came.append(await request.json())
        return JSONResponse(
            {"choices": [{"text": " x", "finish_reason": "stop", "stop_reason": "<|end|>"}]}
        )

    transport = httpx.ASGITransport(
        app=Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
    )
    async with teacher(transport, ChatTemplate.load(str(folder), markup), REPORTS) as model:
        assert (await model.write(ASK)).ended == "closed"
    assert came[0].get("skip_special_tokens", True) is (markup == "think")
    assert ("<|end|>" in came[0]["stop"]) is (markup == "harmony")


@pytest.mark.parametrize(
    ("source", "thinking", "answering"),
    [
        (THINKS, "Q|A:<think>\ns", "Q|A:<think>\ns</think>\n\na"),
        (
            THINKS.replace("A:", "A:<think>\\n").replace("A:<think>\\n", "A:<think>\n"),
            "Q|A:<think>\ns",
            None,
        ),
        ("{{ messages[0].content }}|", "Q|s", "Q|s### Answer\n\na"),
    ],
    ids=["thinking", "thinking, opened by the template", "plain"],
)
def test_a_turn_is_written_in_the_models_own_markup(
    source: str, thinking: str, answering: str | None, tmp_path: Path
) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    template = ChatTemplate.load(str(tmp_path))

    def ask(answer: str | None) -> Any:
        return TeacherRequest((Message("user", "Q"),), "s", answer, (), 1, 0.0, 1.0, 0)

    assert template.turn(ask(None)) == thinking
    assert template.turn(ask("a")) == (answering or thinking + "</think>\n\na")


TOOL = {"type": "function", "function": {"name": "weigh", "description": "Weigh it."}}


def test_tools_are_told_in_the_templates_own_words_or_in_ours(folder: Path) -> None:
    plain = ChatTemplate.load(str(folder))
    own = replace(
        plain,
        source="{% if tools %}TOOLS {{ tools | tojson }} <tool_call>{% endif %}" + plain.source,
    )
    messages = (Message("system", "Be brief."), Message("user", "hi"))
    assert (plain.supports_tools, own.supports_tools) == (False, True)
    told = plain.render(messages, [TOOL])
    assert (
        told.index("Be brief.")
        < told.index('{"name": "weigh", "description": "Weigh it."}')
        < told.index("hi")
    )
    assert own.render(messages, [TOOL]).startswith(
        "TOOLS [{"
    ) and "can be called" not in own.render(messages, [TOOL])
    assert own.render(messages) == plain.render(messages)
    assert "can be called" in plain.render(messages[1:], [TOOL])


@pytest.mark.parametrize("why", ["a stop text was read", "the call was cancelled"])
async def test_server_sees_at_once_that_a_stream_is_over(why: str, folder: Path) -> None:
    """Over a real socket; the next call goes out while the server still learns of it, on a connection of its own."""
    cancelled = why == "the call was cancelled"
    began, closed = anyio.Event(), anyio.Event()
    event = (
        b'data: {"choices": [{"text": " one\\n### Step 2"}]}\n\n'
        if not cancelled
        else b": writing\n\n"
    )

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event)
            began.set()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            closed.set()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1/"
        async with httpx.AsyncClient(transport=PooledTransport(), base_url=url) as client:
            model = CompatibleTeacher("t", "m", client, ChatTemplate.load(str(folder)), SILENT)
            async with anyio.create_task_group() as calls:
                calls.start_soon(model.write, ASK)
                await began.wait()
                if cancelled:
                    calls.cancel_scope.cancel()
            left_s = anyio.current_time()
            await closed.wait()
            assert anyio.current_time() - left_s < 0.1
        group.cancel_scope.cancel()
