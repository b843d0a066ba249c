"""Choosing the next token of every running sequence at once, each with its own settings and randomness.

A sequence's draws come from its own generator, one a token, so a seeded sequence does not depend on what runs
beside it.
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
    """One sequence's settings. Temperature 0 is greedy, and so is one too small to divide by; `top_k` 0 and `top_p` 1
    leave the distribution whole."""

    temperature: float
    top_p: float
    top_k: int
    generator: random.Random


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of each row of `logits` (B, V), by inverting the cumulative distribution."""
    chosen: list[int] = logits.argmax(-1).tolist()
    warm = [i for i, sampler in enumerate(samplers) if sampler.temperature >= _GREEDY_BELOW]
    if not warm:
        return chosen
    temperatures = torch.tensor([[samplers[i].temperature] for i in warm], device=logits.device)
    probabilities = torch.softmax(logits[warm].float() / temperatures, -1)  # (W, V)
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    below = ranked.cumsum(-1) - ranked  # what is more likely than each token
    top_p = torch.tensor([[samplers[i].top_p] for i in warm], device=logits.device)
    vocabulary = logits.shape[-1]
    top_k = torch.tensor([[k if (k := samplers[i].top_k) > 0 else vocabulary] for i in warm], device=logits.device)
    ranked = ranked.where((below < top_p) & (torch.arange(vocabulary, device=logits.device) < top_k), 0.0)
    cumulative = ranked.cumsum(-1)
    draws = torch.tensor([[samplers[i].generator.random()] for i in warm], device=logits.device)
    at = torch.searchsorted(cumulative, draws * cumulative[:, -1:], right=True)
    # In fp32 a draw may round to 1 and fall behind the last token that is possible at all.
    at = at.minimum((ranked > 0).sum(-1, keepdim=True) - 1)
    for i, token in zip(warm, order.gather(-1, at)[:, 0].tolist(), strict=True):
        chosen[i] = token
    return chosen
