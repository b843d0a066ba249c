"""The keys and values of running sequences: one row a sequence, the filled rows always the first ones.

Speaks transformers' cache interface, so any full-attention model writes into the rows by itself. What sequences that
have ended leave behind is kept on a shelf, and a new one that begins alike does not read its beginning again. Knows
nothing of what a sequence is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin

from runtime.shapes import rounded

_PIECE = 16


@dataclass(frozen=True, slots=True)
class Known:
    """A sequence that was read: its tokens, and each layer's keys and values, (heads, length, head_dim) or longer."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for pair in self.layers for part in pair)


class Shelf:
    """Sequences read before. The longest unused are given up when all take more than `budget` bytes.

    Beginnings are looked up by every _PIECE tokens, each the latest sequence's that has it.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, ...], Known] = OrderedDict()
        self._beginnings: dict[tuple[int, ...], Known] = {}

    def put(self, known: Known) -> None:
        """Keep a sequence."""
        if known.tokens in self._kept:
            self._drop(known.tokens)
        self._kept[known.tokens] = known
        self._bytes += known.bytes
        self._beginnings.update((beginning, known) for beginning in _beginnings(known.tokens))
        while self._bytes > self._budget:
            self._drop(next(iter(self._kept)))

    def find(self, tokens: tuple[int, ...]) -> tuple[Known | None, int]:
        """What begins like `tokens`, and how many tokens they have in common."""
        for beginning in reversed(_beginnings(tokens)):
            known = self._beginnings.get(beginning)
            if known is not None:
                self._kept.move_to_end(known.tokens)
                return known, _common(known.tokens, tokens)
        return None, 0

    def _drop(self, tokens: tuple[int, ...]) -> None:
        known = self._kept.pop(tokens)
        self._bytes -= known.bytes
        for beginning in _beginnings(tokens):
            if self._beginnings.get(beginning) is known:
                del self._beginnings[beginning]


def _beginnings(tokens: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tokens[:end] for end in range(_PIECE, len(tokens) + 1, _PIECE)]


class Rows:
    """Rows of keys and values, (rows, heads, length, head_dim) a layer, and how full each row is.

    Memory is taken as it is needed, doubling, so that a long context costs nothing before it is used.
    """

    def __init__(self, layers: int, rows: int, length: int) -> None:
        self._limits = (rows, length)
        self._layers = [_Layer(length) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.lengths: list[int] = []

    def append(self, begun: Sequence[tuple[Known | None, int]]) -> None:
        """New rows behind the others, each beginning with so many tokens of what is known."""
        first = len(self.lengths)
        self.lengths.extend(length for _, length in begun)
        self._reserve(len(self.lengths), max(self.lengths))
        for i, (known, length) in enumerate(begun):
            for layer, (keys, values) in zip(self._layers, known.layers if known else (), strict=False):
                layer.fill(first + i, keys[:, :length], values[:, :length])

    def known(self, row: int, tokens: Sequence[int]) -> Known:
        """A copy of what a row holds, of a sequence that begins with `tokens`."""
        length = self.lengths[row]
        return Known(tuple(tokens[:length]), tuple(layer.held(row, length) for layer in self._layers))

    def reading(self, first: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make room for more tokens (B, S padded on the right) in the rows from `first` on, where each row ends.

        The tokens (B', S') padded to sizes seen often, their positions (B', S'), and their attention mask
        (B', 1, S', T), true where seen. What is padding is written where no sequence is, or not yet.
        """
        device = tokens.device
        count, more = len(tokens), tokens.shape[1]
        padding = (0, rounded(more) - more, 0, min(rounded(count), self._limits[0] - first) - count)
        tokens = functional.pad(tokens, padding)
        count, more = len(tokens), tokens.shape[1]
        lengths = self.lengths[first : first + count]
        starts = torch.tensor(lengths + [0] * (count - len(lengths)), device=device)
        positions = starts[:, None] + torch.arange(more, device=device)
        longest = min(max(lengths) + more, self._limits[1])
        self._reserve(first + count, longest)
        mask = torch.arange(longest, device=device)[None, None] <= positions[:, :, None]
        # Padding may lie beyond the end, where nothing is ever seen.
        positions = positions.clamp(max=self._limits[1] - 1)
        for layer in self._layers:
            layer.window = (torch.arange(first, first + count, device=device)[:, None], positions, longest)
        return tokens, positions, mask[:, None]

    def grow(self, first: int, counts: Sequence[int]) -> None:
        """The rows from `first` on have taken so many tokens each."""
        for row, count in enumerate(counts, first):
            self.lengths[row] += count

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def _reserve(self, rows: int, length: int) -> None:
        rows, length = (min(_doubled(need), most) for need, most in zip((rows, length), self._limits, strict=True))
        for layer in self._layers:
            layer.reserve(rows, length)


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's rows, in the shape transformers asks a cache layer to have.

    `window` says where the next tokens go: rows (B, 1), positions (B, S), and how long the longest row then is.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._longest = longest
        self._room = (0, 0)
        self.window: tuple[Tensor, Tensor, int] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, length = self._room
        self.keys = key_states.new_zeros(rows, key_states.shape[1], length, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], length, value_states.shape[3])
        self.is_initialized = True

    def reserve(self, rows: int, length: int) -> None:
        """Have at least this many rows of this length."""
        had = self._room
        self._room = (max(rows, had[0]), max(length, had[1]))
        if self.is_initialized and self._room != had:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = _grown(self.keys, *self._room), _grown(self.values, *self._room)

    def held(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys[row, :, :length].clone(), self.values[row, :, :length].clone()

    def fill(self, row: int, keys: Tensor, values: Tensor) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[row, :, : keys.shape[1]] = keys
        self.values[row, :, : values.shape[1]] = values

    def move(self, source: int, target: int, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write tokens, (B, H, S, D), where the window says; what its rows then hold, (B, H, T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None and self.window is not None
        rows, positions, filled = self.window
        self.keys[rows, :, positions] = key_states.transpose(1, 2)
        self.values[rows, :, positions] = value_states.transpose(1, 2)
        first, count = int(rows[0, 0]), len(rows)
        return self.keys[first : first + count, :, :filled], self.values[first : first + count, :, :filled]

    def get_seq_length(self, *args: Any) -> int:
        return self.window[2] - self.window[1].shape[1] if self.window is not None else 0

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.window[2] if self.window is not None else 0, 0

    def get_max_length(self) -> int:
        return self._longest


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common at the beginning."""
    return bisect_left(range(min(len(left), len(right))), True, key=lambda n: left[: n + 1] != right[: n + 1])


def _doubled(need: int) -> int:
    """The next power of two."""
    return 1 << max(need - 1, 0).bit_length()


def _grown(old: Tensor, rows: int, length: int) -> Tensor:
    """A larger tensor of rows (R, H, T, D) that begins with the old one."""
    had_rows, heads, had_length, width = old.shape
    new = old.new_zeros(max(rows, had_rows), heads, max(length, had_length), width)
    new[:had_rows, :, :had_length] = old
    return new
