"""One row of tokens on its way through a model, and what the model has said of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.prefix_cache import Node
from scoring.objective import Passage
from scoring.tokens import Row
from scoring.types import Message


@dataclass(frozen=True, slots=True)
class FollowUp:
    """The passage to score once the model has written on by itself, and its conversation."""

    messages: tuple[Message, ...]
    passage: Passage


@dataclass(eq=False, slots=True)
class Sequence:
    """A row on its way through a model.

    `at` is the last node of the prefix cache that has been read, `fresh` the number of tokens that
    were forwarded for this sequence. `logs` are the log-probabilities of the scored tokens once it
    is done, and `answer` is what the model wrote, if it was to write. With `ahead` the sequence
    continues with another row after the model has written.
    """

    row: Row
    ahead: FollowUp | None = None
    at: Node | None = None
    fresh: int = 0
    written: list[int] = field(default_factory=list)
    answer: str = ""
    logs: tuple[float, ...] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return self.row.ids + tuple(self.written)

    @property
    def goal(self) -> int:
        """How many tokens must be read: the last scored one only if something may follow it."""
        if self.row.write:
            return len(self.row.ids) + len(self.written)
        return max(self.row.keep, self.row.end - 1)

    @property
    def left(self) -> int:
        """Tokens still to read, as far as known."""
        return self.goal - (self.at.depth if self.at is not None else 0)
