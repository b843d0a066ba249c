"""Tools: reasoned about together, called by a teacher that knows how, or straight through to one."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from proxy.sse import Decoder
from tests.api.panel import CHAT, Panel, Teacher, ask, events_of, stitched
from tests.api.test_relay import Stub, says

pytestmark = pytest.mark.anyio

WEIGH = {
    "type": "function",
    "function": {
        "name": "weigh",
        "description": "Weigh it.",
        "parameters": {"type": "object", "properties": {}},
    },
}
STRICT: Any = {"type": "function", "function": {**WEIGH["function"], "strict": True}}  # type: ignore[dict-item]
CALLS = ("I ask.\n<tool", '_call>\n{"name": "weigh", "arguments": {"what": "it"}}\n</tool_call>\n', "<tool_call>\n"
         '{"name": "weigh", "arguments": {}}\n</tool_call>')  # fmt: skip


def panel(*answer: str) -> Panel:
    return Panel(
        teachers=[Teacher("anna", supports_tools=True, answer=answer or CALLS), Teacher("ben")]
    )


async def whole(panel: Panel, **fields: Any) -> dict[str, Any]:
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(**{"tools": [WEIGH], **fields}))
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["choices"][0]
    return found


async def streamed(panel: Panel) -> list[Any]:
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(tools=[WEIGH], stream=True))
    return events_of(reply.content)


async def test_a_teacher_that_knows_how_calls_after_the_shared_reasoning() -> None:
    """Ben closes the thinking, but cannot call."""
    asked = panel()
    choice = await whole(asked)
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["content"], message["reasoning_content"].count("ben")) == ("I ask.\n", 1)
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weigh", "arguments": '{"what": "it"}'},
        {"name": "weigh", "arguments": "{}"},
    ]
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    assert all(one.tools == (WEIGH,) for one in asked.asks)
    job, _ = asked.kept[0]
    assert job.metadata["tools"] == [WEIGH]


async def test_a_stream_holds_a_call_back_until_it_is_whole() -> None:
    chunks = await streamed(panel())
    assert stitched(chunks, "content") == "I ask.\n"
    [called] = [chunk["choices"][0]["delta"]["tool_calls"] for chunk in chunks if "tool_calls" in str(chunk["choices"])
                and "tool_calls" in chunk["choices"][0]["delta"]]  # fmt: skip
    assert [(call["index"], call["function"]["name"]) for call in called] == [
        (0, "weigh"),
        (1, "weigh"),
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "tool_calls"


@pytest.mark.parametrize(
    "answer",
    [
        ("It is 3 kg.",),
        ("a < b <tool", " x"),
        ("<tool_call>\n{broken}\n</tool_call>",),
        ("<tool_call>",),
    ],
)
async def test_what_is_no_call_is_said(answer: tuple[str, ...]) -> None:
    choice = await whole(panel(*answer))
    assert (choice["message"]["content"], choice["finish_reason"]) == ("".join(answer), "stop")
    assert "tool_calls" not in choice["message"]
    assert stitched(await streamed(panel(*answer)), "content") == "".join(answer)


async def test_calls_and_results_come_back_as_text() -> None:
    asked = panel("It is 3 kg.")
    made = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weigh", "arguments": '{"what": "it"}'},
    }
    conversation = [
        {"role": "user", "content": "How heavy?"},
        {"role": "assistant", "content": None, "tool_calls": [made, {**made, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "3 kg"},
        {"role": "tool", "tool_call_id": "call_2", "content": "4 kg"},
    ]
    await whole(asked, messages=conversation)
    user, assistant, results = asked.kept[0][0].problem.messages
    called = '<tool_call>\n{"name": "weigh", "arguments": {"what": "it"}}\n</tool_call>'
    assert (user.content, assistant.content) == ("How heavy?", f"{called}\n{called}")
    assert results.role == "user"
    assert (
        results.content
        == "<tool_response>\n3 kg\n</tool_response>\n<tool_response>\n4 kg\n</tool_response>"
    )


async def test_tools_that_must_not_be_called_are_not_told() -> None:
    asked = panel()
    choice = await whole(asked, tool_choice="none")
    assert choice["message"]["content"] == "it is 42 — ben"
    assert all(one.tools == () for one in asked.asks)


@pytest.mark.parametrize(
    ("teachers", "fields", "why"),
    [
        ([Teacher("anna"), Teacher("ben")], {}, "tools"),
        (
            [Teacher("anna", supports_tools=True), Teacher("ben")],
            {"tool_choice": "required"},
            "tool_choice",
        ),
    ],
)
async def test_what_nobody_can_promise_goes_to_one_if_asked(
    teachers: list[Teacher], fields: dict[str, Any], why: str
) -> None:
    stub = Stub(says(b"{}"))
    asked = Panel(teachers, upstreams=[stub.upstream("ben")])
    async with asked.client() as client:
        reply = await client.post(CHAT, json=ask(tools=[WEIGH], cord={"relay": True}, **fields))
    assert (reply.headers["x-cord-relayed"], reply.headers["x-cord-relayed-for"]) == ("ben", why)


async def test_the_official_client_reads_calls() -> None:
    async with openai.AsyncOpenAI(
        base_url="http://cord/v1", api_key="none", http_client=panel().client(), max_retries=0
    ) as client:
        async with client.chat.completions.stream(
            model="cord", messages=[{"role": "user", "content": "How heavy?"}], tools=[STRICT]
        ) as stream:
            final = await stream.get_final_completion()
    [first, _] = final.choices[0].message.tool_calls or []
    assert json.loads(first.function.arguments) == {"what": "it"}


FLAT: Any = {"type": "function", **WEIGH["function"], "strict": False}  # type: ignore[dict-item]


async def test_a_response_calls_functions_after_the_shared_reasoning() -> None:
    async with panel().client() as client:
        body = {"model": "cord", "input": "How heavy?", "seed": 7, "tools": [FLAT]}
        whole = (await client.post("/v1/responses", json=body)).json()
        reply = await client.post("/v1/responses", json={**body, "stream": True})
    thought, message, first, second = whole["output"]
    assert (thought["type"], message["content"][0]["text"]) == ("reasoning", "I ask.\n")
    assert [(call["type"], call["name"], call["arguments"]) for call in (first, second)] == [
        ("function_call", "weigh", '{"what": "it"}'),
        ("function_call", "weigh", "{}"),
    ]
    assert len({first["call_id"], second["call_id"]}) == 2
    last = json.loads(Decoder().feed(reply.content)[-1].data)["response"]
    assert [item["type"] for item in last["output"]] == [item["type"] for item in whole["output"]]
    assert b"<tool" not in reply.content


async def test_calls_and_results_of_responses_come_back_as_text() -> None:
    asked = panel("It is 3 kg.")
    items = [
        {"role": "user", "content": "How heavy?"},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "weigh",
            "arguments": '{"what": "it"}',
        },
        {"type": "function_call", "call_id": "call_2", "name": "weigh", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3 kg"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "4 kg"}],
        },
    ]
    async with asked.client() as client:
        body = {"model": "cord", "input": items, "tools": [FLAT]}
        reply = await client.post("/v1/responses", json=body)
    assert reply.json()["output"][1]["content"][0]["text"] == "It is 3 kg."
    _, assistant, results = asked.kept[0][0].problem.messages
    assert assistant.content.count("<tool_call>") == 2
    assert (
        results.content
        == "<tool_response>\n3 kg\n</tool_response>\n<tool_response>\n4 kg\n</tool_response>"
    )


async def test_the_official_client_reads_calls_of_a_response() -> None:
    async with openai.AsyncOpenAI(
        base_url="http://cord/v1", api_key="none", http_client=panel().client(), max_retries=0
    ) as client:
        async with client.responses.stream(
            model="cord", input="How heavy?", tools=[FLAT]
        ) as stream:
            events = [event.type async for event in stream]
            final = await stream.get_final_response()
    assert events.count("response.function_call_arguments.done") == 2
    assert [item.name for item in final.output if item.type == "function_call"] == [
        "weigh",
        "weigh",
    ]
