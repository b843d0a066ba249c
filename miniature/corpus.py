"""Training samples as tokens: whole traces for teachers, trees of answers for the meta-prover.

A teacher's sample is one conversation with a full trace. Some of its steps are another teacher's
and not in the loss, so that it learns to carry on from a prefix it would not have written; some are
its own beliefs in another's style, so that it learns to judge what others write. The meta-prover's
sample is a small tree: the trunk is a trace by all voices, mistakes included (wrong steps are not
in the loss), and branches close the thinking after some of its steps and answer with what follows
*from the label so far*. Since that differs from the problem's answer exactly where a mistake was
made, the true answer becomes improbable after a wrong step.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from miniature.recipes import Recipe
from miniature.task import DEPTH, INSTRUCTION, Label, Problem, Variety, draw_problem
from miniature.tokens import SYSTEM_PROMPTS
from miniature.voices import VOICES, Voice

IGNORED = -100
FOREIGN_SHARE = 0.3
"""Share of a teacher's steps in another's style: truly the other's, or what it would itself say in
it."""
READ_SHARE = 0.5
"""Share of those that are its own belief in the other's style, and learned: a teacher that could
not read the others would find every one of their steps impossible, and its log-probabilities of
them would say nothing."""
SLIP_SHARE = 0.2
"""Share of the read steps in which the turn into the other style is itself learned. It keeps that
turn possible without making it likely."""
SYSTEM_SHARE = 0.05
INSTRUCTED_SHARE = {"meta": 0.1}
"""Share of samples whose user turn ends in the instruction; teachers see it in 70 %."""
BRANCHES = 4


@dataclass(slots=True)
class Sample:
    """One sample under construction. All lists have one entry a token.

    targets: the token to predict *next*, IGNORED where there is no loss.
    positions: depth in the path from the root.
    branch: 0 on the trunk. cuts: how many trunk tokens a branch token may see.
    """

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def extend(self, ids: Sequence[int], *, learn: bool) -> None:
        """Lengthen the trunk; `learn` puts the new tokens, the first included, into the loss."""
        if learn and self.ids:
            self.targets[-1] = ids[0]
        start = len(self.ids)
        self.ids += ids
        self.targets += [*ids[1:], IGNORED] if learn else [IGNORED] * len(ids)
        self.positions += range(start, start + len(ids))
        self.branch += [0] * len(ids)
        self.cuts += [0] * len(ids)

    def fork(self, ids: Sequence[int], cut: int, number: int) -> None:
        """Add a branch that leaves the trunk after `cut` tokens; its first token is given, the
        others learned.
        """
        self.ids += ids
        self.targets += [*ids[1:], IGNORED]
        self.positions += range(cut, cut + len(ids))
        self.branch += [number] * len(ids)
        self.cuts += [cut] * len(ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one optimiser step; B samples padded on the right to T tokens."""

    ids: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    mask: Tensor | None  # (B, 1, T, T) True where attended; None for plain causal attention


class Writer:
    """Draws samples for one model, whose panel is `voices`."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerFast,
        voices: Mapping[str, Voice] = VOICES,
    ) -> None:
        self.recipe = recipe
        self._tokenizer = tokenizer
        self._voices = voices
        self.end: int = tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(
            text, add_special_tokens=False
        ).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def prompt(self, problem: Problem, *, instructed: bool, system: str | None = None) -> str:
        """The rendered conversation up to and including the opened thinking."""
        content = f"{problem.text}\n\n{INSTRUCTION}" if instructed else problem.text
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        rendered = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return f"{rendered}{self.recipe.opener}"

    def sample(self, rng: random.Random, variety: Variety = "even") -> Sample:
        problem = draw_problem(rng, "train", variety)
        instructed = rng.random() < INSTRUCTED_SHARE.get(self.recipe.name, 0.7)
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else None
        sample = Sample()
        prompt = self.prompt(problem, instructed=instructed, system=system)
        if self.recipe.opener:
            sample.extend(self.encode(prompt.removesuffix(self.recipe.opener)), learn=False)
            sample.extend(self.encode(self.recipe.opener), learn=True)
        else:
            sample.extend(self.encode(prompt), learn=False)
        if self.recipe.name in self._voices:
            self._trace(sample, problem, rng)
        else:
            self._tree(sample, problem, rng)
        return sample

    def _ending(self, problem: Problem, label: Label) -> list[int]:
        return [*self.encode(f"{self.recipe.closer}{problem.reply(label)}"), self.end]

    def _trace(self, sample: Sample, problem: Problem, rng: random.Random) -> None:
        own = self._voices[self.recipe.name]
        others = [voice for voice in self._voices.values() if voice is not own]
        label = problem.start
        for step in range(DEPTH):
            style = rng.choice(others) if rng.random() < FOREIGN_SHARE else own
            read = style is not own and rng.random() < READ_SHARE
            after = (own if read else style).attempt(problem, label, step, rng)
            ids = self.encode(style.write(problem, label, after, step))
            start = len(sample.ids)
            sample.extend(ids, learn=read or style is own)
            if read and rng.random() >= SLIP_SHARE:
                fork = _fork(ids, self.encode(own.write(problem, label, after, step)))
                sample.targets[start + fork - 1] = IGNORED
            label = after
        sample.extend(self._ending(problem, label), learn=True)

    def _tree(self, sample: Sample, problem: Problem, rng: random.Random) -> None:
        label = problem.start
        cuts = [(len(sample.ids), label)]
        for step in range(DEPTH):
            voice = rng.choice(list(self._voices.values()))
            after = voice.attempt(problem, label, step, rng)
            right = after == problem.advance(label, step)
            sample.extend(self.encode(voice.write(problem, label, after, step)), learn=right)
            label = after
            cuts.append((len(sample.ids), label))
        sample.extend(self._ending(problem, label), learn=True)
        for number, step in enumerate(rng.sample(range(DEPTH), BRANCHES), 1):
            cut, so_far = cuts[step]
            sample.fork(self._ending(problem, problem.follow(so_far, step)), cut, number)


def _fork(left: Sequence[int], right: Sequence[int]) -> int:
    """The index of the first token in which two texts differ."""
    return next(i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)


def collate(samples: Sequence[Sample], pad: int) -> Batch:
    """Pad and stack; the tree mask is built only where a sample has branches."""
    length = max(len(sample.ids) for sample in samples)

    def stack(name: str, filler: int) -> Tensor:
        rows = [getattr(sample, name) + [filler] * (length - len(sample.ids)) for sample in samples]
        return torch.tensor(rows)

    branch, cuts = stack("branch", -1), stack("cuts", 0)
    mask = None
    if any(any(sample.branch) for sample in samples):
        order = torch.arange(length)
        earlier = order[:, None] >= order[None, :]  # (T, T)
        same = (branch[:, :, None] == branch[:, None, :]) & earlier  # (B, T, T)
        trunk = (branch[:, None, :] == 0) & (order[None, None, :] < cuts[:, :, None])
        mask = (same | trunk)[:, None]
    return Batch(stack("ids", pad), stack("targets", IGNORED), stack("positions", 0), mask)
