"""A teacher's own chat template: from a half-written turn to the exact text it continues.

Chat endpoints close, reopen or strip a half-written turn in many ways, so the turn is rendered here, with the
template the model was trained on, and sent as a raw prompt. Rendering uses transformers' own Jinja environment
(no torch), imported when the first template is loaded. Holds no wire format and talks to no backend.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from proxy.decoder.tool_calls import with_tools
from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Markup:
    """What a model writes around its thinking: `opener` reasoning `closer` answer.

    `stop` is the text that tells that thinking has ended. Where it is `special`, a server leaves it out of what it
    says unless told otherwise.
    """

    opener: str
    closer: str
    stop: str
    special: bool = False


THINKING = Markup("<think>\n", "</think>\n\n", "</think>")
PLAIN = Markup("", "### Answer\n\n", "### Answer")
"""A model without thinking markup writes its steps in the open and heads the answer."""
HARMONY = Markup(
    "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|>", special=True
)
"""gpt-oss: channels of messages."""
BRACKETS = Markup("[THINK]", "[/THINK]", "[/THINK]", special=True)
"""Magistral."""

MARKUPS: dict[str, Markup] = {"think": THINKING, "plain": PLAIN, "harmony": HARMONY, "brackets": BRACKETS}
"""By the name that `model_info.markup` uses."""
MarkupName = Literal["auto", "think", "plain", "harmony", "brackets"]


def _markup(template: str) -> Markup:
    """The markup that a chat template calls for."""
    if "<|channel|>" in template:
        return HARMONY
    return BRACKETS if "[/THINK]" in template else THINKING if "</think>" in template else PLAIN


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template with the special tokens it mentions.

    `hash` (16 hex digits) identifies it in traces.
    """

    source: str
    special_tokens: Mapping[str, str]
    markup: Markup

    @classmethod
    def load(cls, location: str, markup: MarkupName = "auto") -> ChatTemplate:
        """Read the template beside a tokenizer: a folder, or a name in the local hub cache or on the hub.

        Raises:
            ConfigError: there is no tokenizer, or it has no chat template. `path` is left to the caller.
        """
        config = json.loads(_file(location, "tokenizer_config.json") or "{}")
        source = _file(location, "chat_template.jinja") or config.get("chat_template")
        if not isinstance(source, str):
            raise ConfigError(
                "", f"no chat template found at {location!r} (chat_template.jinja or tokenizer_config.json)"
            )
        tokens = {key: _token(value) for key, value in config.items() if key.endswith("_token") and value}
        return cls(source, tokens, _markup(source) if markup == "auto" else MARKUPS[markup])

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def supports_tools(self) -> bool:
        """Whether it has words of its own for tools, and marks calls as `decoder.tool_calls` reads them."""
        return "<tool_call>" in self.source and "tools" in self.source

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The conversation up to where the assistant's turn begins.

        Raises:
            jinja2.TemplateError: the template refuses this conversation (roles out of turn, no system role, …).
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        own: Any = list(tools) if tools and self.supports_tools else None
        spoken = messages if own else with_tools(messages, tools)
        conversation = [{"role": message.role, "content": message.content} for message in spoken]
        tokens: dict[str, Any] = dict(self.special_tokens)
        rendered: Any = render_jinja_template([conversation], own, None, self.source, False, False, True, **tokens)
        texts, _ = rendered  # and where the assistant's own words stand
        return str(texts[0])

    def turn(self, ask: TeacherRequest) -> str:
        """The prompt whose continuation is what the ask wants."""
        prompt = self.render(ask.messages, ask.tools)
        opened = bool(self.markup.opener) and prompt.rstrip().endswith(self.markup.opener.strip())
        reasoning = ask.reasoning if opened else self.markup.opener + ask.reasoning
        if ask.answer is None:
            return prompt + reasoning
        return prompt + reasoning + self.markup.closer + ask.answer


def _file(location: str, name: str) -> str | None:
    folder = Path(location)
    if folder.is_dir():
        file = folder / name
        return file.read_text(encoding="utf-8") if file.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(location, name, _raise_exceptions_for_missing_entries=False)
    except OSError as exc:
        raise ConfigError("", f"cannot read {name} of {location!r}: {exc}") from exc
    return Path(found).read_text(encoding="utf-8") if found else None


def _token(value: Any) -> str:
    """A special token is written as its text, or as an object around it."""
    return str(value["content"] if isinstance(value, dict) else value)
