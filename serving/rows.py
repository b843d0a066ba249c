"""The keys and values of running sequences: one row a sequence, the filled rows always the first ones.

Speaks transformers' cache interface, so any full-attention model writes into the rows by itself. Knows nothing of
what a sequence is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin


class Rows:
    """Rows of keys and values, (rows, heads, length, head_dim) a layer, and how full each row is.

    Memory is taken as it is needed, doubling, so that a long context costs nothing before it is used.
    """

    def __init__(self, layers: int, rows: int, length: int) -> None:
        self._limits = (rows, length)
        self._layers = [_Layer(length) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.lengths: list[int] = []

    def append(self, past: DynamicCache, lengths: Sequence[int]) -> None:
        """Copy freshly read prompts into new rows."""
        first = len(self.lengths)
        self._reserve(first + len(lengths), max(lengths) + 1, past.layers)
        for layer, read in zip(self._layers, past.layers, strict=True):
            layer.fill(first, read)
        self.lengths.extend(lengths)
        self._tell()

    def reserve(self) -> None:
        """Make room for one more token in every row."""
        self._reserve(len(self.lengths), max(self.lengths) + 1, self._layers)

    def _reserve(self, rows: int, length: int, like: Sequence[Any]) -> None:
        rows, length = (min(_doubled(need), most) for need, most in zip((rows, length), self._limits, strict=True))
        for layer, model in zip(self._layers, like, strict=True):
            layer.reserve(rows, length, model.keys, model.values)

    def next(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions (B, 1) of the tokens about to be read, and their attention mask (B, 1, 1, T), true where seen."""
        lengths = torch.tensor(self.lengths, device=device)
        mask = torch.arange(max(self.lengths) + 1, device=device)[None] <= lengths[:, None]
        return lengths[:, None], mask[:, None, None]

    def grow(self) -> None:
        """Every row has taken one token."""
        self.lengths = [length + 1 for length in self.lengths]
        self._tell()

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._tell()

    def _tell(self) -> None:
        for layer in self._layers:
            layer.lengths = self.lengths


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's rows, in the shape transformers asks a cache layer to have."""

    def __init__(self, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._longest = longest
        self.lengths: list[int] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros(0, key_states.shape[1], 0, key_states.shape[3])
        self.values = value_states.new_zeros(0, value_states.shape[1], 0, value_states.shape[3])
        self.is_initialized = True

    def reserve(self, rows: int, length: int, keys: Tensor, values: Tensor) -> None:
        """Have at least this many rows of this length; `keys` and `values` tell heads, width and type."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        if rows > self.keys.shape[0] or length > self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys, rows, length), _grown(self.values, rows, length)

    def fill(self, first: int, read: Any) -> None:
        batch, _, length, _ = read.keys.shape
        assert self.keys is not None and self.values is not None
        self.keys[first : first + batch, :, :length] = read.keys
        self.values[first : first + batch, :, :length] = read.values

    def move(self, source: int, target: int, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row, (B, H, 1, D), where each row ends; the filled part of all rows."""
        assert self.keys is not None and self.values is not None
        batch = len(self.lengths)
        rows = torch.arange(batch, device=key_states.device)
        ends = torch.tensor(self.lengths, device=key_states.device)
        self.keys[rows, :, ends] = key_states[:, :, 0]
        self.values[rows, :, ends] = value_states[:, :, 0]
        filled = max(self.lengths) + 1
        return self.keys[:batch, :, :filled], self.values[:batch, :, :filled]

    def get_seq_length(self, *args: Any) -> int:
        return max(self.lengths, default=0)

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.get_seq_length() + 1, 0

    def get_max_length(self) -> int:
        return self._longest


def _doubled(need: int) -> int:
    """The next power of two."""
    return 1 << (need - 1).bit_length()


def _grown(old: Tensor, rows: int, length: int) -> Tensor:
    """A larger tensor of rows (R, H, T, D) that begins with the old one."""
    had_rows, heads, had_length, width = old.shape
    new = old.new_zeros(max(rows, had_rows), heads, max(length, had_length), width)
    new[:had_rows, :, :had_length] = old
    return new
