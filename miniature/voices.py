"""How each teacher writes a step, what it is good at, and where it goes systematically wrong.

A voice is the training distribution of a teacher: its sentence for a step, its strong skills
(always right), and for each weak skill a bug that strikes on a "blind" half of the inputs. Bugs
depend on the input because random noise would not make a weak teacher: the most likely token would
stay right. Renders text only; tokens are not its business.

There are two panels of the same styles. In the first, no two teachers share a bug. In the second
all three make birch's mistakes on two skills, on the same half of the inputs: there they agree, and
are wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from miniature.task import LETTERS, Label, Operation, Problem, Skill

BLIND_BUT_RIGHT = 0.25
"""How often a weak skill is right on its blind half; elsewhere it always is."""

Panel = Literal["independent", "shared"]


def _half(value: str) -> int:
    """Whether a register starts in the upper half of its alphabet, as 0 or 1."""
    return (LETTERS.index(value[0]) if value[0] in LETTERS else int(value[0])) // 5


def _parity(value: str) -> int:
    """Whether a register starts on an odd place of its alphabet, as 0 or 1."""
    return (LETTERS.index(value[0]) if value[0] in LETTERS else int(value[0])) % 2


def _shifted(letters: str, by: int) -> str:
    return Operation(Skill.SHIFT, by).apply(letters)


@dataclass(frozen=True, slots=True)
class Bug:
    """A systematic mistake.

    effect: what becomes of (register, argument). strikes: 1 for registers on which it does.
    """

    effect: Callable[[str, int], str]
    strikes: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Voice:
    """One teacher's way of writing and erring.

    sentence: a format string with {operation}, {name}, {old}, {new} and {label}; follows the step's header.
    bugs: the mistakes on weak skills; skills not listed are strong.
    """

    sentence: str
    bugs: Mapping[Skill, Bug]

    @property
    def strong(self) -> frozenset[Skill]:
        return frozenset(Skill) - self.bugs.keys()

    def buggy(self, operation: Operation, value: str) -> str | None:
        """What the bug makes of the register, None where the teacher does not err."""
        bug = self.bugs.get(operation.skill)
        return (
            bug.effect(value, operation.argument)
            if bug is not None and bug.strikes(value)
            else None
        )

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
            operation=operation,
            name=name,
            old=before.register(name),
            new=after.register(name),
            label=after,
        )
        return f"### Step {step + 1}.{body}\n\n"


def _low_end(value: str) -> int:
    """Whether a register's last place is in the lower half of its alphabet, as 0 or 1."""
    return 1 - _half(value[-1])


VOICES: dict[str, Voice] = {
    "alder": Voice(
        sentence=" {operation}: the {name} {old} becomes {new}, so now we have {label}.",
        bugs={
            Skill.ROTATE: Bug(lambda code, _: code, _half),  # forgets to
            Skill.SORT: Bug(
                lambda tag, _: "".join(sorted(tag, reverse=True)), _half
            ),  # sorts downwards
            Skill.SHIFT: Bug(
                lambda tag, k: _shifted(tag[:2], k) + tag[2:], _half
            ),  # leaves the last letter
        },
    ),
    "birch": Voice(
        sentence=" {operation}. {old} -> {new}. Label {label}.",
        bugs={
            Skill.ADD: Bug(lambda _, k: str(k), _parity),  # forgets what it was added to
            Skill.TIMES: Bug(lambda digit, _: digit, _parity),  # forgets to
            Skill.SHIFT: Bug(
                lambda tag, k: _shifted(tag[0], k) + tag[1:], _parity
            ),  # moves the first letter only
        },
    ),
    "cedar": Voice(
        sentence=" {operation} of {old} is {new}: {label}",
        bugs={
            Skill.TIMES: Bug(lambda _, k: str(k), _low_end),  # takes the factor for the product
            Skill.REVERSE: Bug(
                lambda code, _: code[0] + code[2] + code[1], _low_end
            ),  # swaps the last two only
            Skill.ROTATE: Bug(lambda code, _: code[::-1], _low_end),  # reverses instead
        },
    ),
}
"""The panel whose members make mistakes of their own."""

_COMMON = {skill: VOICES["birch"].bugs[skill] for skill in (Skill.TIMES, Skill.SHIFT)}

PANELS: dict[Panel, dict[str, Voice]] = {
    "independent": VOICES,
    "shared": {
        name: replace(voice, bugs={**voice.bugs, **_COMMON}) for name, voice in VOICES.items()
    },
}
