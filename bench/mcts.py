"""Monte Carlo tree search over teachers' steps, as arXiv 2605.02290 contrasts it with the beam: reward at the end.

A node's children are one step by each teacher; a rollout is the rest of the trace by the teacher of its first step, and
its reward the predictive perplexity of the whole. The best trace found is answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.decoder.ports import Scorer, Teacher
from proxy.decoder.selection import derive
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, Problem, TeacherRequest

EXPLORATION = math.sqrt(2) / 2
"""c of UCT (Kocsis & Szepesvári 2006), for rewards in [0, 1]."""


@dataclass(slots=True)
class Node:
    """A prefix: its steps, whether thinking is closed after them, and what rollouts through it were worth."""

    text: str = ""
    depth: int = 0
    closed: bool = False
    visits: int = 0
    reward: float = 0.0
    children: dict[str, Node] = field(default_factory=dict)

    def promise(self, parent: Node) -> float:
        """The upper confidence bound."""
        return self.reward / self.visits + EXPLORATION * math.sqrt(
            math.log(parent.visits) / self.visits
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The best trace, its answer, and the tokens that all rollouts took."""

    reasoning: str
    answer: str
    written: int
    scored: int


@dataclass(slots=True)
class Tree:
    """One problem's tree."""

    problem: Problem
    panel: Sequence[Teacher]
    scorer: Scorer
    settings: Settings
    segmentation: Segmentation
    root: Node = field(default_factory=Node)
    asked: int = 0
    written: int = 0
    scored: int = 0

    async def search(self, rollouts: int) -> Found:
        """Grow the tree by so many rollouts and answer the best of their traces."""
        best, trace, by = -1.0, "", self.panel[0]
        for _ in range(rollouts):
            path = [self.root]
            while len(path[-1].children) == len(self.panel):
                parent = path[-1]
                path.append(max(parent.children.values(), key=lambda child: child.promise(parent)))
            teacher, reasoning = await self._expand(path)
            reward = await self._reward(reasoning)
            for node in path:
                node.visits += 1
                node.reward += reward
            if reward > best:
                best, trace, by = reward, reasoning, teacher
        ended = await self._write(by, trace, "", self.settings.budget.answer_tokens, ())
        return Found(trace, ended.text, self.written, self.scored)

    async def _expand(self, path: list[Node]) -> tuple[Teacher, str]:
        """Add a child to the last node of the path, and to the path; who wrote it, and its whole trace."""
        leaf = path[-1]
        teacher = next((one for one in self.panel if one.name not in leaf.children), self.panel[0])
        if leaf.closed:
            return teacher, leaf.text
        header = self.segmentation.header(leaf.depth + 1)
        budget = self.settings.budget
        step = await self._write(
            teacher, leaf.text + header, None, budget.step_tokens, self.segmentation.stops
        )
        text = leaf.text + self.segmentation.canonical(leaf.depth + 1, step.text)
        child = Node(
            text, leaf.depth + 1, closed=step.ended != "marker" or leaf.depth + 1 >= budget.steps
        )
        leaf.children[teacher.name] = child
        path.append(child)
        if child.closed:
            return teacher, text
        rest = await self._write(
            teacher, text + self.segmentation.header(leaf.depth + 2), None, 512, ()
        )
        return teacher, text + self.segmentation.canonical(leaf.depth + 2, rest.text)

    async def _reward(self, reasoning: str) -> float:
        score = await self.scorer.score(self.problem, "", reasoning, "predictive")
        self.scored += score.tokens_forwarded
        return math.exp(score.nats)

    async def _write(
        self,
        teacher: Teacher,
        reasoning: str,
        answer: str | None,
        tokens: int,
        stop: tuple[str, ...],
    ) -> Continuation:
        self.asked += 1
        sampling = self.settings.sampling
        messages = self.segmentation.instruct(self.problem.messages)
        seed = derive(sampling.seed, reasoning, teacher.name, 0 if stop else self.asked)
        ask = TeacherRequest(
            messages, reasoning, answer, stop, tokens, sampling.temperature, sampling.top_p, seed
        )
        continuation = await teacher.write(ask)
        self.written += continuation.completion_tokens
        return continuation
