"""Choosing the next token of every running sequence at once, each with its own settings and
randomness.

A sequence's draws come from its own generator, one a token, so a seeded sequence does not depend on
what runs beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GREEDY_BELOW = 1e-5
"""Logits divided by less may overflow fp32; the distribution is one token long before."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sequence's settings. Temperature 0 is greedy, and so is one too small to divide by;
    `top_k` 0 and `top_p` 1 leave the distribution whole."""

    temperature: float
    top_p: float
    top_k: int
    generator: random.Random

    @classmethod
    def seeded(cls, temperature: float, top_p: float, top_k: int, seed: int | None) -> Sampler:
        """A sampler with a generator of its own; without a seed its randomness is the system's."""
        return cls(temperature, top_p, max(top_k, 0), random.Random(seed))

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off the distribution."""
        return self.top_p >= 1 and self.top_k <= 0


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row of `logits` (B, V), by inverting the cumulative distribution."""
    chosen: list[int] = logits.argmax(-1).tolist()
    warm = [i for i, sampler in enumerate(samplers) if sampler.temperature >= _GREEDY_BELOW]
    for some in (
        [i for i in warm if samplers[i].whole],
        [i for i in warm if not samplers[i].whole],
    ):
        if some:
            for i, token in zip(
                some, _drawn(logits[some].float(), [samplers[i] for i in some]), strict=True
            ):
                chosen[i] = token
    return chosen


def _drawn(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Warm rows, all of whole distributions or none; what is whole need not be sorted."""
    temperatures = torch.tensor(
        [[sampler.temperature] for sampler in samplers], device=logits.device
    )
    probabilities = torch.softmax(logits / temperatures, -1)  # (W, V)
    if samplers[0].whole:
        return _inverted(probabilities, samplers).tolist()
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    below = ranked.cumsum(-1) - ranked  # what is more likely than each token
    top_p = torch.tensor([[sampler.top_p] for sampler in samplers], device=logits.device)
    vocabulary = logits.shape[-1]
    top_k = torch.tensor(
        [[k if (k := sampler.top_k) > 0 else vocabulary] for sampler in samplers],
        device=logits.device,
    )
    ranked = ranked.where(
        (below < top_p) & (torch.arange(vocabulary, device=logits.device) < top_k), 0.0
    )
    return order.gather(-1, _inverted(ranked, samplers)[:, None])[:, 0].tolist()


def _inverted(weights: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Where each row's next draw falls among its weights (W, V): (W,)."""
    cumulative = weights.cumsum(-1)
    draws = torch.tensor(
        [[sampler.generator.random()] for sampler in samplers], device=weights.device
    )
    at = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)[:, 0]
    # In fp32 a draw may round to 1 and fall behind the last token that is possible at all.
    possible = torch.arange(1, weights.shape[-1] + 1, device=weights.device) * (weights > 0)
    return at.minimum(possible.amax(-1) - 1)
