"""What a request may cost, and how much of that is allowed: at once, by one key and in all.

Pure. A cost is an upper bound from the settings, known before any teacher is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from proxy.decoder.settings import Settings
from proxy.decoder.strategies import STRATEGIES
from proxy.errors import RequestError


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request, or all that run, may come to: teacher calls, and tokens that teachers write."""

    requests: int = 1
    calls: int = 1
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests, self.calls + other.calls, self.tokens + other.tokens
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.requests - other.requests, self.calls - other.calls, self.tokens - other.tokens
        )


NOTHING = Cost(0, 0, 0)


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on what runs at once; None sets none."""

    requests: int | None = None
    calls: int | None = None
    tokens: int | None = None

    def exceeded_by(self, cost: Cost) -> Iterator[str]:
        """The names of the bounds that a cost is beyond."""
        for bound in fields(self):
            limit = getattr(self, bound.name)
            if limit is not None and getattr(cost, bound.name) > limit:
                yield bound.name


UNLIMITED = RequestLimits()


def cost_of(settings: Settings, teachers: int) -> Cost:
    """The most that a search can cost: B × K × samples calls a step, each hypothesis within its budget, the answer."""
    strategy, budget = STRATEGIES[settings.strategy], settings.budget
    width = strategy.width or settings.beam_width
    wide = width * min(teachers, strategy.teachers or teachers) * settings.samples
    steps = 1 if strategy.unit == "trace" else budget.steps
    total = budget.total_tokens or budget.reasoning_tokens
    reasoning = min(budget.reasoning_tokens, total)
    if strategy.unit == "step":
        reasoning = min(reasoning, budget.steps * budget.step_tokens)
    answer = min(budget.answer_tokens, budget.total_tokens or budget.answer_tokens)
    return Cost(1, wide * steps + 1, wide * reasoning + answer)


def check_cost(cost: Cost, limits: RequestLimits) -> None:
    """Raises RequestError where a request could not even run alone."""
    for name in limits.exceeded_by(cost):
        amount, limit = getattr(cost, name), getattr(limits, name)
        unit = "teacher calls" if name == "calls" else name
        message = f"this request may come to {amount:,} {unit}, and {limit:,} are allowed at once"
        hint = "lower cord.beam_width, cord.samples, cord.max_steps or cord.step_tokens"
        raise RequestError(f"{message}; {hint}", param="cord", code="request_too_costly")


def check_caps(given: Mapping[str, Any], caps: Mapping[str, float]) -> None:
    """Raises RequestError where a request sets a search setting above the operator's cap."""
    for name, cap in caps.items():
        value = given.get(name)
        if isinstance(value, (int, float)) and value > cap:
            message = f"cord.{name}: {value:g} is above {cap:g}, the most that this server allows"
            raise RequestError(message, param=f"cord.{name}", code="invalid_value")
