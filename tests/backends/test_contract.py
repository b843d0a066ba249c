"""One contract for every server: what a teacher's adapter promises, against the model's own greedy text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import cache

import anyio
import httpx
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from miniature import task
from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers.compatible import PROVIDERS, CompatibleTeacher
from proxy.teachers.template import ChatTemplate
from runtime.transport import PooledTransport
from scoring.engine import ScoringEngine
from scoring.types import Message as Said
from scoring.types import ScoreRequest, Tree
from tests.backends.servers import CHECKPOINT, CONTEXT, Backend

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

PROBLEM = next(task.problems(5, "held-out")).text
INSTRUCTION = 'Reason in steps, each headed "### Step N.", then give the final answer.'
TALK = (Message("user", f"{PROBLEM}\n\n{INSTRUCTION}"),)
ASK = TeacherRequest(TALK, "### Step 1.", None, ("\n### Step",), 320, 0.0, 1.0, 1)
WHOLE = replace(ASK, stop=())


@asynccontextmanager
async def teacher(backend: Backend, model: str | None = None) -> AsyncIterator[CompatibleTeacher]:
    async with httpx.AsyncClient(
        transport=PooledTransport(), base_url=f"{backend.url}/v1/", timeout=120
    ) as client:
        yield CompatibleTeacher(
            "t",
            model or backend.kind.model,
            client,
            ChatTemplate.load(str(CHECKPOINT)),
            PROVIDERS[backend.provider],
        )


@cache
def greedy(ask: TeacherRequest) -> tuple[str, int]:
    """The model's own continuation of the rendered prompt, up to its end or the limit; and the prompt's tokens."""
    model, words = (
        AutoModelForCausalLM.from_pretrained(CHECKPOINT),
        AutoTokenizer.from_pretrained(CHECKPOINT),
    )
    ids = words(
        ChatTemplate.load(str(CHECKPOINT)).turn(ask), add_special_tokens=False, return_tensors="pt"
    )
    written = model.generate(**ids, max_new_tokens=ask.max_tokens, do_sample=False)
    prompt = ids["input_ids"].shape[1]
    return words.decode(written[0, prompt:], skip_special_tokens=True), prompt


async def test_a_continuation_is_the_models_own_greedy_one(backend: Backend) -> None:
    """To the end of the thinking, over several steps, token for token."""
    async with teacher(backend) as model:
        written = await model.write(WHOLE)
    assert written.ended == "closed"
    wanted, _ = greedy(WHOLE)
    assert (
        written.text.rstrip() == wanted.partition("</think>")[0].rstrip()
        and "### Step 6." in written.text
    )


async def test_a_step_ends_at_the_next_marker(backend: Backend) -> None:
    async with teacher(backend) as model:
        written = await model.write(ASK)
    assert written.ended == "marker"
    assert written.text == greedy(WHOLE)[0].partition("\n### Step")[0]


async def test_an_answer_follows_closed_thinking(backend: Backend) -> None:
    ask = TeacherRequest(
        TALK, f"{greedy(WHOLE)[0].partition('</think>')[0].rstrip()}\n\n", "", (), 60, 0.0, 1.0, 1
    )
    ask = replace(ask, reasoning=f"### Step 1.{ask.reasoning}")
    async with teacher(backend) as model:
        written = await model.write(ask)
    assert written.ended == "eos" and "\\boxed{" in written.text
    assert written.text.strip() == greedy(ask)[0].strip()


async def test_an_answer_is_held_to_a_json_schema(backend: Backend) -> None:
    """The same answer, from the same reasoning, in a form that the model was never taught."""
    schema = {
        "type": "object",
        "properties": {
            "digit": {"type": "string", "pattern": "^[0-9]$"},
            "done": {"type": "boolean"},
        },
        "required": ["digit", "done"],
        "additionalProperties": False,
    }
    asked = {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}}
    reasoning = f"### Step 1.{greedy(WHOLE)[0].partition('</think>')[0].rstrip()}\n\n"
    async with teacher(backend) as model:
        if not model.supports_response_format:
            pytest.skip("this server's completions take no format")
        written = await model.write(TeacherRequest(TALK, reasoning, "", (), 60, 0.0, 1.0, 1, asked))
    found = json.loads(written.text)
    assert set(found) == {"digit", "done"} and found["digit"].isdigit()


async def test_a_limit_of_tokens_is_kept_and_said(backend: Backend) -> None:
    async with teacher(backend) as model:
        written = await model.write(replace(WHOLE, max_tokens=7))
    assert written.ended == "length"
    assert greedy(WHOLE)[0].startswith(written.text.rstrip("�"))


async def test_text_is_heard_as_it_is_written(backend: Backend) -> None:
    heard: list[str] = []
    async with teacher(backend) as model:
        written = await model.write(ASK, heard.append)
    assert (
        "".join(heard).rstrip()
        == written.text.rstrip()
        == greedy(WHOLE)[0].partition("\n### Step")[0].rstrip()
    )
    assert len(heard) > 3


async def test_samples_follow_their_seeds(backend: Backend) -> None:
    if not backend.kind.seeds:
        pytest.skip("this server ignores seeds and temperatures")
    async with teacher(backend) as model:
        texts = [
            (await model.write(replace(WHOLE, temperature=1.5, seed=seed))).text
            for seed in (1, 1, 2, 3, 4)
        ]
    assert texts[0] == texts[1] and len(set(texts)) > 2


async def test_tokens_are_counted_as_the_server_does(backend: Backend) -> None:
    async with teacher(backend) as model:
        written = await model.write(replace(WHOLE, max_tokens=7))
    _, prompt = greedy(WHOLE)
    if backend.kind.usage:
        assert (written.prompt_tokens, written.completion_tokens) == (prompt, 7)
    else:
        assert written.prompt_tokens > 0 and written.completion_tokens > 0


async def test_a_prompt_that_is_too_long_is_a_context_overflow(backend: Backend) -> None:
    if not backend.kind.overflows:
        pytest.skip("this server takes prompts of any length and answers garbage")
    async with teacher(backend) as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(replace(ASK, messages=(Message("user", "7 " * CONTEXT),)))
    assert caught.value.kind == "context_overflow", str(caught.value)


async def test_an_unknown_model_is_named_so(backend: Backend) -> None:
    if not backend.kind.knows_its_model:
        pytest.skip("this server takes its model's path and nothing else")
    async with teacher(backend, "nobody") as model:
        with pytest.raises(TeacherError) as caught:
            await model.write(ASK)
    assert caught.value.kind == "unknown_model"


async def test_many_calls_at_once_do_not_mix(backend: Backend) -> None:
    texts: list[str] = []
    async with teacher(backend) as model, anyio.create_task_group() as group:

        async def ask() -> None:
            texts.append((await model.write(ASK)).text)

        for _ in range(12):
            group.start_soon(ask)
    assert set(texts) == {greedy(WHOLE)[0].partition("\n### Step")[0]} and len(texts) == 12


async def test_cancelling_stops_the_server(backend: Backend) -> None:
    if backend.name != "vllm":
        pytest.skip(
            "this server does not tell what it is doing; see tests/serving/test_disconnects.py"
        )
    first = anyio.Event()
    async with teacher(backend) as model, anyio.create_task_group() as group:
        group.start_soon(
            model.write, replace(WHOLE, temperature=2.0, max_tokens=400), lambda _: first.set()
        )
        await first.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(60):
        while (await figures(backend))["vllm:num_requests_running"] > 0:
            pass
    written = (await figures(backend))["vllm:generation_tokens_total"]
    assert (await figures(backend))["vllm:generation_tokens_total"] == written


async def figures(backend: Backend) -> dict[str, float]:
    async with httpx.AsyncClient() as client:
        lines = (await client.get(f"{backend.url}/metrics")).text.splitlines()
    return {
        line.partition("{")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }


@pytest.mark.parametrize("objective", ["step", "predictive"])
def test_its_log_probabilities_score_as_a_local_judge_does(
    backend: Backend, objective: str
) -> None:
    if backend.name not in ("embedded", "vllm"):
        pytest.skip("this server gives no log-probabilities of prompts")
    first, _, rest = greedy(WHOLE)[0].partition("\n### Step")
    steps = (f"### Step 1.{first.rstrip()}\n\n", f"### Step 1.{rest[:30].rstrip()}\n\n")
    asked = ScoreRequest(
        Tree((Said("user", PROBLEM),), "", steps, ("4-280-ABC",)), objective, ("m",)
    )
    address = f"vllm+{backend.url}/v1?tokenizer={CHECKPOINT}#alder"
    with closing(ScoringEngine.load({"m": address})) as there:
        [found] = there.score([asked])
    [wanted] = ScoringEngine.load({"m": str(CHECKPOINT)}, device="cpu", dtype="float32").score(
        [asked]
    )
    assert found.error is None
    for got, right in zip(found.scores, wanted.scores, strict=True):
        assert got.nats / got.length == pytest.approx(right.nats / right.length, abs=1e-3)
