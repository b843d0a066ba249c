"""From text to token ids and the positions that are scored, for one model's tokenizer and chat
template.

Text is cut only where tokenising apart equals tokenising together: at the turn's beginning and,
with tokenizers of which that holds, at blank lines; each piece is then tokenised once however often
it comes. Special-token strings in what clients and teachers say stay literal text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from runtime.literal import Literal
from runtime.markup import markup_of
from scoring.errors import UnsupportedModel
from scoring.objective import Passage
from scoring.types import Message

_PIECE = re.compile(r"(?<=\n\n)(?=\S)")
_HEADING = re.compile(r"(?<=\S)\s*\n(?=#)")
"""The end of a step: a line that looks like a heading, after some text."""
_SAMPLES = (
    "We add two.\n\n### Step 2. So (x) = 3,\n\nNow\n\n1. a\n\nß, 中文。\n\n{b}\n\n",
    "one two three\n\n**four**\n\n$5$\n\n- six\n\n\\boxed{7}\n\n",
)
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Elicitation:
    """How an answer is asked for once the thinking has closed.

    `template` has the answer where it says {answer}. The character after the answer is scored with
    it, so that "1" cannot win as the beginning of "12". `verdict` asks about the reasoning instead,
    for "yes" or "no". `closing` ends the thinking; by default it is what the chat template calls
    for.
    """

    template: str = "The final answer is \\boxed{{answer}}."
    closing: str | None = None
    verdict: str = "Is every step so far correct (yes or no)? {answer}."

    def __post_init__(self) -> None:
        if "{answer}" not in self.template or "{answer}" not in self.verdict:
            raise ValueError("an elicitation says {answer} where the answer goes")

    def around(self, verdict: bool) -> tuple[str, str]:
        """What comes before the answer, and what after it: a line end where the template ends with
        the answer."""
        head, _, tail = (self.verdict if verdict else self.template).partition("{answer}")
        return head, tail or "\n"


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids to be read, of which those from `start` to `end` (exclusive) are scored; start >=
    1.

    The first `keep` of them may be read again later: the conversation and its steps, not an
    elicitation. With `write` > 0 nothing is scored yet: so many tokens at most are to be written
    after the last, and scored. `reserve` tokens more are read after those.
    """

    ids: tuple[int, ...]
    start: int
    end: int
    keep: int
    write: int = 0
    reserve: int = 0

    @property
    def longest(self) -> int:
        """How many tokens may be read in all."""
        return len(self.ids) + self.write + self.reserve


class Encoder:
    """Encodes passages for one model. May be used from several threads; the tokenizer below it may
    not."""

    def __init__(self, tokenizer: Any, elicitation: Elicitation) -> None:
        """`tokenizer` is a transformers fast tokenizer with a chat template.

        Raises:
            UnsupportedModel: it has no template, or cannot say which characters a token covers.
        """
        if not tokenizer.is_fast or tokenizer.chat_template is None:
            raise UnsupportedModel("a fast tokenizer with a chat template is needed")
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._elicitation = elicitation
        _, self._tail = elicitation.around(False)
        self._thinking = markup_of(tokenizer.chat_template)
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        self._literal = Literal.of(
            tokenizer.chat_template, special, {token.content for token in added}
        )
        # A fast tokenizer splits special tokens where it is told to; others that were added, it
        # always looks for.
        self._unsplit = Literal(
            self._literal.markup & {token.content for token in added if not token.special}
        )
        self._closing = (
            self._thinking.closer if elicitation.closing is None else elicitation.closing
        )
        self._remembered = lru_cache(_REMEMBERED)(self._ids)
        self._openings = lru_cache(_REMEMBERED)(self._opening)
        self._cuts = all(self._ids(text) == self._pieces(text) for text in _SAMPLES)

    def row(self, messages: tuple[Message, ...], passage: Passage) -> Row:
        """The token row of a passage under this conversation."""
        with self._lock:
            return self._ahead(messages, passage) if passage.ahead else self._row(messages, passage)

    def row_after(self, messages: tuple[Message, ...], passage: Passage, step: str) -> Row:
        """The row of a passage that looks ahead, once the model has written this step of its
        own."""
        return self.row(messages, replace(passage, reasoning=passage.reasoning + step, ahead=0))

    def further_step(self, passage: Passage, written: Sequence[int]) -> str:
        """What a model has written when it went on reasoning, as a canonical step; empty if it
        closed at once."""
        step = self._until_close(written)
        end = None if passage.to_end else _HEADING.search(step)
        step = step[: end.start()] if end else step
        return f"{step.strip()}\n\n" if step.strip() else ""

    def ends_ahead(self, passage: Passage, written: Sequence[int]) -> bool:
        """Whether a model that goes on reasoning has come to the end of its step, or of its
        thinking."""
        if self._tokenizer.eos_token_id in written:
            return True
        text = self._written(written)
        closes = self._thinking.stop in text
        return closes or (not passage.to_end and _HEADING.search(text) is not None)

    def _until_close(self, written: Sequence[int]) -> str:
        return self._written(written).partition(self._thinking.stop)[0]

    def ends_answer(self, written: Sequence[int]) -> bool:
        """Whether what has been written after an elicitation's head is a whole answer."""
        return self._tail[0] in self._written(written) or self._tokenizer.eos_token_id in written

    def answer(self, written: Sequence[int]) -> str:
        """The answer in what has been written after an elicitation's head."""
        return self._written(written).partition(self._tail[0])[0].strip()

    def _written(self, ids: Sequence[int]) -> str:
        with self._lock:
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _row(self, messages: tuple[Message, ...], passage: Passage) -> Row:
        ids = self._openings(messages)
        if not passage.closing:
            return self._step(ids, passage.reasoning, passage.scored)
        ids += self._text(passage.reasoning)
        keep = len(ids)
        ids += self._markup(self._closing)
        head, tail = self._elicitation.around(passage.verdict)
        if passage.write:
            ids += self._remembered(head)
            return Row(ids, len(ids), len(ids), keep, passage.write)
        answer, start, end = self._marked(head, passage.scored + tail[0], tail[1:])
        return Row(ids + answer[:end], len(ids) + start, len(ids) + end, keep)

    def _ahead(self, messages: tuple[Message, ...], passage: Passage) -> Row:
        """The reasoning, after which the model goes on; what is kept for the closing and the answer
        is counted."""
        ids = self._openings(messages) + self._text(passage.reasoning)
        whole = self._row(messages, replace(passage, ahead=0))
        # What it writes is read again as a step, perhaps in a few more tokens than it was written
        # in.
        return Row(
            ids,
            len(ids),
            len(ids),
            len(ids) + passage.ahead,
            passage.ahead,
            len(whole.ids) - len(ids) + 8,
        )

    def _step(self, ids: tuple[int, ...], prefix: str, step: str) -> Row:
        apart = not prefix or (prefix.endswith("\n\n") and not step[:1].isspace())
        if self._cuts and apart:
            before = ids + self._text(prefix)
            whole = before + self._text(step)
            return Row(whole, len(before), len(whole), len(whole))
        text, start, end = self._marked(prefix, step, "")
        return Row(ids + text, len(ids) + start, len(ids) + end, len(ids) + len(text))

    def _opening(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The conversation up to where reasoning begins."""
        conversation = [
            {
                "role": message.role,
                "content": self._literal.text(message.content, thinks=message.role == "assistant"),
            }
            for message in messages
        ]
        opening: str = self._tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True
        )
        return self._markup(self._thinking.opened(opening))

    def _markup(self, text: str) -> tuple[int, ...]:
        """Ids of the template's own text, in which special tokens mean what they say."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids(self, text: str) -> tuple[int, ...]:
        """Ids of text in which nothing is special."""
        words = self._unsplit.text(text)
        return tuple(
            self._tokenizer(words, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )

    def _pieces(self, text: str) -> tuple[int, ...]:
        return tuple(token for piece in _PIECE.split(text) for token in self._remembered(piece))

    def _text(self, text: str) -> tuple[int, ...]:
        """As `_ids`, each piece between blank lines once only where this tokenizer allows it."""
        return self._pieces(text) if self._cuts else self._remembered(text)

    def _marked(self, before: str, scored: str, after: str) -> tuple[tuple[int, ...], int, int]:
        """Ids of text in which nothing is special, and which of them overlap `scored`.

        `after` makes the last scored characters tokenise as they would in running text.
        """
        before, scored, after = map(self._unsplit.text, (before, scored, after))
        encoded = self._tokenizer(
            before + scored + after,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
        )
        first, last = len(before), len(before) + len(scored)
        offsets = encoded["offset_mapping"]
        inside = [i for i, (begin, end) in enumerate(offsets) if begin < last and end > first]
        end = inside[-1] + 1 if inside else len(offsets)
        return tuple(encoded["input_ids"]), inside[0] if inside else end, end
