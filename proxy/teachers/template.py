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
from typing import Any

from anyio import to_thread

from proxy.decoder.steps import tell_heading
from proxy.decoder.tool_calls import with_tools
from proxy.decoder.types import Message, TeacherRequest
from proxy.errors import ConfigError
from runtime.gguf import NotGguf, is_gguf, read_metadata
from runtime.literal import NOTHING, Literal
from runtime.markup import PLAIN, Markup, MarkupName, markup_of

_LONG_MESSAGES = 200
_LONG_CHARS = 1 << 18
"""About a millisecond's work; handing it to a thread takes a tenth of one."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template with the special tokens it mentions.

    `literal` keeps what people and models say from being read as the template's own markup. `hash` (16 hex digits)
    identifies the template in traces.
    """

    source: str
    special_tokens: Mapping[str, str]
    markup: Markup
    literal: Literal = NOTHING

    @classmethod
    def load(cls, location: str, markup: MarkupName = "auto") -> ChatTemplate:
        """Read the template beside a tokenizer (a folder, or a name in the local hub cache or on the hub) or in GGUF.

        Raises:
            ConfigError: there is no tokenizer, or it has no chat template. `path` is left to the caller.
        """
        if is_gguf(location):
            return cls._in_gguf(Path(location), markup)
        config = json.loads(_file(location, "tokenizer_config.json") or "{}")
        source = _file(location, "chat_template.jinja") or config.get("chat_template")
        if not isinstance(source, str):
            raise ConfigError(
                "",
                f"no chat template found at {location!r} (chat_template.jinja or tokenizer_config.json)",
            )
        tokens = {
            key: _token(value) for key, value in config.items() if key.endswith("_token") and value
        }
        added = _added(location, config)
        special = {token for token, is_special in added.items() if is_special}
        literal = Literal.of(source, {*tokens.values(), *special}, added)
        return cls(source, tokens, markup_of(source, markup), literal)

    @classmethod
    def _in_gguf(cls, file: Path, markup: MarkupName) -> ChatTemplate:
        try:
            metadata = read_metadata(file)
        except NotGguf as exc:
            raise ConfigError("", str(exc)) from exc
        if metadata.chat_template is None:
            raise ConfigError("", f"{file} has no chat template")
        source, tokens = metadata.chat_template, metadata.special_tokens
        literal = Literal.of(
            source, {*tokens.values(), *metadata.control_tokens}, metadata.added_tokens
        )
        return cls(source, tokens, markup_of(source, markup), literal)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def bos(self) -> str:
        """The token that begins every sequence, as text; empty where there is none."""
        return self.special_tokens.get("bos_token", "")

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

        own: Any = self._told(tools) if tools and self.supports_tools else None
        spoken = messages if own else with_tools(messages, tools)
        conversation = [
            {"role": message.role, "content": self._said(message)} for message in spoken
        ]
        tokens: dict[str, Any] = dict(self.special_tokens)
        rendered: Any = render_jinja_template(
            [conversation], own, None, self.source, False, False, True, **tokens
        )
        texts, _ = rendered  # and where the assistant's own words stand
        return str(texts[0])

    def _said(self, message: Message) -> str:
        return self.literal.text(message.content, thinks=message.role == "assistant")

    def _told(self, tools: Sequence[Mapping[str, Any]]) -> Any:
        return json.loads(self.literal.text(json.dumps(list(tools), ensure_ascii=False)))

    async def prompt(self, ask: TeacherRequest) -> str:
        """As `turn`; a long conversation is rendered off the event loop."""
        if (
            len(ask.messages) < _LONG_MESSAGES
            and sum(len(m.content) for m in ask.messages) < _LONG_CHARS
        ):
            return self.turn(ask)
        return await to_thread.run_sync(self.turn, ask, abandon_on_cancel=True)

    def turn(self, ask: TeacherRequest) -> str:
        """The prompt whose continuation is what the ask wants."""
        messages = tell_heading(ask.messages, PLAIN.stop) if self.markup == PLAIN else ask.messages
        opened = self.markup.opened(self.render(messages, ask.tools))
        reasoning = opened + self.literal.text(ask.reasoning)
        if ask.answer is None:
            return reasoning
        return reasoning + self.markup.closer + self.literal.text(ask.answer)


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


def _added(location: str, config: Mapping[str, Any]) -> dict[str, bool]:
    """The tokens that a tokenizer looks for before anything else, and whether each is special."""
    entries = json.loads(_file(location, "tokenizer.json") or "{}").get("added_tokens", [])
    entries = [*entries, *config.get("added_tokens_decoder", {}).values()]
    return {str(entry["content"]): bool(entry.get("special")) for entry in entries}


def _token(value: Any) -> str:
    """A special token is written as its text, or as an object around it."""
    return str(value["content"] if isinstance(value, dict) else value)
