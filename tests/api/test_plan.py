"""Who answers a request: the panel, one teacher, or nobody."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.api.chat import ChatEndpoint
from proxy.api.plan import Decode, Models, Plan, Refuse, Relay, Wanted, plan
from proxy.decoder.settings import Settings
from proxy.errors import UnknownModel
from proxy.service import Ensemble
from tests.api.panel import Teacher, ask

PANEL = (Teacher("anna"), Teacher("ben"))
ENSEMBLES = {
    "cord": Ensemble("cord", PANEL, Settings()),
    "with": Ensemble(
        "with", (Teacher("anna", supports_tools=True, supports_response_format=True),), Settings()
    ),
    "told": Ensemble("told", PANEL, Settings(answerer="ben")),
    "anna": Ensemble("anna", (PANEL[0],), Settings(strategy="single")),
}
SERVERS = {
    "anna": frozenset({"chat/completions"}),
    "ben": frozenset({"chat/completions"}),
    "words": frozenset({"x"}),
}
TOOLS = [{"type": "function", "function": {"name": "weigh"}}]
FORMAT = {"type": "json_object"}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
RELAY = {"relay": True}


def planned(
    *, operator: bool = False, servers: dict[str, frozenset[str]] = SERVERS, **fields: Any
) -> Plan:
    endpoint = ChatEndpoint()
    body = ask(**fields)
    wanted = Wanted.of(endpoint.path, body, endpoint.wishes(body), operator)
    return plan(wanted, Models(ENSEMBLES, servers))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "cord"),
        ({"n": 1, "logprobs": False, "tools": [], "response_format": {"type": "text"}}, "cord"),
        ({"cord": RELAY}, "cord"),
        ({"model": "with", "tools": TOOLS, "response_format": FORMAT}, "with"),
        ({"tools": TOOLS, "tool_choice": "none"}, "cord"),
        ({"model": "anna", "cord": {"max_steps": 2}}, "anna"),
    ],
)
def test_a_panel_decodes_what_it_can(fields: dict[str, Any], name: str) -> None:
    assert planned(**fields) == Decode(ENSEMBLES[name])


@pytest.mark.parametrize(
    ("fields", "teacher", "why"),
    [
        ({"model": "anna"}, "anna", None),
        ({"model": "anna", "n": 2, "anything": {}}, "anna", None),
        ({"model": "anna", "cord": RELAY}, "anna", None),
        ({"n": 2, "cord": RELAY}, "anna", "n"),
        ({"model": "told", "n": 2, "cord": RELAY}, "ben", "n"),
        ({"messages": IMAGE, "cord": RELAY}, "anna", "messages"),
        ({"n": 2, "operator": True}, "anna", "n"),
    ],
)
def test_one_teacher_gets_what_is_for_one(
    fields: dict[str, Any], teacher: str, why: str | None
) -> None:
    assert planned(**fields) == Relay(teacher, why)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": TOOLS}, "tools"),
        ({"model": "with", "tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"response_format": FORMAT}, "response_format"),
        ({"messages": IMAGE}, "messages[0].content"),
        ({"n": 2, "cord": {"relay": True, "beam_width": 2}}, "n"),
        ({"n": 2, "cord": {"relay": False}, "operator": True}, "n"),
        ({"n": 2, "cord": {"relay": "yes"}}, "n"),
        ({"n": 2, "cord": RELAY, "servers": {}}, "n"),
    ],
)
def test_a_panel_never_becomes_one_teacher_unasked(fields: dict[str, Any], param: str) -> None:
    refused = planned(**fields)
    assert isinstance(refused, Refuse) and refused.error.param == param


def test_an_unknown_model_is_refused() -> None:
    refused = planned(model="nobody")
    assert isinstance(refused, Refuse) and isinstance(refused.error, UnknownModel)


def test_a_refusal_says_who_could_take_it() -> None:
    refused = planned(n=2)
    assert isinstance(refused, Refuse)
    assert all(part in str(refused.error) for part in ("'n'", "anna, ben", "cord.relay"))
