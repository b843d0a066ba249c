"""Tool calls as text: how tools are told, how calls and their results read, and how calls are found in an answer.

Reasoning is text, and so is a call while it is written: JSON between <tool_call> tags, as the chat templates of Qwen,
Hermes and their kin have it. Pure; knows no wire format and no template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.decoder.types import Message

OPENING = "<tool_call>"
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_TOLD = (
    "These functions can be called, each described by a JSON object:\n{tools}\n"
    "To call one, write a JSON object with its `name` and its `arguments` between <tool_call> and </tool_call>, "
    "after the reasoning and instead of an answer. Results come back between <tool_response> and </tool_response>."
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call; `arguments` is a JSON object as text."""

    name: str
    arguments: str

    @property
    def text(self) -> str:
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError:
            arguments = self.arguments
        body = json.dumps({"name": self.name, "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{body}\n</tool_call>"


def response(content: str) -> str:
    """A call's result as it reads in the conversation."""
    return f"<tool_response>\n{content}\n</tool_response>"


def with_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Message, ...]:
    """The conversation with the tools in its system message, for whoever has no words of its own for them."""
    if not tools:
        return tuple(messages)
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = _TOLD.format(tools=listed)
    if messages and messages[0].role == "system":
        return (replace(messages[0], content=f"{messages[0].content}\n\n{text}"), *messages[1:])
    return (Message("system", text), *messages)


def find(answer: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What an answer says, and the calls it makes. Without a call that can be read, all of it is said."""
    calls = []
    for found in _CALL.finditer(answer):
        try:
            body = json.loads(found[1])
        except ValueError:
            continue
        if isinstance(body, dict) and isinstance(body.get("name"), str):
            arguments = body.get("arguments", {})
            text = (
                arguments
                if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False)
            )
            calls.append(ToolCall(body["name"], text))
    return (answer.partition(OPENING)[0] if calls else answer), tuple(calls)
