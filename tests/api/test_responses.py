"""`/v1/responses` and `/v1/completions` where they are decoded: the same search in other words."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from proxy.api.relay import Upstream
from proxy.sse import Decoder
from tests.api.panel import Panel, Teacher, ask, events_of, fails_with
from tests.api.test_relay import PATHS, Stub, says

pytestmark = pytest.mark.anyio

RESPONSES, COMPLETIONS = "/v1/responses", "/v1/completions"
REASONING = "### Step 1. anna thinks 1\n\n### Step 2. ben thinks 2\n\n"
ANSWER = "it is 42 — ben"
QUESTION: dict[str, Any] = {"model": "cord", "input": "What is 6 × 7?", "seed": 7}
STEP = [
    "reasoning_text.delta", "reasoning_summary_part.added", "reasoning_summary_text.delta",
    "reasoning_summary_text.done", "reasoning_summary_part.done",
]  # fmt: skip
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}


async def post(panel: Panel, path: str, **body: Any) -> dict[str, Any]:
    async with panel.client() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def refusal(panel: Panel, path: str, **body: Any) -> dict[str, Any]:
    async with panel.client() as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 400, reply.text
    error: dict[str, Any] = reply.json()["error"]
    return error


def official(panel: Panel) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://cord/v1", api_key="none", http_client=panel.client(), max_retries=0
    )


async def test_a_response_has_the_reasoning_and_the_answer_as_items() -> None:
    found = await post(
        Panel(), RESPONSES, **QUESTION, instructions="Be brief.", metadata={"a": "b"}
    )
    thought, message = found["output"]
    assert (thought["type"], thought["content"]) == (
        "reasoning",
        [{"type": "reasoning_text", "text": REASONING}],
    )
    assert [part["text"] for part in thought["summary"]] == REASONING.strip().split("\n\n")
    assert (message["role"], message["status"]) == ("assistant", "completed")
    assert message["content"] == [
        {"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}
    ]
    assert (found["object"], found["status"], found["model"]) == ("response", "completed", "cord")
    assert (found["instructions"], found["metadata"]) == ("Be brief.", {"a": "b"})
    assert found["usage"] == {
        "input_tokens": 11, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 14,
        "output_tokens_details": {"reasoning_tokens": 8}, "total_tokens": 25,
    }  # fmt: skip
    assert found["cord"]["steps"][1]["teacher"] == "ben"


async def test_instructions_and_items_become_the_conversation() -> None:
    panel = Panel()
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "One?"}, {"type": "input_text", "text": "Two?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hidden"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "Both.", "annotations": [], "logprobs": []}]},
        {"role": "developer", "content": "Hurry."},
        {"role": "user", "content": "Three?"},
    ]  # fmt: skip
    await post(panel, RESPONSES, model="cord", input=items, instructions="Be brief.")
    told = [
        (message.role, message.content.partition("\n\n")[0]) for message in panel.asks[0].messages
    ]
    assert told == [
        ("system", "Be brief."), ("user", "One?\nTwo?"), ("assistant", "Both."), ("system", "Hurry."),
        ("user", "Three?"),
    ]  # fmt: skip


async def test_the_budget_and_the_sampling_are_honoured() -> None:
    panel = Panel()
    await post(panel, RESPONSES, **QUESTION, max_output_tokens=9, temperature=0.3, top_p=0.5)
    assert (panel.asks[0].max_tokens, panel.asks[0].temperature, panel.asks[0].top_p) == (
        9,
        0.3,
        0.5,
    )


async def test_events_of_a_stream_are_numbered_and_say_what_the_whole_reply_says() -> None:
    whole = await post(Panel(), RESPONSES, **QUESTION)
    async with Panel().client() as client:
        reply = await client.post(RESPONSES, json={**QUESTION, "stream": True})
    events = Decoder().feed(reply.content)
    bodies = [json.loads(event.data) for event in events]
    assert [event.event for event in events] == [body["type"] for body in bodies]
    assert [body["sequence_number"] for body in bodies] == list(range(len(bodies)))
    assert [body["type"].removeprefix("response.") for body in bodies] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        *STEP, *STEP, "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = bodies[-1]["response"]
    for text in (whole, last):
        for key in ("id", "created_at", "cord"):
            text.pop(key)
        for item in text["output"]:
            item.pop("id")
    assert last == whole


async def test_the_official_client_streams_a_response() -> None:
    deltas: dict[str, str] = {}
    async with (
        official(Panel()) as client,
        client.responses.stream(model="cord", input="What is 6 × 7?") as stream,
    ):
        async for event in stream:
            if event.type in ("response.output_text.delta", "response.reasoning_text.delta"):
                deltas[event.type] = deltas.get(event.type, "") + event.delta
        final = await stream.get_final_response()
    assert final.output_text == deltas["response.output_text.delta"] == ANSWER
    assert deltas["response.reasoning_text.delta"] == REASONING
    assert final.usage is not None and final.usage.output_tokens_details.reasoning_tokens == 8


async def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    async with official(Panel()) as client:
        found = await client.responses.create(model="cord", input="hm", max_output_tokens=8)
    assert found.status == "incomplete" and found.output_text == ""
    assert (
        found.incomplete_details is not None
        and found.incomplete_details.reason == "max_output_tokens"
    )


async def test_a_failure_in_the_middle_of_a_response_is_an_event() -> None:
    panel = Panel(
        teachers=[Teacher("anna", gate=fails_with("broken", lambda ask: ask.answer is not None))]
    )
    async with panel.client() as client:
        reply = await client.post(RESPONSES, json={**QUESTION, "stream": True})
    *_, before, last = Decoder().feed(reply.content)
    body = json.loads(last.data)
    assert (last.event, body["type"], body["code"]) == ("error", "error", "no_answer")
    assert body["sequence_number"] == json.loads(before.data)["sequence_number"] + 1


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("input", [], "input"),
        ("input", "  ", None),
        ("input", [{"type": "computer_call", "call_id": "c"}], "input"),
        (
            "input",
            [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
            "input",
        ),
        ("input", [{"role": "robot", "content": "hi"}], "input[0].role"),
        ("previous_response_id", "resp_1", "previous_response_id"),
        ("background", True, "background"),
        ("tools", [{"type": "web_search"}], "tools"),
        ("text", {"format": SCHEMA}, "text.format"),
        ("text", {"format": {"type": "json_schema"}}, "text.format"),
        ("temperature", 3, "temperature"),
        ("fancy", 1, "fancy"),
    ],
)
async def test_what_a_response_cannot_honour_is_named(
    field: str, value: Any, param: str | None
) -> None:
    panel = Panel()
    error = await refusal(panel, RESPONSES, **{**QUESTION, field: value})
    assert (error["param"] or None) == param or (
        param is None and "nothing is asked" in error["message"]
    )
    assert panel.asks == []


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("tools", [{"type": "function", "name": "weigh"}], "tools"),
        ("previous_response_id", "resp_1", "previous_response_id"),
        ("text", {"format": SCHEMA}, "text"),
        ("input", [{"type": "computer_call", "call_id": "c"}], "input"),
    ],
)
async def test_what_several_cannot_honour_goes_to_one_teachers_responses(
    field: str, value: Any, why: str
) -> None:
    stub = Stub(says(b"{}", content_type="application/json"))
    panel = Panel(upstreams=[stub.upstream("ben", PATHS)])
    async with panel.client() as client:
        reply = await client.post(
            RESPONSES, json={**QUESTION, field: value, "cord": {"relay": True}}
        )
    assert (reply.headers["x-cord-relayed"], reply.headers["x-cord-relayed-for"]) == ("ben", why)
    [(path, _, sent)] = stub.came
    assert path == "responses" and json.loads(sent)[field] == value and panel.asks == []


async def test_a_schema_is_held_to_by_a_teacher_that_can() -> None:
    panel = Panel(teachers=[Teacher("anna"), Teacher("ben", supports_response_format=True)])
    await post(panel, RESPONSES, **QUESTION, text={"format": SCHEMA, "verbosity": "low"})
    answer = next(one for one in panel.asks if one.answer is not None)
    assert answer.format == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}},
    }
    assert panel.kept[0][0].metadata["verbosity"] == "low"


async def test_a_completion_is_the_answer_to_its_prompt() -> None:
    panel = Panel()
    found = await post(
        panel, COMPLETIONS, model="cord", prompt="What is 6 × 7?", seed=7, max_tokens=200
    )
    [choice] = found["choices"]
    assert choice == {"index": 0, "text": ANSWER, "logprobs": None, "finish_reason": "stop"}
    assert (found["object"], found["usage"]["total_tokens"]) == ("text_completion", 25)
    assert found["id"].startswith("cmpl-") and found["cord"]["source"] == "none"
    assert panel.asks[0].messages[0].content.startswith("What is 6 × 7?")


@pytest.mark.parametrize("inline", [False, True])
async def test_a_streamed_completion_says_what_the_whole_one_says(inline: bool) -> None:
    body = {
        "model": "cord",
        "prompt": "What is 6 × 7?",
        "seed": 7,
        "cord": {"inline_reasoning": inline},
    }
    whole = await post(Panel(), COMPLETIONS, **body)
    async with Panel().client() as client:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        reply = await client.post(COMPLETIONS, json={**body, **options})
    chunks = events_of(reply.content)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])
    assert (
        text
        == whole["choices"][0]["text"]
        == (f"<think>\n{REASONING}</think>\n\n{ANSWER}" if inline else ANSWER)
    )
    assert (
        chunks[-1]["usage"] == whole["usage"]
        and chunks[-2]["choices"][0]["finish_reason"] == "stop"
    )


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("prompt", ["a", "b"], "prompt"),
        ("suffix", "x", "suffix"),
        ("logprobs", 1, "logprobs"),
        ("echo", True, "echo"),
    ],
)
async def test_what_a_completion_cannot_honour_is_named_or_goes_to_one(
    field: str, value: Any, param: str
) -> None:
    body = {"model": "cord", "prompt": "hm", field: value}
    assert (await refusal(Panel(), COMPLETIONS, **body))["param"] == param
    stub = Stub(says(b"{}", content_type="application/json"))
    upstream: Upstream = stub.upstream("anna", frozenset({"completions"}))
    async with Panel(upstreams=[upstream]).client() as client:
        reply = await client.post(COMPLETIONS, json={**body, "cord": {"relay": True}})
    assert reply.headers["x-cord-relayed-for"] == param


async def test_the_official_client_completes_a_prompt() -> None:
    async with official(Panel()) as client:
        found = await client.completions.create(model="cord", prompt="What is 6 × 7?", seed=7)
    assert found.choices[0].text == ANSWER
    assert ask()["model"] == found.model
