"""Text that must stay text: what a tokenizer or a template takes for markup is broken up before a raw prompt is made.

A raw prompt is one string in which a chat template's own markup and everybody's words stand side by side. Special
tokens in a client's words would become turns there. An invisible character (U+2060, WORD JOINER) behind their first
one keeps every tokenizer from seeing them, while a model still reads what was meant. The way back takes it out.
Pure, and free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

JOINER = "\u2060"

_MARKS = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|<\uff5c[^\uff5c<>]{1,64}\uff5c>|<(?:start|end)_of_turn>|<</?SYS>>|</?s>|</?think>|\[/?[A-Z][A-Z_]{2,32}\]"
)
"""What markup looks like in chat templates, also where it is no token of its own (Zephyr, Llama 2, Mistral)."""
_THINKING = frozenset({"<think>", "</think>", "[THINK]", "[/THINK]"})
_TOOLS = frozenset(
    {"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"}
)
"""Markup that conversations bring on purpose: calls and results are text here (`decoder.tool_calls`)."""


@dataclass(frozen=True, slots=True)
class Literal:
    """The markup of one model, in strings of two or more characters."""

    markup: frozenset[str]
    _lengths: tuple[int, ...] = field(init=False)
    _starts: re.Pattern[str] | None = field(init=False)

    def __post_init__(self) -> None:
        starts = {mark[0] for mark in self.markup}
        object.__setattr__(
            self, "_lengths", tuple(sorted({len(mark) for mark in self.markup}, reverse=True))
        )
        object.__setattr__(
            self, "_starts", re.compile(f"[{re.escape(''.join(starts))}]") if starts else None
        )

    @classmethod
    def of(cls, chat_template: str, special: Iterable[str], added: Iterable[str] = ()) -> Literal:
        """From a chat template and a tokenizer's tokens.

        Special tokens are markup in any case; others that were added to a vocabulary only if they look so or the
        template writes them, as an added token may be anything, even a run of spaces or an HTML tag.
        """
        shown = {
            token
            for token in added
            if _MARKS.fullmatch(token) or (token in chat_template and token.strip())
        }
        found = {*special, *shown, *_MARKS.findall(chat_template)} - _TOOLS
        return cls(frozenset(mark for mark in found if len(mark) > 1))

    def text(self, words: str, *, thinks: bool = False) -> str:
        """Words in which no markup is left. With `thinks` they may say where their thinking begins and ends."""
        if self._starts is None:
            return words
        pieces: list[str] = []
        done = 0
        for start in self._starts.finditer(words):
            at = start.start()
            if at < done:
                continue
            mark = next(
                (words[at : at + n] for n in self._lengths if words[at : at + n] in self.markup),
                None,
            )
            if mark is not None and not (thinks and mark in _THINKING):
                pieces += words[done : at + 1], JOINER
                done = at + 1
        return "".join(pieces) + words[done:] if pieces else words


NOTHING = Literal(frozenset())
"""Takes nothing for markup."""


def restored(words: str) -> str:
    """What a model says of words that were broken up, as they were."""
    return words.replace(JOINER, "")
