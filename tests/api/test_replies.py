"""The shape of what comes back, streamed and whole, and the small pages beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import pytest

from proxy.api.health import ComponentState
from proxy.decoder.events import Finished, Started
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask, events_of, stitched

pytestmark = pytest.mark.anyio

REASONING = "### Step 1. anna thinks 1\n\n### Step 2. ben thinks 2\n\n"
ANSWER = "it is 42 — ben"


async def whole(panel: Panel, **fields: Any) -> Any:
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(**fields))
    assert reply.status_code == 200, reply.text
    return reply.json()


async def stream(panel: Panel, **fields: Any) -> list[Any]:
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(stream=True, **fields))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    return events_of(reply.content)


async def test_a_whole_reply_has_every_field_clients_read() -> None:
    panel = Panel()
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(), headers={"x-request-id": "mine-1"})
    body = reply.json()
    job, _ = panel.kept[0]
    assert (body["id"], body["object"], body["model"]) == (
        job.problem.id,
        "chat.completion",
        "cord",
    )
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {
                "role": "assistant",
                "content": ANSWER,
                "refusal": None,
                "annotations": [],
                "reasoning_content": REASONING,
                "reasoning": REASONING,
            },
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 14,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 8},
    }
    assert {name: reply.headers[name] for name in reply.headers if name.startswith("x-")} == {
        "x-request-id": "mine-1",
        "x-cord-search-id": body["id"],
        "x-cord-model": "cord",
        "x-cord-strategy": "beam",
        "x-cord-value": f"{math.exp(-0.5):.6g}",
        "x-cord-teachers": "anna,ben",
        "x-cord-source": "none",
    }


async def test_the_cord_object_tells_how_the_reply_came_about() -> None:
    cord = (await whole(Panel(), cord={"reference": "42"}))["cord"]
    assert cord.pop("request_id").startswith("req-")
    assert cord.pop("cost") == {
        "candidates": 6, "failures": 0, "skipped": 0, "generated_tokens": 30, "cancelled": 0, "cancelled_tokens": 0,
        "prompt_tokens": 85, "score_calls": 6, "scored_tokens": 54,
    }  # fmt: skip
    assert cord == {
        "strategy": "beam",
        "score": "predictive",
        "source": "reference",
        "value": pytest.approx(math.exp(-2 / 4)),
        "seed": 7,
        "steps": [
            {"teacher": "anna", "tokens": 4, "value": pytest.approx(math.exp(-4 / 4))},
            {"teacher": "ben", "tokens": 4, "value": pytest.approx(math.exp(-2 / 4))},
        ],
        "answerer": "ben",
        "stopped": "closed",
    }


@pytest.mark.parametrize("inline", [False, True])
async def test_the_stitched_stream_is_the_whole_reply(inline: bool) -> None:
    fields = {"cord": {"inline_reasoning": inline}, "stream_options": {"include_usage": True}}
    chunks, body = await stream(Panel(), **fields), await whole(Panel(), **fields)
    message = body["choices"][0]["message"]
    assert stitched(chunks, "content") == message["content"]
    assert (
        stitched(chunks, "reasoning")
        == stitched(chunks, "reasoning_content")
        == message.get("reasoning", "")
    )
    assert chunks[-1]["usage"] == body["usage"]
    summary = chunks[-2]["cord"]
    assert {**summary, "request_id": ""} == {**body["cord"], "request_id": ""}


async def test_inlined_reasoning_stands_in_think_tags() -> None:
    panel = Panel(options=replace(OPTIONS, inline_reasoning=True))
    message = (await whole(panel))["choices"][0]["message"]
    assert message["content"] == f"<think>\n{REASONING}</think>\n\n{ANSWER}"
    assert "reasoning" not in message
    bare = (await whole(panel, cord={"inline_reasoning": False}))["choices"][0]["message"]
    assert (bare["content"], bare["reasoning"]) == (ANSWER, REASONING)


async def test_chunks_come_in_the_order_clients_expect() -> None:
    chunks = await stream(Panel(), stream_options={"include_usage": True})
    first, step, *_, last, usage = chunks
    assert {(c["id"], c["created"], c["model"], c["object"]) for c in chunks} == {
        (first["id"], first["created"], "cord", "chat.completion.chunk")
    }
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "finish_reason": None,
            "logprobs": None,
        }
    ]
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:-1])
    assert step["cord"] == {
        "step": 1, "teacher": "anna", "tokens": 4, "value": pytest.approx(math.exp(-1)), "source": "none",
    }  # fmt: skip
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []


async def test_usage_is_streamed_only_when_asked_for() -> None:
    chunks = await stream(Panel())
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_where_nothing_was_scored_no_value_is_claimed() -> None:
    panel = Panel()
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(model="anna"))
    cord = reply.json()["cord"]
    assert (cord["strategy"], cord["score"], cord["value"], cord["source"]) == (
        "single",
        None,
        None,
        "none",
    )
    assert [step["value"] for step in cord["steps"]] == [None, None]
    assert "x-cord-value" not in reply.headers
    chunks = await stream(panel, model="anna")
    assert [chunk["cord"]["value"] for chunk in chunks if "step" in chunk.get("cord", {})] == [
        None,
        None,
    ]


async def test_a_reply_cut_off_by_its_budget_says_length_and_can_be_sent_back() -> None:
    panel = Panel()
    body = await whole(panel, max_completion_tokens=4, cord={"inline_reasoning": False})
    message = body["choices"][0]["message"]
    assert (body["choices"][0]["finish_reason"], message["content"]) == ("length", "")
    turn = [{"role": "user", "content": "hi"}, message, {"role": "user", "content": "go on"}]
    assert (await whole(panel, messages=turn))["choices"][0]["finish_reason"] == "stop"
    chunks = await stream(panel, max_completion_tokens=4, cord={"inline_reasoning": True})
    assert stitched(chunks, "content") == "<think>\n### Step 1. ben thinks 1\n\n</think>\n\n"


async def test_the_reference_reaches_no_teacher() -> None:
    panel = Panel()
    await whole(panel, cord={"reference": "the-secret"})
    assert panel.asks
    assert not any("the-secret" in repr(ask) for ask in panel.asks)


async def test_every_answered_request_is_kept_once() -> None:
    panel = Panel()
    await stream(panel, user="u-1")
    [(job, events)] = panel.kept
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert job.metadata["user"] == "u-1"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "ü", "a\tb"])
async def test_a_request_id_that_is_not_sane_is_replaced(sent: str) -> None:
    async with Panel().client() as client:
        reply = await client.post(CHAT, json=ask(), headers={b"x-request-id": sent.encode()})
    assert reply.headers["x-request-id"].startswith("req-")
    assert reply.json()["cord"]["request_id"] == reply.headers["x-request-id"]


async def test_names_that_no_header_can_hold_do_not_break_the_reply() -> None:
    panel = Panel(teachers=[Teacher("änna\n"), Teacher("ben")])
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(model="änna\n"))
    assert reply.status_code == 200
    assert (reply.headers["x-cord-teachers"], reply.headers["x-cord-model"]) == ("?nna?", "?nna?")
    assert reply.json()["model"] == "änna\n"


async def test_half_a_surrogate_pair_in_what_a_model_wrote_does_not_break_the_reply() -> None:
    panel = Panel(teachers=[Teacher("anna", aside=" \ud83d!")])
    message = (await whole(panel))["choices"][0]["message"]
    assert (
        message["reasoning"] == "### Step 1. anna thinks 1 ?!\n\n### Step 2. anna thinks 2 ?!\n\n"
    )
    assert stitched(await stream(panel), "reasoning") == message["reasoning"]


async def test_models_are_listed_and_found() -> None:
    async with Panel().client() as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/cord")).json()
        missing = await client.get("/v1/models/org/none")
    assert (listed["object"], [model["id"] for model in listed["data"]]) == (
        "list",
        ["cord", "anna", "ben"],
    )
    assert one == listed["data"][0] == {
        "id": "cord",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "cord",
        "cord": {"teachers": ["anna", "ben"], "strategy": "beam", "score": "auto", "settings": ANY},
    }  # fmt: skip
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_server_is_ready_while_all_that_is_required_is_ok() -> None:
    up, down = (
        ComponentState("anna", True),
        ComponentState("ben", False, True, "connection refused", "unreachable"),
    )
    async with Panel(
        components={"anna": up, "ben": replace(down, required=False)}
    ).client() as client:
        assert (await client.get("/ready")).status_code == 200
    async with Panel(components={"anna": up, "ben": down}).client() as client:
        reply = await client.get("/ready")
        assert (await client.get("/health")).json() == {"status": "ok"}
    assert (reply.status_code, reply.json()["status"]) == (503, "not_ready")
    assert reply.json()["components"]["ben"] == {
        "name": "ben", "ok": False, "status": "unreachable", "required": True, "detail": "connection refused",
    }  # fmt: skip


async def test_the_metrics_page_is_passed_on_as_it_is() -> None:
    async with Panel().client() as client:
        reply = await client.get("/metrics")
    assert (reply.content, reply.headers["content-type"]) == (
        b"cord_up 1\n",
        "text/plain; version=1.0.0",
    )
