"""Problems of reasoning-gym with their own verifiers, and what a step of arithmetic says. Needs the extra `real`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StepKind = Literal["right", "wrong", "hollow"]
"""Of a step: all its equations hold, one does not, or it has none."""

_FULL_MARKS = 0.99
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_SIDES = re.compile(r"[\d\s+\-*/().]*\d[\d\s+\-*/().]*(?:=\s*[\d\s+\-*/().]*\d[\d\s+\-*/().]*)+")
_LATEX = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "×": "*",
    "÷": "/",
    "\u2212": "-",
    ",": "",
    "$": "",
    "**": " ",
}
_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True, slots=True)
class Task:
    """One of reasoning-gym's tasks. With `equations` its steps can be told right from wrong by their arithmetic."""

    name: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    equations: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """One problem: its text, its answer, and the verifier's entry."""

    text: str
    answer: str
    entry: Mapping[str, Any] = field(repr=False)


TASKS = (
    Task(
        "chain_sum",
        "chain_sum",
        {"min_terms": 3, "max_terms": 3, "min_digits": 2, "max_digits": 2},
        equations=True,
    ),
    Task(
        "basic_arithmetic",
        "basic_arithmetic",
        {"min_terms": 2, "max_terms": 3, "max_digits": 2},
        equations=True,
    ),
    Task("leg_counting", "leg_counting", {"min_animals": 2, "max_animals": 3, "max_instances": 5}),
)
"""Sums and differences of three two-digit numbers, short expressions, legs of a few animals."""


class Problems:
    """The first problems of a task under one seed."""

    def __init__(self, task: Task, seed: int, size: int) -> None:
        import reasoning_gym

        self._dataset = reasoning_gym.create_dataset(
            task.dataset, seed=seed, size=size, **task.options
        )

    def __getitem__(self, number: int) -> Drawn:
        entry = self._dataset[number]
        return Drawn(entry["question"].strip(), str(entry["answer"]), entry)

    def is_right(self, drawn: Drawn, text: str) -> bool:
        """Whether the answer that a text comes to passes the task's own verifier."""
        answer = answer_in(text)
        return answer is not None and self._dataset.score_answer(answer, drawn.entry) >= _FULL_MARKS


def answer_in(text: str) -> str | None:
    """The number that a text gives as its answer: in its last box, or its last number."""
    boxes = _BOXED.findall(text)
    numbers = _NUMBER.findall(boxes[-1]) if boxes else []
    numbers = numbers or _NUMBER.findall(text)
    if not numbers:
        return None
    number = str(numbers[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def step_kind(step: str) -> StepKind:
    """What the equations of a step amount to. Its header is no part of it."""
    text = (
        step.partition("\n")[2]
        if step.startswith("#") and "\n" in step.strip()
        else step.partition(".")[2]
    )
    for old, new in _LATEX.items():
        text = text.replace(old, new)
    checked = [holds for found in _SIDES.findall(text) if (holds := _holds(found)) is not None]
    return "hollow" if not checked else "right" if all(checked) else "wrong"


def _holds(equation: str) -> bool | None:
    """Whether all sides are equal; None where nothing is computed or a side cannot be read."""
    sides = equation.split("=")
    values = [_value(side) for side in sides]
    if not re.search(r"\d\s*[+\-*/]\s*[(\d-]", equation) or any(value is None for value in values):
        return None
    known = [value for value in values if value is not None]
    return all(abs(value - known[0]) < 1e-3 * max(1.0, abs(known[0])) for value in known)


def _value(text: str) -> float | None:
    try:
        return _evaluated(ast.parse(text.strip().rstrip(".").strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluated(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_evaluated(left), _evaluated(right))
    raise ValueError("no arithmetic")
