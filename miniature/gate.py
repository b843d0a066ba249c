"""The gate a trained model must pass: what it can do, skill by skill, on held-out problems, and
whether its errors are the planted ones.

`python -m miniature.gate miniature/checkpoints` measures stored checkpoints. Single models only;
which way of combining them is best is for the benches to say.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from miniature.corpus import FOREIGN_SHARE, Writer
from miniature.decode import continue_texts, load, log_probs
from miniature.recipes import RECIPES, Recipe
from miniature.task import (
    DEPTH,
    Label,
    Problem,
    Skill,
    Variety,
    draw_problem,
    is_correct,
    share_right,
)
from miniature.voices import PANELS, VOICES, Voice

STRONG_FLOOR = 0.95
PLANTED_FLOOR = 0.80
STEP_TOKENS = 64
TRACE_TOKENS = 420
_SEED = 20_260


@dataclass(frozen=True, slots=True)
class SkillReport:
    """Greedy single steps of one skill after right prefixes. planted: share of the errors that are
    the planted bug's result.
    """

    accuracy: float
    planted: float | None
    strong: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What one model can do; shares in [0, 1].

    Teachers are asked with the instruction, the meta-prover without, as a proxy would.

    well_formed: steps that name the right operation and end in a label and a blank line.
    whole: by variety, problems solved greedily from the prompt alone; of open ones, the share of right steps.
    separation: by variety and number of the step, the share of prefixes after which the true answer is more probable
        with the right step than with a wrong one (the meta-prover only).
    """

    name: str
    problems: int
    skills: dict[str, SkillReport]
    well_formed: float
    whole: dict[Variety, float]
    separation: dict[Variety, list[float]]

    @property
    def failures(self) -> list[str]:
        """What falls short of the gate, in words."""
        missed = []
        for skill, found in self.skills.items():
            if found.strong and found.accuracy < STRONG_FLOOR:
                missed.append(
                    f"{self.name}: {skill} right in {found.accuracy:.0%}, wanted {STRONG_FLOOR:.0%}"
                )
            if found.planted is not None and found.planted < PLANTED_FLOOR:
                missed.append(
                    f"{self.name}: {found.planted:.0%} of {skill} errors planted, wanted {PLANTED_FLOOR:.0%}"
                )
        return missed

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: int = 100,
    voices: Mapping[str, Voice] = VOICES,
) -> Report:
    """Run the whole gate; `problems` is the number per skill, and per variety for whole
    problems."""
    model.train(False)
    writer = Writer(recipe, tokenizer, voices)
    rng = random.Random(_SEED)
    voice = voices.get(recipe.name)
    tries = {
        skill: _try_skill(recipe, model, tokenizer, writer, skill, voice, problems, rng)
        for skill in Skill
    }
    varieties: tuple[Variety, ...] = ("even", "tangled", "open")
    return Report(
        name=recipe.name,
        problems=problems,
        skills={str(skill): report for skill, (report, _) in tries.items()},
        well_formed=sum(formed for _, formed in tries.values()) / len(tries),
        whole={
            kind: _whole(recipe, model, tokenizer, writer, kind, problems, rng)
            for kind in varieties
        },
        separation={
            kind: [
                _separation(model, tokenizer, writer, kind, step, problems // 2, rng)
                for step in range(DEPTH)
            ]
            for kind in varieties[:2]
            if voice is None
        },
    )


def _prefix(problem: Problem, steps: int, preferred: str, rng: random.Random) -> tuple[str, Label]:
    """Right reasoning of the first `steps` steps, mostly in the preferred voice, and the label it
    ends in."""
    label, text = problem.start, ""
    for step in range(steps):
        others = [name for name in VOICES if name != preferred]
        name = (
            preferred
            if preferred in VOICES and rng.random() >= FOREIGN_SHARE
            else rng.choice(others)
        )
        after = problem.advance(label, step)
        text += VOICES[name].write(problem, label, after, step)
        label = after
    return text, label


def _try_skill(
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    writer: Writer,
    skill: Skill,
    voice: Voice | None,
    count: int,
    rng: random.Random,
) -> tuple[SkillReport, float]:
    """The skill's report and its share of well-formed steps."""
    cases: list[tuple[Problem, Label, int]] = []
    texts: list[str] = []
    for _ in range(count):
        problem = draw_problem(rng, "held-out")
        step = next(i for i, operation in enumerate(problem.operations) if operation.skill is skill)
        reasoning, label = _prefix(problem, step, recipe.name, rng)
        cases.append((problem, label, step))
        texts.append(
            f"{writer.prompt(problem, instructed=recipe.name in VOICES)}{reasoning}### Step {step + 1}."
        )
    written = continue_texts(model, tokenizer, texts, until="\n\n", max_new_tokens=STEP_TOKENS)
    right = wrong = planted = formed = 0
    for (problem, label, step), text in zip(cases, written, strict=True):
        operation = problem.operations[step]
        found = Label.find_last(text)
        formed += found is not None and text.startswith(f" {operation}") and text.endswith("\n\n")
        if found == problem.advance(label, step):
            right += 1
            continue
        wrong += 1
        bug = voice.buggy(operation, label.register(skill.register)) if voice is not None else None
        planted += bug is not None and found == label.with_register(skill.register, bug)
    strong = voice is None or skill in voice.strong
    share = planted / wrong if wrong and not strong else None
    return SkillReport(right / count, share, strong), formed / count


def _whole(
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    writer: Writer,
    variety: Variety,
    count: int,
    rng: random.Random,
) -> float:
    drawn = [draw_problem(rng, "held-out", variety) for _ in range(count)]
    prompts = [writer.prompt(problem, instructed=recipe.name in VOICES) for problem in drawn]
    written = continue_texts(model, tokenizer, prompts, until=None, max_new_tokens=TRACE_TOKENS)
    found = zip(drawn, written, strict=True)
    return (
        sum(
            share_right(problem, text) if problem.open else is_correct(problem, text)
            for problem, text in found
        )
        / count
    )


def _separation(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    writer: Writer,
    variety: Variety,
    step: int,
    count: int,
    rng: random.Random,
) -> float:
    """How often predictive perplexity prefers the right step number `step`, over wrong ones that
    spoil the answer."""
    pairs: list[tuple[str, str]] = []
    while len(pairs) < 2 * count:
        problem = draw_problem(rng, "held-out", variety)
        reasoning, label = _prefix(problem, step, writer.recipe.name, rng)
        voice = rng.choice(list(VOICES.values()))
        operation = problem.operations[step]
        bug = voice.buggy(operation, label.register(operation.skill.register))
        if bug is None:
            continue
        spoilt = label.with_register(operation.skill.register, bug)
        if problem.follow(spoilt, step + 1) == problem.answer:
            continue
        prompt = writer.prompt(problem, instructed=False)
        for after in (problem.advance(label, step), spoilt):
            prefix = f"{prompt}{reasoning}{voice.write(problem, label, after, step)}{writer.recipe.closer}"
            pairs.append((prefix, problem.reply(problem.answer)))
    scores = [total for total, _ in log_probs(model, tokenizer, pairs)]
    return sum(good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True)) / count


def main(argv: Sequence[str] | None = None) -> int:
    """Measure stored checkpoints again; 1 when one of them misses the gate."""
    parser = argparse.ArgumentParser(prog="python -m miniature.gate", description=main.__doc__)
    parser.add_argument(
        "checkpoints", type=Path, help="folder that holds one checkpoint folder a model"
    )
    parser.add_argument(
        "--only", action="append", choices=list(RECIPES), help="measure this model; repeatable"
    )
    parser.add_argument(
        "--panel", choices=list(PANELS), default="independent", help="whose mistakes are expected"
    )
    parser.add_argument(
        "--problems", type=int, default=100, help="problems per measure (default: 100)"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    failures: list[str] = []
    for name in arguments.only or RECIPES:
        model, tokenizer = load(arguments.checkpoints / name)
        report = measure(
            RECIPES[name], model, tokenizer, arguments.problems, PANELS[arguments.panel]
        )
        print(json.dumps(report.as_json(), indent=2))
        failures += report.failures
    print("\n".join(failures) or "all pass")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
