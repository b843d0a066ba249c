"""Prompt-guided segmentation: how reasoning is cut into steps, and how teachers are told to.

A step is text headed by the marker and its number and ending in one blank line, e.g. `### Step 3. …\\n\\n`; the
reasoning is their concatenation (arXiv 2605.02290, section on segmentation). Holds text rules only; which
markup a teacher puts around its thinking is the teacher adapter's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.decoder.types import Message

DEFAULT_INSTRUCTION = (
    "Reason in numbered steps. Begin every step on a new line with the header `### Step N.`, N counting from 1, "
    "and make exactly one move of reasoning in it. When the reasoning is complete, give the final answer; "
    "put a short final answer in \\boxed{}."
)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The step marker and the instruction that makes teachers write it.

    The instruction is added to what teachers read, and to nothing else: clients, scorers and exported rows
    never see it.
    """

    marker: str = "### Step"
    instruction: str = DEFAULT_INSTRUCTION

    @property
    def stop(self) -> str:
        """The text at which a step ends. It begins with a newline so that a step's own header does not end it."""
        return f"\n{self.marker}"

    def header(self, depth: int) -> str:
        """The seed of step `depth` (from 1)."""
        return f"{self.marker} {depth}."

    def canonical(self, depth: int, written: str) -> str:
        """A teacher's continuation of the header as a canonical step; empty when it said nothing."""
        body = written.rstrip()
        return f"{self.header(depth)}{body}\n\n" if body else ""

    def instruct(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation with the instruction under its last user message, a place every chat template has."""
        if not self.instruction:
            return tuple(messages)
        at = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
        if at is None:
            return (*messages, Message("user", self.instruction))
        told = replace(messages[at], content=f"{messages[at].content}\n\n{self.instruction}")
        return (*messages[:at], told, *messages[at + 1 :])

    def split(self, reasoning: str) -> tuple[str, ...]:
        """Cut reasoning at its step headers; text before the first header is a piece of its own."""
        first, *rest = f"\n{reasoning}".split(self.stop)
        pieces = [first.removeprefix("\n"), *(f"{self.marker}{piece}\n" for piece in rest[:-1])]
        pieces += [f"{self.marker}{piece}" for piece in rest[-1:]]
        return tuple(piece for piece in pieces if piece)
