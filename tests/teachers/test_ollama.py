"""Ollama's wire format, scripted: raw continuations, stop texts found on our side, its ends and failures."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.compatible import PROVIDERS
from proxy.teachers.ollama import OllamaTeacher
from proxy.teachers.template import ChatTemplate
from tests import tiny

pytestmark = pytest.mark.anyio

ASK = TeacherRequest(
    (Message("user", "hi"),), "### Step 1.", None, ("\n### Step",), 24, 0.5, 0.9, 7
)
END = {
    "response": "",
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 11,
    "eval_count": 5,
}


class Ollama(httpx.AsyncBaseTransport):
    """Says these lines, whatever it is asked."""

    def __init__(self, *lines: dict[str, Any] | str, status: int = 200) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        self._status = status
        self.read = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, json.loads(request.content)))

        async def lines() -> AsyncIterator[bytes]:
            for line in self._lines:
                self.read += 1
                yield f"{line}\n".encode()

        return httpx.Response(self._status, content=lines())


@asynccontextmanager
async def teacher(ollama: Ollama, folder: Path) -> AsyncIterator[OllamaTeacher]:
    async with httpx.AsyncClient(transport=ollama, base_url="http://o:11434/v1/") as client:
        yield OllamaTeacher(
            "o", "qwen3:8b", client, ChatTemplate.load(str(folder)), PROVIDERS["ollama"]
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("t")
    tiny.tokenizer().save_pretrained(made)
    return made


def says(*texts: str) -> list[dict[str, Any] | str]:
    return [{"response": text, "done": False} for text in texts]


async def test_the_rendered_turn_is_sent_raw(folder: Path) -> None:
    ollama = Ollama(*says(" We add"), END)
    async with teacher(ollama, folder) as model:
        written = await model.write(ASK)
    [(path, body)] = ollama.asked
    assert path == "/api/generate" and body["model"] == "qwen3:8b" and body["raw"] is True
    assert (
        body["prompt"]
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n### Step 1."
    )
    assert (
        body["options"].items()
        >= {"num_predict": 24, "temperature": 0.5, "top_p": 0.9, "seed": 7}.items()
    )
    assert body["truncate"] is False and "format" not in body
    assert (written.text, written.ended, written.prompt_tokens, written.completion_tokens) == (
        " We add",
        "eos",
        11,
        5,
    )


@pytest.mark.parametrize(
    ("texts", "ended"),
    [((" one\n", "### St", "ep 2. two"), "marker"), ((" one\n", "</thi", "nk> so"), "closed")],
)
async def test_a_stop_text_ends_it_and_the_rest_is_not_read(
    texts: tuple[str, ...], ended: str, folder: Path
) -> None:
    ollama = Ollama(*says(*texts, " more", " and more"), END)
    heard: list[str] = []
    async with teacher(ollama, folder) as model:
        written = await model.write(ASK, heard.append)
    assert (written.text.rstrip(), written.ended) == (" one", ended)
    assert "".join(heard) == written.text and ollama.read == 3
    assert written.completion_tokens > 0


async def test_out_of_tokens_is_said(folder: Path) -> None:
    async with teacher(Ollama(*says(" a"), {**END, "done_reason": "length"}), folder) as model:
        assert (await model.write(ASK)).ended == "length"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "json_object"}, "json"),
    ],
)
async def test_an_answer_is_held_to_a_format(
    asked: dict[str, Any], sent: Any, folder: Path
) -> None:
    ollama = Ollama(*says("{}"), END)
    async with teacher(ollama, folder) as model:
        assert model.supports_response_format
        await model.write(replace(ASK, answer="", stop=(), format=asked))
    assert ollama.asked[0][1]["format"] == sent


@pytest.mark.parametrize(
    ("ollama", "kind"),
    [
        (Ollama({"error": "model 'x' not found"}, status=404), "unknown_model"),
        (Ollama({"error": "busy"}, status=503), "overloaded"),
        (Ollama(*says(" a"), {"error": "the runner crashed"}), "broken"),
        (Ollama(*says(" a")), "broken"),
        (Ollama("<html>"), "broken"),
    ],
)
async def test_failures_have_their_kind(ollama: Ollama, kind: str, folder: Path) -> None:
    async with teacher(ollama, folder) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == kind


@pytest.mark.parametrize(("shown", "sent"), [(True, ""), (None, ""), (False, "<s>")])
async def test_sequence_begins_once(shown: bool | None, sent: str, folder: Path) -> None:
    class Showing(Ollama):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path != "/api/show":
                return await super().handle_async_request(request)
            info = {} if shown is None else {"tokenizer.ggml.add_bos_token": shown}
            return httpx.Response(
                200, stream=httpx.ByteStream(json.dumps({"model_info": info}).encode())
            )

    plain = ChatTemplate.load(str(folder))
    template = replace(
        plain, source="{{ bos_token }}" + plain.source, special_tokens={"bos_token": "<s>"}
    )
    ollama = Showing(*says(" a"), END)
    async with httpx.AsyncClient(transport=ollama, base_url="http://o:11434/v1/") as client:
        await OllamaTeacher("o", "m", client, template, PROVIDERS["ollama"]).write(ASK)
    assert ollama.asked[0][1]["prompt"].startswith(f"{sent}<|im_start|>user")
