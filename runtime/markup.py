"""What models write around their thinking, and which of it a chat template calls for. Pure, and
free of torch.

The one table for both sides: the proxy continues a teacher's half-written turn with it, the scorer
closes the meta-prover's thinking with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Markup:
    """`opener` reasoning `closer` answer.

    The model ends its thinking by writing `stop`. Where that is `special`, a server strips it from
    the text unless it is asked to keep special tokens. A chat template that contains `sign` calls
    for this markup.
    """

    opener: str
    closer: str
    stop: str
    sign: str
    special: bool = False

    def opened(self, prompt: str) -> str:
        """The prompt up to where reasoning begins; many templates have written the opener
        already."""
        done = bool(self.opener) and prompt.rstrip().endswith(self.opener.strip())
        return prompt if done else prompt + self.opener


THINKING = Markup("<think>\n", "</think>\n\n", "</think>", sign="</think>")

PLAIN = Markup("", "### Answer\n\n", "### Answer", sign="")
"""A model without thinking markup: it writes its steps in the open, under a header its answer."""

HARMONY = Markup(
    "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|>",
    sign="<|channel|>", special=True,
)  # fmt: skip
"""gpt-oss: channels of messages."""

BRACKETS = Markup("[THINK]", "[/THINK]", "[/THINK]", sign="[/THINK]", special=True)
"""Magistral."""

MarkupName = Literal["auto", "think", "plain", "harmony", "brackets"]

MARKUPS: dict[str, Markup] = {
    "harmony": HARMONY,
    "brackets": BRACKETS,
    "think": THINKING,
    "plain": PLAIN,
}
"""By name, in the order in which their signs are looked for; `plain` fits every template."""


def markup_of(chat_template: str, name: MarkupName = "auto") -> Markup:
    """The markup of this name, or with "auto" the first whose sign the chat template contains."""
    if name != "auto":
        return MARKUPS[name]
    return next(markup for markup in MARKUPS.values() if markup.sign in chat_template)
