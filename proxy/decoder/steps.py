"""Segmentation: cuts reasoning into steps, and holds the instruction that makes teachers write them.

By default a step is text headed by the marker and its number and ending in one blank line, e.g. `### Step 3. …\\n\\n`
(arXiv 2605.02290, section on segmentation); it may also be a paragraph, or what lies between paragraphs that begin
with a cue word. The reasoning is the steps' concatenation. Holds text rules only; which markup a teacher puts around
its thinking is the teacher adapter's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from proxy.decoder.types import Message

_DEEPEST_HEADING = 6

Cut = Literal["marker", "blank-line", "cue-word"]

_COMPLETE, _SHORT = "When the reasoning is complete,", "put a short final answer in \\boxed{}."
_END = f"{_COMPLETE} give the final answer; {_SHORT}"
INSTRUCTIONS: dict[Cut, str] = {
    "marker": "Reason in numbered steps. Begin every step on a new line with the header `### Step N.`, N counting "
    f"from 1, and make exactly one move of reasoning in it. {_END}",
    "blank-line": "Reason in short paragraphs with a blank line between them, and make exactly one move of reasoning "
    f"in each. {_END}",
    "cue-word": _END,
}
"""What teachers are told, by how their reasoning is cut."""


def tell_heading(messages: Sequence[Message], heading: str) -> tuple[Message, ...]:
    """The conversation for a model that heads its answer, where our instruction says how reasoning ends.

    A model without thinking markup has to be told of the heading, or it ends its turn where it should close.
    """
    told = f"{_COMPLETE} write the line `{heading}` and under it the final answer; {_SHORT}"
    return tuple(
        replace(message, content=message.content.replace(_END, told)) for message in messages
    )


_PREFERRED: tuple[Cut, ...] = ("marker", "cue-word", "blank-line")
"""By how well they served the paper: 79.6, 77.1 and 76.7 (arXiv 2605.02290)."""


def shared_cut(kept: Iterable[Collection[Cut]]) -> Cut:
    """The best cut that all teachers keep. Those who keep none have no say; where nothing is shared it is markers."""
    known = [cuts for cuts in kept if cuts]
    return next((cut for cut in _PREFERRED if all(cut in cuts for cuts in known)), "marker")


CUES = (
    "Wait",
    "But",
    "However",
    "Alternatively",
    "So",
    "Therefore",
    "Now",
    "Next",
    "Then",
    "First",
    "Let",
)
"""What reasoning models often begin a new thought with, at the head of a paragraph."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Where steps end, and the instruction that makes teachers write them so.

    The instruction is added to what teachers read, and to nothing else: clients, scorers and exported rows never see
    it. Markers are the surest cut: they number the steps, and whoever is asked for one begins it. Blank lines are for
    teachers that will not write headers, cue words for those that cannot be told anything. A step that ends before
    `min_step_chars` characters is gone on with.
    """

    marker: str = "### Step"
    instruction: str = INSTRUCTIONS["marker"]
    cut: Cut = "marker"
    cues: tuple[str, ...] = CUES
    min_step_chars: int = 0

    def by(self, cut: Cut, min_step_chars: int) -> Segmentation:
        """The same by another cut, with the instruction that fits it; paragraphs are joined to so many characters."""
        if cut == self.cut:
            return self
        return replace(self, cut=cut, instruction=INSTRUCTIONS[cut], min_step_chars=min_step_chars)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which a step ends. They begin with a newline so that a step's own header does not end it.

        A marker ends it also as another heading, or without one, and so does any heading below the marker's: models
        that do not keep the format write several steps at once that way, or go on to the limit of tokens.
        """
        match self.cut:
            case "marker":
                return (f"\n{self.marker}", *self._lookalikes)
            case "blank-line":
                return ("\n\n",)
            case "cue-word":
                return tuple(f"\n\n{cue}" for cue in self.cues)

    @property
    def _lookalikes(self) -> tuple[str, ...]:
        word = self.marker.lstrip("#* ")
        level = len(self.marker) - len(self.marker.lstrip("#"))
        headings = ["#" * n for n in range(1, _DEEPEST_HEADING + 1)]
        named = [f"\n{heading} {word}" for heading in headings[: max(level, 1)]]
        below = [f"\n{heading} " for heading in headings[max(level, 1) :]]
        bare = [f"\n{word} {digit}" for digit in range(1, 10)] + [f"\n**{word} "]
        return tuple(
            stop for stop in (*named, *below, *bare) if not stop.startswith(f"\n{self.marker}")
        )

    def header(self, depth: int) -> str:
        """The seed of step `depth` (from 1); empty where steps have none."""
        return f"{self.marker} {depth}." if self.cut == "marker" else ""

    def canonical(self, depth: int, written: str) -> str:
        """A teacher's continuation of the header as a canonical step; empty when it said nothing."""
        header = self.header(depth)
        body = written.rstrip() if header else written.strip()
        return f"{header}{body}\n\n" if body else ""

    def instruct(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation with the instruction under its last user message, a place every chat template has."""
        if not self.instruction:
            return tuple(messages)
        at = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
        if at is None:
            return (*messages, Message("user", self.instruction))
        told = replace(messages[at], content=f"{messages[at].content}\n\n{self.instruction}")
        return (*messages[:at], told, *messages[at + 1 :])
