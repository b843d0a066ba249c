"""Drawing tokens: greedy, nucleus, and the edges of fp32."""

from __future__ import annotations

import random

import pytest
import torch

from runtime.sampling import Sampler, draw

IMPOSSIBLE = -torch.inf
LOGITS = torch.tensor([[3.0, 5.0, 1.0, IMPOSSIBLE, 0.0]])  # by rank: 1, 0, 2, 4, and never 3


class Always(random.Random):
    """A generator that always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    def random(self) -> float:
        return self._number


LARGEST = 1 - 2**-53  # what `random` can draw at most; fp32 rounds it to 1


@pytest.mark.parametrize(
    ("top_p", "top_k", "last"), [(1.0, 0, 4), (0.5, 0, 1), (0.9, 0, 0), (1.0, 2, 0), (1.0, 9, 4)]
)
def test_the_largest_draw_takes_the_last_token_that_is_allowed(
    top_p: float, top_k: int, last: int
) -> None:
    assert draw(LOGITS, [Sampler(1.0, top_p, top_k, Always(LARGEST))]) == [last]


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-40, 1e-10, 1e-4])
def test_a_vanishing_temperature_is_greedy(temperature: float) -> None:
    assert draw(LOGITS, [Sampler(temperature, 1.0, 0, Always(0.5))]) == [1]


def test_samples_are_as_frequent_as_the_softmax_says() -> None:
    samplers = [Sampler(2.0, 1.0, 0, random.Random(seed)) for seed in range(4000)]
    drawn = torch.tensor(draw(LOGITS.expand(4000, -1), samplers))
    seen = torch.bincount(drawn, minlength=5) / 4000
    assert torch.allclose(seen, torch.softmax(LOGITS[0] / 2.0, -1), atol=0.03)


def test_each_row_follows_its_own_settings() -> None:
    samplers = [
        Sampler(0.0, 1.0, 0, Always(LARGEST)),
        Sampler(1.0, 1.0, 0, Always(LARGEST)),
        Sampler(1.0, 1.0, 3, Always(LARGEST)),
        Sampler(1.0, 1.0, 0, Always(0.0)),
    ]
    assert draw(LOGITS.expand(4, -1), samplers) == [1, 4, 2, 0]
