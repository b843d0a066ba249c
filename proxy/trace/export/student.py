"""How a student reads a conversation: the texts that training rows are made of.

A trainer that renders messages with a chat template loses the reasoning with most templates, and says nothing. So rows
hold texts: a prompt, and a completion that follows it, which together are the whole conversation. The completion is
what a trainer learns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from proxy.decoder.tool_calls import ToolCall, response, with_tools
from proxy.decoder.types import Message as PlainMessage
from proxy.errors import ConfigError
from proxy.teachers.template import ChatTemplate
from proxy.trace.record import Message, message_text
from runtime.markup import THINKING, Markup, MarkupName

AS_IT_IS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""A chat template that adds nothing. A row that brings it is taken by TRL exactly as it is written."""

_SENTINEL = "\u241e0\u241e"
_SHIFT_CHARS = 32


@dataclass(frozen=True, slots=True)
class Turn:
    """A conversation and the assistant's reply to it."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]]
    reasoning: str
    answer: str


@dataclass(frozen=True, slots=True)
class Texts:
    """A prompt and what may follow it. `tokens` are those of the prompt and of each completion, where known."""

    prompt: str
    completions: tuple[str, ...]
    tokens: tuple[int, ...] | None = None


class Student(Protocol):
    """Who will be trained."""

    @property
    def name(self) -> str | None: ...

    @property
    def closer(self) -> str:
        """What the student writes between its reasoning and its answer."""
        ...

    def opened(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        """The text up to where the reasoning begins."""
        ...

    def whole(self, turn: Turn) -> Texts:
        """The prompt and the one completion: reasoning, answer and end of turn."""
        ...

    def split(self, prompt: str, completions: tuple[str, ...]) -> Texts:
        """Texts whose prompt ends where a token ends, whichever completion follows."""
        ...


def as_text(messages: Sequence[Message]) -> list[Message]:
    """A conversation whose tool calls and results are text, for whom no other way is known."""
    found: list[Message] = []
    for message in messages:
        content = message_text(message)
        if message.get("tool_calls"):
            calls = [
                ToolCall(call["function"]["name"], call["function"]["arguments"])
                for call in message["tool_calls"]
            ]
            content = "\n".join(filter(None, [content, *(call.text for call in calls)]))
        if message.get("role") == "tool":
            found.append({"role": "user", "content": response(content)})
        else:
            role = "system" if message.get("role") == "developer" else message.get("role", "user")
            found.append({"role": role, "content": content})
    return found


def told_tools(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """A plain conversation whose system message describes the tools."""
    plain = [PlainMessage(message["role"], message["content"]) for message in as_text(messages)]
    return [
        {"role": message.role, "content": message.content} for message in with_tools(plain, tools)
    ]


@dataclass(frozen=True, slots=True)
class NeutralStudent:
    """A student without a chat template, such as a base model: roles as headings, reasoning in think tags."""

    markup: Markup = THINKING
    name: str | None = None

    @property
    def closer(self) -> str:
        return self.markup.closer

    def opened(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        told = "".join(
            f"{message['role'].capitalize()}:\n{message['content']}\n\n"
            for message in told_tools(messages, tools)
        )
        return f"{told}Assistant:\n{self.markup.opener}"

    def whole(self, turn: Turn) -> Texts:
        completion = f"{turn.reasoning}{self.closer}{turn.answer}"
        return Texts(self.opened(turn.messages, turn.tools), (completion,))

    def split(self, prompt: str, completions: tuple[str, ...]) -> Texts:
        return Texts(prompt, completions)


@dataclass(slots=True)
class TemplateStudent:
    """A student with its own chat template and tokenizer.

    `ways` counts how the reasoning came into the text: `template` (the template renders it), `inline` (it keeps think
    tags in the content) or `joined` (it drops reasoning, so the turn is put together around its markup).
    """

    name: str
    markup: Markup
    template_hash: str
    tokenizer: Any
    native_tools: bool
    ways: Counter[str] = field(default_factory=Counter)

    @classmethod
    def load(cls, location: str, markup: MarkupName = "auto") -> TemplateStudent:
        """Read the template and the tokenizer of a folder or hub name.

        Raises:
            ConfigError: there is no tokenizer there, or it has no chat template.
        """
        from transformers import AutoTokenizer

        template = ChatTemplate.load(location, markup)
        try:
            tokenizer = AutoTokenizer.from_pretrained(location)
        except (OSError, ValueError) as exc:
            raise ConfigError("", f"cannot load the tokenizer of {location!r}: {exc}") from exc
        native = "tool_calls" in template.source and "tools" in template.source
        return cls(location, template.markup, template.hash, tokenizer, native)

    @property
    def closer(self) -> str:
        return self.markup.closer

    def opened(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        return self.markup.opened(self._prompt(messages, tools))

    def whole(self, turn: Turn) -> Texts:
        prompt = self._prompt(turn.messages, turn.tools)
        way, completion = self._completion(turn, prompt)
        self.ways[way] += 1
        return self.split(prompt, (completion,))

    def keeps_reasoning(self, turn: Turn) -> bool:
        """Whether the template, given messages with `reasoning_content`, renders the reasoning."""
        return self._completion(turn, self._prompt(turn.messages, turn.tools))[0] == "template"

    def split(self, prompt: str, completions: tuple[str, ...]) -> Texts:
        for shift in range(min(_SHIFT_CHARS, len(prompt))):
            cut = len(prompt) - shift
            head, tail = prompt[:cut], prompt[cut:]
            ids = self._ids(head)
            wholes = [self._ids(head + tail + completion) for completion in completions]
            if all(whole[: len(ids)] == ids for whole in wholes):
                counts = (len(ids), *(len(whole) - len(ids) for whole in wholes))
                return Texts(head, tuple(tail + completion for completion in completions), counts)
        return Texts(prompt, completions)

    def _completion(self, turn: Turn, prompt: str) -> tuple[str, str]:
        """How the reply can be rendered with its reasoning in it, and the reply."""
        inline = f"{self.markup.opener}{turn.reasoning}{self.closer}{turn.answer}"
        for way, reply in (
            ("template", {"content": turn.answer, "reasoning_content": turn.reasoning}),
            ("inline", {"content": inline}),
        ):
            text = self._render([*turn.messages, {"role": "assistant", **reply}], turn.tools)
            if text.startswith(prompt) and _holds(text[len(prompt) :], turn):
                return way, self._trimmed(text[len(prompt) :])
        ended = self._render(
            [*turn.messages, {"role": "assistant", "content": _SENTINEL}], turn.tools
        )
        end = ended.rpartition(_SENTINEL)[2]
        opener = self.markup.opened(prompt)[len(prompt) :]
        return "joined", self._trimmed(f"{opener}{turn.reasoning}{self.closer}{turn.answer}{end}")

    def _trimmed(self, completion: str) -> str:
        """Up to the end of the turn: a trainer would take white space after it for more to say."""
        eos = self.tokenizer.eos_token
        return completion.rstrip() if eos and completion.rstrip().endswith(eos) else completion

    def _prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        return self._render(messages, tools, add_generation_prompt=True)

    def _render(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], **more: Any
    ) -> str:
        if self.native_tools:
            spoken = [_with_arguments(message) for message in messages]
        else:
            *spoken, last = messages
            plain = told_tools([*spoken, last], tools)
            # What the reply has besides its content is the template's to render or to drop.
            spoken = [
                *plain[:-1],
                {
                    **plain[-1],
                    **(
                        {"reasoning_content": last["reasoning_content"]}
                        if "reasoning_content" in last
                        else {}
                    ),
                },
            ]
        text = str(
            self.tokenizer.apply_chat_template(
                spoken,
                tools=list(tools) if tools and self.native_tools else None,
                tokenize=False,
                **more,
            )
        )
        bos = self.tokenizer.bos_token
        # A tokenizer that begins every text with this token would do so twice.
        return (
            text.removeprefix(bos)
            if bos and self._ids("")[:1] == [self.tokenizer.bos_token_id]
            else text
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])


def _holds(completion: str, turn: Turn) -> bool:
    """Whether a rendered reply has both the reasoning and, after it, the answer."""
    reasoning, answer = turn.reasoning.strip(), turn.answer.strip()
    return (
        reasoning in completion
        and answer in completion[completion.index(reasoning) + len(reasoning) :]
    )


def _with_arguments(message: Message) -> Message:
    """A message whose calls have their arguments as an object, as templates want them."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError:
            pass
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}
