"""What one finished search cost and who contributed: computed from its events. Pure.

The reply's usage and `cord` object, the trace's totals and the tests all read this one fold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.decoder.events import (
    Event,
    Finished,
    ProposalCancelled,
    Proposed,
    Scored,
    ScoreRequested,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.types import Candidate, Result, Score, Source


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the winner alone, as the client is billed: reasoning is part of completion."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """What the whole search spent: proposals, tokens the teachers wrote and read, tokens the scorer forwarded.

    `skipped` counts the teachers that a step did without, in an adaptive search. `cancelled` counts
    calls that were stopped; `generated_tokens` includes `cancelled_tokens`, an estimate of what they
    had written.
    """

    candidates: int = 0
    failures: int = 0
    skipped: int = 0
    generated_tokens: int = 0
    cancelled: int = 0
    cancelled_tokens: int = 0
    prompt_tokens: int = 0
    score_calls: int = 0
    scored_tokens: int = 0


@dataclass(frozen=True, slots=True)
class WonStep:
    """One step of the winner: who wrote it, and the score it was chosen by (None where nothing scored)."""

    candidate: Candidate
    score: Score | None


@dataclass(frozen=True, slots=True)
class Summary:
    """`result`, `usage` and `steps` are of the winner, absent (None, zero, empty) while there is none."""

    result: Result | None
    usage: Usage
    cost: Cost
    steps: tuple[WonStep, ...]
    source: Source


def summarise(events: Iterable[Event]) -> Summary:
    """Fold a search's events."""
    proposed: list[Candidate] = []
    scores: dict[int, Score] = {}
    cancelled: list[int] = []
    failures = score_calls = skipped = 0
    result: Result | None = None
    for event in events:
        match event:
            case Proposed(candidate):
                proposed.append(candidate)
            case ProposalCancelled(tokens=tokens):
                cancelled.append(tokens)
            case ScoreRequested():
                score_calls += 1
            case Scored(id, score):
                scores[id] = score
            case TeacherFailed():
                failures += 1
            case TeacherSkipped():
                skipped += 1
            case Finished(found):
                result = found
    answer_tokens, answer_prompt = (
        (result.answer_tokens, result.answer_prompt_tokens) if result else (0, 0)
    )
    cost = Cost(
        candidates=len(proposed),
        failures=failures,
        skipped=skipped,
        generated_tokens=sum(one.completion_tokens for one in proposed)
        + answer_tokens
        + sum(cancelled),
        cancelled=len(cancelled),
        cancelled_tokens=sum(cancelled),
        prompt_tokens=sum(candidate.prompt_tokens for candidate in proposed) + answer_prompt,
        score_calls=score_calls,
        scored_tokens=sum(
            part.tokens_forwarded for score in scores.values() for part in (score, *score.blended)
        ),
    )
    won = result.winner.candidates if result else ()
    # A blend knows what any of its parts knows.
    sources = {part.source for score in scores.values() for part in (score, *score.blended)}
    source = next((known for known in Source if known in sources), Source.NONE)
    steps = tuple(WonStep(candidate, scores.get(candidate.id)) for candidate in won)
    return Summary(result, _usage(result), cost, steps, source)


def _usage(result: Result | None) -> Usage:
    if result is None:
        return Usage(0, 0, 0)
    reasoning = result.winner.tokens
    first = next(iter(result.winner.candidates), None)
    prompt = first.prompt_tokens if first else result.answer_prompt_tokens
    return Usage(prompt, reasoning + result.answer_tokens, reasoning)
