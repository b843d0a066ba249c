"""The keys and values of running sequences: one row per sequence, the filled rows always the first
ones.

Implements transformers' cache interface, so any full-attention model writes into the rows by
itself. Rows are filled from the prefix cache and copied back into it. Holds no tokens and no
scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import Cache, CacheLayerMixin

from runtime.prefix_cache import Memory, Node
from runtime.shapes import rounded


class Rows:
    """Rows of keys and values, (rows, heads, length, head_dim) a layer, and how full each row is.

    Memory is taken as it is needed, doubling, so that a long context costs nothing before it is
    used.
    """

    def __init__(self, layers: int, rows: int, length: int) -> None:
        self._limits = (rows, length)
        self._layers = [_Layer(length) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.lengths: list[int] = []

    def append(self, prefixes: Sequence[Node]) -> None:
        """New rows behind the others, each filled with a cached prefix; the cache's root fills
        nothing."""
        first = len(self.lengths)
        self.lengths.extend(node.depth for node in prefixes)
        self._reserve(len(self.lengths), max(self.lengths))
        for row, prefix in enumerate(prefixes, first):
            for node in prefix.upwards():
                assert node.memory is not None
                for layer, (keys, values) in zip(self._layers, node.memory.kv, strict=True):
                    layer.fill(row, node.start, keys, values)

    def memory(self, row: int, start: int) -> Memory:
        """A copy of what a row holds from a position on."""
        stop = self.lengths[row]
        return Memory(torch.stack([layer.held(row, start, stop) for layer in self._layers]))

    def reading(self, first: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make room for more tokens (B, S padded on the right) in the rows from `first` on, where
        each row ends.

        The tokens (B', S') padded to sizes seen often, their positions (B', S'), and their
        attention mask (B', 1, S', T), true where seen. Padding goes to unused
        slots.
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
            layer.window = (
                torch.arange(first, first + count, device=device)[:, None],
                positions,
                longest,
            )
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
        rows, length = (
            min(_doubled(need), most)
            for need, most in zip((rows, length), self._limits, strict=True)
        )
        for layer in self._layers:
            layer.reserve(rows, length)


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's rows, in the shape transformers asks a cache layer to have.

    `window` says where the next tokens go: rows (B, 1), positions (B, S), and how long the longest
    row then is.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._longest = longest
        self._room = (0, 0)
        self.window: tuple[Tensor, Tensor, int] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, length = self._room
        self.keys = key_states.new_zeros(rows, key_states.shape[1], length, key_states.shape[3])
        self.values = value_states.new_zeros(
            rows, value_states.shape[1], length, value_states.shape[3]
        )
        self.is_initialized = True

    def reserve(self, rows: int, length: int) -> None:
        """Have at least this many rows of this length."""
        had = self._room
        self._room = (max(rows, had[0]), max(length, had[1]))
        if self.is_initialized and self._room != had:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = (
                _grown(self.keys, *self._room),
                _grown(self.values, *self._room),
            )

    def held(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of a row's keys and values at the positions from `start` to `stop` (exclusive):
        (2, H, T, D)."""
        assert self.keys is not None and self.values is not None
        return torch.stack((self.keys[row, :, start:stop], self.values[row, :, start:stop]))

    def fill(self, row: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Write keys and values (H, T, D) into a row from a position on."""
        assert self.keys is not None and self.values is not None
        self.keys[row, :, start : start + keys.shape[1]] = keys
        self.values[row, :, start : start + values.shape[1]] = values

    def move(self, source: int, target: int, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write tokens, (B, H, S, D), where the window says; what its rows then hold, (B, H, T,
        D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None and self.window is not None
        rows, positions, filled = self.window
        self.keys[rows, :, positions] = key_states.transpose(1, 2)
        self.values[rows, :, positions] = value_states.transpose(1, 2)
        first, count = int(rows[0, 0]), len(rows)
        return self.keys[first : first + count, :, :filled], self.values[
            first : first + count, :, :filled
        ]

    def get_seq_length(self, *args: Any) -> int:
        return self.window[2] - self.window[1].shape[1] if self.window is not None else 0

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.window[2] if self.window is not None else 0, 0

    def get_max_length(self) -> int:
        return self._longest


def _doubled(need: int) -> int:
    """The next power of two."""
    return 1 << max(need - 1, 0).bit_length()


def _grown(old: Tensor, rows: int, length: int) -> Tensor:
    """A larger tensor of rows (R, H, T, D) that begins with the old one."""
    had_rows, heads, had_length, width = old.shape
    new = old.new_zeros(max(rows, had_rows), heads, max(length, had_length), width)
    new[:had_rows, :, :had_length] = old
    return new
