"""Sends a step to the scorer while it is being written, so that only its end remains to be computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from proxy.decoder.ports import Scorer
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Problem

_CHARS = 64
"""The scorer is handed a step whenever so many more characters of it are there."""


@dataclass(slots=True)
class Prefill:
    """One step on its way from a teacher to the scorer."""

    problem: Problem
    scorer: Scorer
    segmentation: Segmentation
    prefix: str
    depth: int
    score: str
    text: str = ""
    ended: bool = False
    _news: anyio.Event = field(default_factory=anyio.Event)

    def on_text(self, delta: str) -> None:
        """Take in what the teacher has written."""
        self.text += delta
        self._news.set()

    def end(self) -> None:
        """Stop: the step is complete, or will not be."""
        self.ended = True
        self._news.set()

    async def run(self) -> None:
        """Hand the step on as it grows, until it ends."""
        known = 0
        while not self.ended:
            await self._news.wait()
            self._news = anyio.Event()
            # The last word may still grow into other tokens.
            step = self.segmentation.canonical(self.depth, self.text)
            begun = step.rstrip().rpartition(" ")[0]
            if not self.ended and len(begun) >= known + _CHARS:
                known = len(begun)
                await self.scorer.read(self.problem, self.prefix, begun, self.score)
