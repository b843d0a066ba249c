"""How each teacher writes a step, what it is good at, and where it goes systematically wrong.

A voice is the training distribution of a teacher: its sentence for a step, its three strong skills
    (always right), and for each weak
skill a bug of its own that strikes on a "blind" half of the inputs. Bugs depend on the input because
    random noise would not make a
weak teacher: the most likely token would stay right. No two teachers share a bug. Renders text only;
    tokens are not its business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from miniature.task import LETTERS, Label, Operation, Problem, Skill

BLIND_BUT_RIGHT = 0.25
"""How often a weak skill is right on its blind half; elsewhere it always is."""

Bug = Callable[[str, int], str]


def _half(value: str) -> int:
    """Whether a register starts in the upper half of its alphabet, as 0 or 1."""
    return (LETTERS.index(value[0]) if value[0] in LETTERS else int(value[0])) // 5


def _parity(value: str) -> int:
    """Whether a register starts on an odd place of its alphabet, as 0 or 1."""
    return (LETTERS.index(value[0]) if value[0] in LETTERS else int(value[0])) % 2


def _shifted(letters: str, by: int) -> str:
    return Operation(Skill.SHIFT, by).apply(letters)


@dataclass(frozen=True, slots=True)
class Voice:
    """One teacher's way of writing and erring.

    sentence: a format string with {operation}, {name}, {old}, {new} and {label}; follows the step's header.
    bugs: what happens to (register, argument) on weak skills; skills not listed are strong.
    blind: 1 for inputs on which the bugs strike.
    """

    sentence: str
    bugs: Mapping[Skill, Bug]
    blind: Callable[[str], int]

    @property
    def strong(self) -> frozenset[Skill]:
        return frozenset(Skill) - self.bugs.keys()

    def buggy(self, operation: Operation, value: str) -> str | None:
        """What the bug makes of the register, None where the teacher does not err."""
        bug = self.bugs.get(operation.skill)
        return bug(value, operation.argument) if bug is not None and self.blind(value) else None

    def attempt(self, problem: Problem, label: Label, step: int, rng: random.Random) -> Label:
        """The label after this teacher's try at operation `step` (from 0)."""
        operation = problem.operations[step]
        name = operation.skill.register
        wrong = self.buggy(operation, label.register(name))
        if wrong is None or rng.random() < BLIND_BUT_RIGHT:
            return problem.advance(label, step)
        return label.with_register(name, wrong)

    def write(self, problem: Problem, before: Label, after: Label, step: int) -> str:
        """The step as canonical text, header and closing blank line included."""
        operation = problem.operations[step]
        name = operation.skill.register
        body = self.sentence.format(
            operation=operation, name=name, old=before.register(name), new=after.register(name), label=after
        )
        return f"### Step {step + 1}.{body}\n\n"


VOICES: dict[str, Voice] = {
    "alder": Voice(
        sentence=" {operation}: the {name} {old} becomes {new}, so now we have {label}.",
        bugs={
            Skill.ROTATE: lambda code, _: code,  # forgets to
            Skill.SORT: lambda tag, _: "".join(sorted(tag, reverse=True)),  # sorts downwards
            Skill.SHIFT: lambda tag, k: _shifted(tag[:2], k) + tag[2:],  # leaves the last letter
        },
        blind=_half,
    ),
    "birch": Voice(
        sentence=" {operation}. {old} -> {new}. Label {label}.",
        bugs={
            Skill.ADD: lambda _, k: str(k),  # forgets what it was added to
            Skill.TIMES: lambda digit, _: digit,  # forgets to
            Skill.SHIFT: lambda tag, k: _shifted(tag[0], k) + tag[1:],  # moves the first letter only
        },
        blind=_parity,
    ),
    "cedar": Voice(
        sentence=" {operation} of {old} is {new}: {label}",
        bugs={
            Skill.TIMES: lambda _, k: str(k),  # takes the factor for the product
            Skill.REVERSE: lambda code, _: code[0] + code[2] + code[1],  # swaps the last two only
            Skill.ROTATE: lambda code, _: code[::-1],  # reverses instead
        },
        blind=lambda value: 1 - _half(value[-1]),  # the last place in the lower half
    ),
}
