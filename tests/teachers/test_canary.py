"""Teachers that do not continue a half-written turn are found out and refused; real ones served right are not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.probe import Probes, Target
from proxy.teachers.compatible import PROVIDERS, CompatibleTeacher
from proxy.teachers.guard import GuardedTeacher, Limits
from proxy.teachers.template import ChatTemplate
from serving.app import build_app
from serving.engine import GenerationEngine
from tests.decoder.scripted import ScriptedTeacher, says

pytestmark = pytest.mark.anyio

CHECKPOINTS = Path(__file__).parents[2] / "miniature" / "checkpoints"
CUT = Segmentation(
    instruction='Reason in steps, each headed "### Step N.", then give the final answer.'
)
ASK = TeacherRequest((Message("user", "hi"),), "### Step 1.", None, (), 4, 0.0, 1.0, 1)


class Meddling(httpx.AsyncBaseTransport):
    """The embedded server behind somebody who rewrites prompts."""

    def __init__(self, engine: GenerationEngine, name: str, meddle: Callable[[str], str]) -> None:
        self._server = httpx.ASGITransport(app=build_app(engine, name))
        self._meddle = meddle

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            body = json.loads(request.content)
            body["prompt"] = self._meddle(body["prompt"])
            request = httpx.Request("POST", request.url, json=body)
        return await self._server.handle_async_request(request)


@asynccontextmanager
async def served(
    name: str, meddle: Callable[[str], str]
) -> AsyncIterator[tuple[GuardedTeacher, httpx.AsyncClient]]:
    engine = GenerationEngine.load(CHECKPOINTS / name, device="cpu")
    template = ChatTemplate.load(str(CHECKPOINTS / name))
    async with httpx.AsyncClient(
        transport=Meddling(engine, name, meddle), base_url="http://t/v1/"
    ) as client:
        yield (
            GuardedTeacher(
                CompatibleTeacher(name, name, client, template, PROVIDERS["local"]), Limits()
            ),
            client,
        )
    engine.close()


@pytest.mark.parametrize("name", ["alder", "birch", "cedar"])
async def test_a_teacher_that_goes_on_is_trusted(name: str) -> None:
    async with served(name, lambda prompt: prompt) as (teacher, _):
        assert await teacher.examine(CUT) is None
        assert (await teacher.write(ASK)).text


def retemplated(prompt: str) -> str:
    return f"<|begin|><|user|>{prompt}<|end|><|assistant|><think>\n"


def closed(prompt: str) -> str:
    return f"{prompt}<|end|><|assistant|>"


@pytest.mark.parametrize("meddle", [retemplated, closed, lambda prompt: f"{prompt} "])
async def test_a_server_that_meddles_with_the_turn_is_found_out(
    meddle: Callable[[str], str],
) -> None:
    async with served("alder", meddle) as (teacher, client):
        found = await teacher.examine(CUT)
        assert found is not None and "server" in found
        with pytest.raises(TeacherError) as caught:
            await teacher.write(ASK)
        assert caught.value.kind == "refused" and found in str(caught.value)
        target = Target(
            "alder", client, "models", required=False, examine=lambda: teacher.examine(CUT)
        )
        probes = Probes([target], Target("scorer", client, "models", required=True))
        await probes.once()
        assert probes.states()["alder"].detail == found and not probes.states()["teachers"].ok


@pytest.mark.parametrize(
    ("written", "what"),
    [(says("", "eos"), "ends its turn"), (says("\n<think>\nSo", "length"), "thinking block")],
)
async def test_a_turn_that_ends_or_thinks_anew_is_found_out(
    written: Continuation, what: str
) -> None:
    found = await GuardedTeacher(ScriptedTeacher("t", lambda _: written), Limits()).examine(CUT)
    assert found is not None and what in found


async def test_a_teacher_that_cannot_be_asked_is_not_judged() -> None:
    teacher = GuardedTeacher(
        ScriptedTeacher("t", lambda _: TeacherError("t", "overloaded", "busy")), Limits()
    )
    with pytest.raises(TeacherError):
        await teacher.examine(CUT)
    with pytest.raises(TeacherError) as caught:
        await teacher.write(ASK)
    assert caught.value.kind == "overloaded"
