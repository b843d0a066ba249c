"""What the search needs from the outside: a teacher that continues a turn, a scorer that ranks a step.

Protocols only. Implementations translate their own failures into `TeacherError` and `ScorerError`, and stop
their work when the awaiting task is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from proxy.decoder.events import Event
from proxy.decoder.types import Continuation, Problem, Score, TeacherRequest

OnText = Callable[[str], None]
Emit = Callable[[Event], None]


class Teacher(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str: ...

    @property
    def supports_response_format(self) -> bool:
        """Whether it can hold an answer to a format, as a JSON schema."""
        ...

    @property
    def supports_tools(self) -> bool:
        """Whether it knows how to call tools."""
        ...

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; `on_text` is handed the text as it arrives.

        Raises:
            TeacherError: the call failed, whatever the reason.
        """
        ...


class Scorer(Protocol):
    """A model that judges."""

    async def score(
        self,
        problem: Problem,
        prefix: str,
        step: str,
        objective: str,
        proposer: str = "",
        pool: Mapping[str, float] | None = None,
        *,
        ahead: bool = False,
    ) -> Score:
        """Score one step on top of a canonical prefix.

        `proposer` is the teacher that wrote it, for scores that ask; `pool`, for "consensus", what others answer. A
        score that is asked for `ahead` of need gives way to all others.

        Raises:
            ScorerError: the scorer is away, or cannot take this text.
        """
        ...

    async def elicit(self, problem: Problem, prefix: str, step: str) -> tuple[tuple[str, ...], int]:
        """What each judge would answer if the reasoning ended with this step, and the tokens that took.

        Raises:
            ScorerError: the scorer is away, or cannot take this text.
        """
        ...

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        """Make ready to score a step of which so much has been written. A hint: nothing is raised, or lost without."""
        ...
