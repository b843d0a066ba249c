"""From text to token ids and the positions that are scored, for one model's tokenizer and chat template.

Text is cut only where tokenising apart equals tokenising together: at the turn's beginning and after a blank
line. Special-token strings in what teachers and clients' answers say stay literal text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scoring.errors import UnsupportedModel
from scoring.objective import Passage
from scoring.types import Message


@dataclass(frozen=True, slots=True)
class Elicitation:
    """The text around an answer that is asked for after the thinking has closed.

    The tail is scored with the answer, so that "1" cannot win as the beginning of "12".
    """

    head: str = "The final answer is \\boxed{"
    tail: str = "}"


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids to be read, of which those from `start` to `end` (exclusive) are scored; start >= 1."""

    ids: tuple[int, ...]
    start: int
    end: int


class Encoder:
    """Encodes passages for one model."""

    def __init__(self, tokenizer: Any, elicitation: Elicitation) -> None:
        """`tokenizer` is a transformers fast tokenizer with a chat template.

        Raises:
            UnsupportedModel: it has no template, or cannot say which characters a token covers.
        """
        if not tokenizer.is_fast or tokenizer.chat_template is None:
            raise UnsupportedModel("a fast tokenizer with a chat template is needed")
        self._tokenizer = tokenizer
        self._elicitation = elicitation
        self._thinks = "</think>" in tokenizer.chat_template

    def row(self, messages: tuple[Message, ...], passage: Passage) -> Row:
        """The token row of a passage under this conversation."""
        ids = self._markup(self._opening(messages))
        if not passage.closing:
            return self._literal(ids, passage.reasoning, passage.scored, "")
        ids += self._literal([], passage.reasoning, "", "").ids
        ids += self._markup("</think>\n\n" if self._thinks else "### Answer\n\n")
        tail = self._elicitation.tail
        return self._literal(ids, self._elicitation.head, passage.scored + tail, ".")

    def _opening(self, messages: tuple[Message, ...]) -> str:
        """The conversation up to where reasoning begins."""
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        opening: str = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        return opening if not self._thinks or opening.rstrip().endswith("<think>") else opening + "<think>\n"

    def _markup(self, text: str) -> list[int]:
        """Ids of the template's own text, in which special tokens mean what they say."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _literal(self, ids: list[int], before: str, scored: str, after: str) -> Row:
        """Append text in which nothing is special, scoring every token that overlaps `scored`.

        `after` makes the last scored characters tokenise as they would in running text; it is not read.
        """
        encoded = self._tokenizer(
            before + scored + after, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        first, last = len(before), len(before) + len(scored)
        offsets = encoded["offset_mapping"]
        inside = [i for i, (begin, end) in enumerate(offsets) if begin < last and end > first]
        stop = inside[-1] + 1 if inside else len(offsets)
        begin = inside[0] if inside else stop
        return Row((*ids, *encoded["input_ids"][:stop]), len(ids) + begin, len(ids) + stop)
