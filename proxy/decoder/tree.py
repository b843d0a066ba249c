"""The tree that a search grows: which proposals were requested, written and scored.

State only. `decoder.plan` reads it and says what to do; `decoder.search` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio

from proxy.decoder.ports import Teacher
from proxy.decoder.types import Candidate, Score, Trajectory
from proxy.errors import ScorerError, TeacherError


@dataclass(frozen=True, slots=True)
class Slot:
    """A place among a prefix's children: the `sample`-th proposal of one teacher.

    `index` orders the slots: by the teacher's place in the panel, then by sample. Ties between
    equal scores and between equal texts are broken by it, never by who answered first.
    """

    index: int
    teacher: Teacher
    sample: int


@dataclass(eq=False, slots=True)
class Proposal:
    """One call to a teacher and what has come of it.

    Being written, it has neither `candidate` nor `failure`. Written, it is scored when something
    asks for its score, `ahead` of need or not; `score` joins all parts of a blend. `elicited` are
    the answers that judges would give after it. An `abandoned` proposal took too long.
    Times are in seconds, on the clock of the search.
    """

    id: int
    slot: Slot
    depth: int
    requested_s: float
    call: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    candidate: Candidate | None = None
    failure: TeacherError | ScorerError | None = None
    abandoned: bool = False
    ahead: bool = False
    scores: dict[str, Score] = field(default_factory=dict)
    elicited: tuple[str, ...] | None = None
    elicited_tokens: int = 0
    score: Score | None = None
    settled_s: float = 0.0

    @property
    def writing(self) -> bool:
        """Whether the teacher is still at work."""
        return self.candidate is None and self.failure is None and not self.abandoned


@dataclass(eq=False, slots=True)
class Node:
    """A prefix of the reasoning.

    Prefixes of equal text are one node, whoever wrote their steps: what teachers propose under
    them is the same. `proposals` are keyed by slot and token limit, which together with the text
    decide what is written; `children` by the text of the next step.
    """

    proposals: dict[tuple[int, int], Proposal] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, step: str) -> Node:
        """The node one step further; made when it is first asked for."""
        if step not in self.children:
            self.children[step] = Node()
        return self.children[step]

    def at(self, trajectory: Trajectory) -> Node:
        """The node below this root where a trajectory ends."""
        node = self
        for candidate in trajectory.candidates:
            node = node.child(candidate.text)
        return node

    def below(self) -> Iterator[Proposal]:
        """Every proposal under this prefix, however deep."""
        nodes = [self]
        while nodes:
            node = nodes.pop()
            yield from node.proposals.values()
            nodes.extend(node.children.values())
