"""What may be asked, and what becomes of it: every field is honoured, recorded or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.api.chat import ChatEndpoint
from proxy.api.job import make_job
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.strategies import STRATEGIES
from proxy.decoder.types import Message
from proxy.service import Ensemble, Job
from tests.api.panel import CHAT, OPTIONS, Panel, Teacher, ask

USER = {"role": "user", "content": "hello"}
BASE = Settings(beam_width=3)


def job_of(body: dict[str, Any], base: Settings = BASE) -> Job:
    ensemble = Ensemble("cord", (Teacher("anna"), Teacher("ben")), base)
    return make_job(ChatEndpoint().parse(body).chat, ensemble, OPTIONS, "req-1", 12.5)


def test_sampling_stops_and_budget_reach_the_search() -> None:
    body = ask(
        temperature=0, top_p=0.5, seed=-3, stop="END", max_tokens=9, max_completion_tokens=77
    )
    job = job_of(body)
    assert (
        job.settings.sampling.temperature,
        job.settings.sampling.top_p,
        job.settings.sampling.seed,
    ) == (0, 0.5, -3)
    assert (job.problem.stop, job.settings.budget.total_tokens) == (("END",), 77)
    assert job_of(ask(max_tokens=9, stop=["a", "b"])).settings.budget.total_tokens == 9
    assert (job.received, job.ensemble.name, job.settings.beam_width) == (12.5, "cord", 3)


def test_what_is_not_asked_for_stays_as_configured() -> None:
    configured = replace(BASE, budget=replace(BASE.budget, total_tokens=5))
    settings = job_of(
        ask(temperature=None, top_p=None, max_tokens=None, stop=None, cord=None), configured
    ).settings
    assert settings == replace(
        configured, score="step", sampling=replace(configured.sampling, seed=7)
    )


def test_without_a_seed_two_requests_are_two_samples() -> None:
    body = ask()
    del body["seed"]
    assert job_of(body).settings.sampling.seed != job_of(body).settings.sampling.seed


def test_every_job_has_an_id_of_its_own_beside_the_clients() -> None:
    one, two = job_of(ask()), job_of(ask())
    assert one.problem.id != two.problem.id
    assert one.metadata["request_id"] == two.metadata["request_id"] == "req-1"


def test_bookkeeping_fields_are_recorded() -> None:
    fields = {
        "metadata": {"run": "a"}, "user": "u", "store": True, "safety_identifier": "s", "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "service_tier": "auto", "verbosity": "low", "reasoning_effort": "high",
    }  # fmt: skip
    assert job_of(ask(**fields)).metadata == {**fields, "request_id": "req-1"}


def test_messages_become_texts_and_earlier_reasoning_is_dropped() -> None:
    thought: dict[str, Any] = {
        "reasoning": "r",
        "reasoning_content": "r",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
    }
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "dev"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        },
        {"role": "assistant", "content": "<think>\n### Step 1. hm\n\n</think>\n\n12", **thought},
        {"role": "user", "content": "and <think>?"},
        {"role": "assistant", "content": "", **thought},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "go on"},
    ]
    assert job_of(ask(messages=messages)).problem.messages == (
        Message("system", "Be brief.", "dev"),
        Message("user", "one\ntwo"),
        Message("assistant", "12"),
        Message("user", "and <think>?"),
        Message("assistant", ""),
        Message("assistant", ""),
        Message("user", "go on"),
    )


@pytest.mark.parametrize(
    ("reference", "references"), [("42", ("42",)), (["42", "6·7"], ("42", "6·7"))]
)
def test_a_reference_makes_the_score_look_ahead(
    reference: object, references: tuple[str, ...]
) -> None:
    job = job_of(ask(cord={"reference": reference}))
    assert (job.problem.references, job.settings.score) == (references, "predictive")


def test_a_strategy_that_ranks_by_no_score_needs_no_reference_for_one() -> None:
    job = job_of(ask(cord={"strategy": "longest"}), replace(BASE, score="predictive"))
    assert job.settings.strategy == "longest"


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    neutral = {
        "n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "presence_penalty": 0.0, "frequency_penalty": 0,
        "response_format": {"type": "text"}, "modalities": ["text"], "audio": None, "prediction": None, "tools": [],
        "tool_choice": "none", "parallel_tool_calls": True, "functions": None, "top_k": -1, "min_p": 0.0,
        "repetition_penalty": 1.0, "stream": False, "stream_options": None, "metadata": None,
    }  # fmt: skip
    quiet, plain = job_of(ask(**neutral)), job_of(ask())
    assert (quiet.settings, quiet.problem.messages, quiet.metadata) == (
        plain.settings,
        plain.problem.messages,
        plain.metadata,
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 5}, "top_logprobs"),
    ({"tools": [{"type": "function", "function": {"name": "weigh"}}]}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
    ({"logit_bias": {"1": 5}}, "logit_bias"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"prediction": {"type": "content"}}, "prediction"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -2}, "frequency_penalty"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"top_k": 40}, "top_k"),
    ({"nonsense": None}, "nonsense"),
    ({"model": ""}, "model"),
    ({"model": None}, "model"),
    ({"model": 5}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": ["hello"]}, "messages[0]"),
    ({"messages": [USER, {"role": "user", "content": ""}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
        "messages[0].content",
    ),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{**USER, "tool_call_id": "x"}]}, "messages[0].tool_call_id"),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].function",
    ),
    (
        {"messages": [{**USER, "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}]},
        "messages[0].tool_calls",
    ),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"seed": 1.5}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": list("abcde")}, "stop"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 2**70}, "max_completion_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream_options": {"x": 1}}, "stream_options.x"),
    ({"metadata": {"k": 5}}, "metadata.k"),
    ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
    ({"user": 5}, "user"),
    ({"cord": []}, "cord"),
    ({"cord": {"beams": 4}}, "cord.beams"),
    ({"cord": {"beam_width": 0}}, "cord.beam_width"),
    ({"cord": {"strategy": "mcts"}}, "cord.strategy"),
    ({"cord": {"answerer": "carl"}}, "cord.answerer"),
    ({"cord": {"beam_width": 4, "strategy": "greedy"}}, "cord.beam_width"),
    ({"model": "anna", "cord": {"beam_width": 4}}, "cord.beam_width"),
    ({"model": "anna", "cord": {"score": "step"}}, "cord.score"),
    ({"model": "anna", "cord": {"adaptive": True}}, "cord.adaptive"),
    ({"n": 2, "cord": {"relay": True}}, "n"),
    ({"cord": {"plateau": 2}}, "cord.plateau"),
    ({"cord": {"agreement": 0.9}}, "cord.agreement"),
    ({"cord": {"siblings": 2, "max_children_per_parent": 2}}, "cord.siblings"),
    ({"cord": {"score": "nonsense"}}, "cord.score"),
    ({"cord": {"score": "predictive"}}, "cord.score"),
    ({"cord": {"score": "predictive", "strategy": "longest"}}, "cord.score"),
    ({"cord": {"reference": []}}, "cord.reference"),
    ({"cord": {"reference": ""}}, "cord.reference[0]"),
    ({"cord": {"reference": 42}}, "cord.reference"),
    ({"cord": {"inline_reasoning": "no"}}, "cord.inline_reasoning"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_done_is_refused_by_name_and_starts_no_teacher(stream: bool) -> None:
    panel = Panel()
    async with panel.client() as client:
        for fields, param in REFUSED:
            reply = await client.post(CHAT, json=ask(**{"stream": stream, **fields}))
            error = reply.json()["error"]
            assert (reply.status_code, error["param"]) == (400, param), (fields, error)
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], bool(error["message"]), bool(error["code"])) == (
                "invalid_request_error",
                True,
                True,
            )
    assert (panel.asks, panel.kept) == ([], [])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"model": "cord", "temperature": NaN}',
        b"[" * 100_000, b'{"a":' * 5000, b"1" * 10_000, b'{"model": "\\ud800"}', b'{"seed": 1e999}', b"\x00",
        b'{"model": "cord", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "cord", "messages": ' + b"[" * 150 + b"]" * 150 + b"}",
    ],
)  # fmt: skip
async def test_a_body_that_makes_no_sense_is_a_clean_400(body: bytes) -> None:
    panel = Panel()
    async with panel.client() as client:
        reply = await client.post(
            CHAT, content=body, headers={"content-type": "application/json; charset=utf-8"}
        )
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert panel.asks == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""]
)
async def test_a_body_that_is_not_said_to_be_json_is_refused(media_type: str) -> None:
    panel = Panel()
    async with panel.client() as client:
        reply = await client.post(
            CHAT, content=json.dumps(ask()).encode(), headers={"content-type": media_type}
        )
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_content_type")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "system", "assistant", "developer"]),
        "content": st.text(min_size=1, max_size=5),
    },
    optional={"name": st.text(min_size=1, max_size=5), "reasoning": JSON},
)
SHARE = st.floats(0, 1)
PLAUSIBLE = {
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans()}),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1, exclude_min=True),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop": st.text(min_size=1, max_size=3) | st.lists(st.text(min_size=1, max_size=3), max_size=4),
    "max_tokens": st.integers(1, 2**63),
    "max_completion_tokens": st.integers(1, 20),
    "metadata": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    "user": st.text(max_size=5),
    "n": st.just(1),
    "tools": st.just([]),
}
OPTIONS_PLAUSIBLE = {
    "reference": st.text(min_size=1, max_size=5)
    | st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3),
    "strategy": st.sampled_from(sorted(STRATEGIES)),
    "score": st.sampled_from(["auto", "step", "contrastive", "predictive"]),
    "beam_width": st.integers(1, 64),
    "samples": st.integers(1, 4),
    "diversity": SHARE,
    "length_penalty": st.floats(0, 4),
    "commit_lag": st.none() | st.integers(0, 4),
    "quorum": SHARE,
    "patience_s": SHARE,
    "prefill_partial_steps": st.booleans(),
    "answerer": st.sampled_from(["anna", "ben", None]),
    "max_steps": st.integers(1, 3),
    "step_tokens": st.integers(1, 9),
    "reasoning_tokens": st.integers(1, 9),
    "answer_tokens": st.integers(1, 9),
    "deadline_s": st.floats(0.1, 60),
    "inline_reasoning": st.booleans(),
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A request that makes sense, with up to one field and up to one option replaced by junk, or put in."""
    body: dict[str, Any] = {
        "model": "cord",
        "messages": draw(st.lists(MESSAGE, min_size=1, max_size=3)),
    }
    body |= draw(st.fixed_dictionaries({}, optional=PLAUSIBLE))
    options = draw(st.fixed_dictionaries({}, optional=OPTIONS_PLAUSIBLE))
    junk = st.dictionaries(
        st.sampled_from(sorted(OPTIONS_PLAUSIBLE)) | st.text(max_size=5), JSON, max_size=1
    )
    body["cord"] = options | draw(st.just({}) | junk)
    names = st.sampled_from(
        ["model", "messages", "cord", "response_format", "logprobs", *PLAUSIBLE]
    )
    return body | draw(st.just({}) | st.dictionaries(names | st.text(max_size=5), JSON, max_size=1))


@pytest.mark.anyio
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(body=bodies() | JSON)
async def test_no_request_makes_the_server_fail(body: object) -> None:
    panel = Panel()
    async with panel.client() as client:
        content = json.dumps(body).encode()
        reply = await client.post(
            CHAT, content=content, headers={"content-type": "application/json"}
        )
    assert reply.status_code in (200, 400, 404, 504), reply.text
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"] and error["type"]
        assert reply.status_code == 504 or panel.asks == []


def test_the_instruction_to_write_steps_is_not_the_apis_to_add() -> None:
    assert Segmentation().instruction not in job_of(ask()).problem.messages[-1].content


@pytest.mark.parametrize(
    ("cord", "unset", "width", "children"),
    [
        ({"reference": "42"}, {"beam_width", "max_children_per_parent"}, 4, 1),
        ({}, {"beam_width", "max_children_per_parent"}, 1, None),
        (
            {"reference": "42", "max_children_per_parent": None, "beam_width": 3},
            {"beam_width", "max_children_per_parent"},
            3,
            None,
        ),
        ({"reference": "42"}, set(), 2, None),
    ],
    ids=["a reference", "none", "as the request says", "as the ensemble is configured"],
)
def test_what_nobody_sets_is_what_fits_the_score(
    cord: dict[str, Any], unset: set[str], width: int, children: int | None
) -> None:
    settings = Settings(score="auto", beam_width=2)
    ensemble = Ensemble("cord", (Teacher("anna"),), settings, frozenset(unset))
    job = make_job(ChatEndpoint().parse(ask(cord=cord)).chat, ensemble, OPTIONS, "req-1", 12.5)
    assert (job.settings.beam_width, job.settings.max_children_per_parent) == (width, children)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_an_old_name_is_told_in_a_header_and_the_log(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    panel = Panel()
    async with panel.client() as client:
        reply = await client.post(CHAT, json=ask(cord={"siblings": 3}, stream=stream))
        plain = await client.post(CHAT, json=ask(cord={"max_children_per_parent": 3}))
    assert reply.status_code == 200 and panel.kept[0][0].settings.max_children_per_parent == 3
    assert "max_children_per_parent" in reply.headers["x-cord-warning"]
    assert "x-cord-warning" not in plain.headers
    [line] = caplog.messages
    assert "siblings" in line and reply.headers["x-request-id"] in line


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["plateau", "agreement"])
async def test_a_removed_option_says_why_it_was_removed(name: str) -> None:
    async with Panel().client() as client:
        refused = await client.post(CHAT, json=ask(cord={name: 1}))
        ignored = await client.post(CHAT, json=ask(cord={name: None}))
    assert "was removed" in refused.json()["error"]["message"]
    assert "docs/quality.md" in refused.json()["error"]["message"]
    assert ignored.status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize("text", [r"\ud800", r"\udfff x", r"a\ud83d"])
async def test_half_a_surrogate_pair_is_the_clients_fault(text: str) -> None:
    """It has no UTF-8, so no teacher and no trace could hold it."""
    headers = {"content-type": "application/json"}
    body = json.dumps(ask()).replace("What is 6", text)
    key = json.dumps(ask(metadata={"k": "v"})).replace('"k"', f'"{text}"')
    for content in (body, key):
        async with Panel().client() as client:
            reply = await client.post(CHAT, content=content.encode(), headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.anyio
async def test_a_large_body_is_read_while_others_are_answered() -> None:
    """100,000 messages: the event loop takes turns with the thread that reads them."""
    panel = Panel(teachers=[Teacher("anna")])
    messages = [{"role": "user", "content": "x"}] * 50_000 + [
        {"role": "assistant", "content": "y"}
    ] * 50_000
    turns, done = 0, False

    async def ask_for_much() -> None:
        nonlocal done
        async with panel.client() as client:
            reply = await client.post(CHAT, json=ask(messages=messages, cord={"beam_width": 0}))
        assert reply.status_code == 400
        done = True

    async with anyio.create_task_group() as group:
        group.start_soon(ask_for_much)
        while not done:
            await anyio.lowlevel.checkpoint()
            turns += 1
    assert turns > 100
