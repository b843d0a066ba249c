"""A scripted teacher and scorer: what they say is queued or computed, what they were asked is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from proxy.decoder.ports import OnText
from proxy.decoder.types import Continuation, Problem, Score, Source, TeacherRequest

Script = Callable[[TeacherRequest], Continuation | Exception | Awaitable[Continuation]]


def says(text: str, ended: str = "marker", tokens: int = 5) -> Continuation:
    return Continuation(text, ended, prompt_tokens=7, completion_tokens=tokens)  # type: ignore[arg-type]


@dataclass
class ScriptedTeacher:
    """Answers every ask by a function of it."""

    name: str
    script: Script
    history: list[TeacherRequest] = field(default_factory=list)
    supports_response_format: bool = False
    supports_tools: bool = False

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        self.history.append(ask)
        reply = self.script(ask)
        if isinstance(reply, Awaitable):
            reply = await reply
        if isinstance(reply, Exception):
            raise reply
        if on_text is not None:
            for word in reply.text.splitlines(keepends=True):
                on_text(word)
        return reply


@dataclass
class ScriptedScorer:
    """Scores a step by a function of prefix and step, one for each objective if need be; looks ahead unless
    `additive`.
    """

    judge: Callable[[str, str], float]
    additive: bool = False
    history: list[tuple[Problem, str, str, str]] = field(default_factory=list)
    prefill_partial_steps: list[tuple[str, str]] = field(default_factory=list)
    judges: Mapping[str, Callable[[str, str], float]] = field(default_factory=dict)
    elicits: Callable[[str], tuple[str, ...]] = lambda reasoning: ()
    pools: dict[str, dict[str, float]] = field(default_factory=dict)

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
        self.history.append((problem, prefix, step, objective))
        if pool is not None:
            self.pools[prefix + step] = dict(pool)
        judge = self.judges.get(objective, self.judge)
        return Score(judge(prefix, step), 1.0, self.additive, objective, Source.NONE)

    async def elicit(self, problem: Problem, prefix: str, step: str) -> tuple[tuple[str, ...], int]:
        return self.elicits(prefix + step), 7

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        self.prefill_partial_steps.append((prefix, begun))


def counts_to(last: int, mark: str = "") -> Script:
    """A teacher that writes one plain step at a time and closes after step `last`; answers with its mark."""

    def script(ask: TeacherRequest) -> Continuation:
        if ask.answer is not None:
            return says(f"\n\nanswer by {mark}\n", "eos", tokens=3)
        depth = ask.reasoning.count("### Step")
        return says(f" {mark}{depth}\n", "closed" if depth == last else "marker")

    return script
