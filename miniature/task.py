"""The parcel-label task: problems, their six steps, their answers and the check of an answer.

A label such as `7-321-ABC` holds a digit, a code of three distinct digits and a tag of three
distinct letters A to J. A problem lists six operations; every step changes one register by one
small lookup or copy. Knows nothing of models, of styles of writing, or of mistakes.

Problems come in three varieties. `even`: each skill once, so that what an early step spoils shows
within one more step. `tangled`: four of the six operations on one register, so that an early step
pays late, and what looks nearer to the answer may lead away from it. `open`: an even problem that
asks for the way alone, so that no answer tells whether it was right.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

INSTRUCTION = 'Reason in steps, each headed "### Step N.", then give the final answer.'
"""What a proxy adds under the problem so that teachers write segmentable reasoning."""

RULES = (
    "Update the parcel label digit-code-tag. On the digit, add and times keep the last digit of the result. "
    "On the code, reverse it or rotate it left. "
    "On the tag, sort the letters or shift each forward, J wrapping to A."
)
ASK_LABEL = "Give the label in \\boxed{}."
ASK_WAY = "Only show the way."
LETTERS = "ABCDEFGHIJ"
DEPTH = 6
TANGLED = 4
"""How many operations of a tangled problem change the same register."""
HELD_OUT_SHARE = 0.1

Split = Literal["train", "held-out"]
Variety = Literal["even", "tangled", "open"]
_LABEL = re.compile(r"([0-9])-([0-9]{3})-([A-J]{3})")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class Skill(StrEnum):
    """One operation on one register; the value is the word a problem names it by."""

    ADD = "add"
    TIMES = "times"
    REVERSE = "reverse"
    ROTATE = "rotate"
    SORT = "sort"
    SHIFT = "shift"

    @property
    def register(self) -> Register:
        return _REGISTERS[self]

    @property
    def arguments(self) -> range | None:
        """The numbers that may follow the word; None where none does."""
        return _ARGUMENTS.get(self)


Register = Literal["digit", "code", "tag"]
_REGISTERS: dict[Skill, Register] = {
    Skill.ADD: "digit",
    Skill.TIMES: "digit",
    Skill.REVERSE: "code",
    Skill.ROTATE: "code",
    Skill.SORT: "tag",
    Skill.SHIFT: "tag",
}
_ARGUMENTS = {
    Skill.ADD: range(1, 7),
    Skill.TIMES: range(2, 7),
    Skill.ROTATE: range(1, 3),
    Skill.SHIFT: range(1, 4),
}


@dataclass(frozen=True, slots=True)
class Label:
    """The state of a problem: three registers, written `digit-code-tag`."""

    digit: str
    code: str
    tag: str

    def __str__(self) -> str:
        return f"{self.digit}-{self.code}-{self.tag}"

    def register(self, name: Register) -> str:
        return {"digit": self.digit, "code": self.code, "tag": self.tag}[name]

    def with_register(self, name: Register, value: str) -> Label:
        match name:
            case "digit":
                return replace(self, digit=value)
            case "code":
                return replace(self, code=value)
            case "tag":
                return replace(self, tag=value)

    @classmethod
    def find_last(cls, text: str) -> Label | None:
        """The last label written in `text`, None when there is none."""
        found = _LABEL.findall(text)
        return cls(*found[-1]) if found else None


@dataclass(frozen=True, slots=True)
class Operation:
    """A skill with its argument; 0 stands for "takes none"."""

    skill: Skill
    argument: int = 0

    def __str__(self) -> str:
        return f"{self.skill} {self.argument}" if self.argument else str(self.skill)

    def apply(self, value: str) -> str:
        """The register after the operation."""
        match self.skill:
            case Skill.ADD:
                return str((int(value) + self.argument) % 10)
            case Skill.TIMES:
                return str(int(value) * self.argument % 10)
            case Skill.REVERSE:
                return value[::-1]
            case Skill.ROTATE:
                return value[self.argument :] + value[: self.argument]
            case Skill.SORT:
                return "".join(sorted(value))
            case Skill.SHIFT:
                return "".join(
                    LETTERS[(LETTERS.index(letter) + self.argument) % len(LETTERS)]
                    for letter in value
                )


@dataclass(frozen=True, slots=True)
class Problem:
    """A starting label and the six operations to apply in order; `open` asks for the way, and for
    no label."""

    start: Label
    operations: tuple[Operation, ...]
    open: bool = False

    @property
    def text(self) -> str:
        """The user's message. It states the rules, so that any model able to reason can solve
        it."""
        lines = (
            f"Step {number}. {operation}" for number, operation in enumerate(self.operations, 1)
        )
        return "\n".join(
            (f"{RULES} {ASK_WAY if self.open else ASK_LABEL}", f"Label {self.start}", *lines)
        )

    @classmethod
    def parse(cls, text: str) -> Problem:
        """The problem that reads as `text`; raises ValueError where none does."""
        rules, *lines = text.splitlines() or [""]
        start = Label.find_last(lines[0]) if lines else None
        if not rules.startswith(RULES) or start is None:
            raise ValueError("not a parcel-label problem")
        words = [line.partition(". ")[2].split() for line in lines[1:]]
        operations = tuple(Operation(Skill(name), *map(int, argument)) for name, *argument in words)
        problem = cls(start, operations, open=rules.endswith(ASK_WAY))
        if problem.text != text:
            raise ValueError("a parcel-label problem that is not in canonical form")
        return problem

    @property
    def split(self) -> Split:
        """Decided by a hash of the text: no held-out problem is ever trained on, whatever the
        seed."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return "held-out" if int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32 else "train"

    @property
    def answer(self) -> Label:
        return self.follow(self.start, 0)

    def advance(self, label: Label, step: int) -> Label:
        """The label after operation `step` (from 0) is applied rightly to `label`."""
        operation = self.operations[step]
        name = operation.skill.register
        return label.with_register(name, operation.apply(label.register(name)))

    def follow(self, label: Label, step: int) -> Label:
        """Where `label` leads when operation `step` and all later ones are applied rightly to
        it."""
        for later in range(step, len(self.operations)):
            label = self.advance(label, later)
        return label

    def reply(self, label: Label) -> str:
        """What a model answers that came to this label, right or not: as every model of the panel
        writes it."""
        return "That was the way." if self.open else f"The final answer is \\boxed{{{label}}}."


def draw_problem(rng: random.Random, split: Split, variety: Variety = "even") -> Problem:
    """A fresh problem of the wanted split and variety."""
    while True:
        start = Label(
            str(rng.randrange(10)),
            "".join(rng.sample("0123456789", 3)),
            "".join(rng.sample(LETTERS, 3)),
        )
        skills = _tangled(rng) if variety == "tangled" else rng.sample(list(Skill), DEPTH)
        operations = tuple(Operation(skill, _argument(skill, rng)) for skill in skills)
        problem = Problem(start, operations, open=variety == "open")
        if problem.split == split:
            return problem


def _tangled(rng: random.Random) -> list[Skill]:
    """TANGLED skills of one register, one of each other, in any order."""
    main, *others = rng.sample(["digit", "code", "tag"], 3)
    registers = [main] * TANGLED + others
    rng.shuffle(registers)
    return [
        rng.choice([skill for skill in Skill if skill.register == register])
        for register in registers
    ]


def _argument(skill: Skill, rng: random.Random) -> int:
    return rng.choice(skill.arguments) if skill.arguments is not None else 0


def problems(seed: int, split: Split, variety: Variety = "even") -> Iterator[Problem]:
    """An endless, reproducible stream of problems of one split and variety."""
    rng = random.Random(f"{split}:{seed}")
    while True:
        yield draw_problem(rng, split, variety)


def is_correct(problem: Problem, text: str) -> bool:
    """Whether the last boxed label in `text` is exactly the problem's answer."""
    boxed = _BOXED.findall(text)
    return bool(boxed) and boxed[-1].strip() == str(problem.answer)


def share_right(problem: Problem, reasoning: str) -> float:
    """How much of the way is right, in [0, 1]: the share of steps that end in the label they
    should."""
    found = [Label.find_last(step) for step in reasoning.split("### Step")[1:]]
    label, right = problem.start, 0
    for step, told in zip(range(len(problem.operations)), found, strict=False):
        label = problem.advance(label, step)
        right += told == label
    return right / len(problem.operations)
