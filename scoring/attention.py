"""Attention over a tree of new tokens on top of cached prefixes, in one forward of an unchanged
transformers model.

The new tokens of all requests are packed into one row, in depth-first order: what descends from a
run of tokens is then one slice of queries. Attention is computed run by run, each against all the
queries below it at once, and merged by log-sum-exp (cascade attention; the split of a softmax as in
FlashAttention, arXiv 2205.14135). No mask over queries x keys is built, no cached prefix is read
more than once a layer, and no padding is computed. Many small trees go through one masked attention
instead, where launching many small ones would cost more than it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from runtime.prefix_cache import Memory, Node
from runtime.shapes import rounded

NAME = "cord_tree"
"""What to set a model's attention implementation to. It then needs `plan=` in each forward."""

CALL_PAIRS = 1 << 14
"""What one attention of the cascade costs more than its own pairs, in (query, key) pairs. Measured
on CPU."""

_COPY_PAIRS = 16
"""What copying a key into the batch counts at least, in pairs: few queries must not have long
prefixes copied each."""

MATH_PAIRS = 1 << 22
"""How many (query, key) pairs a head are scored at a time where no fused kernel gives the
log-sum-exp."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """A chain of cached runs, and the slice of queries that sees all of it."""

    queries: slice
    runs: tuple[Memory, ...]

    def of(self, layer: int) -> Tensor:
        """Keys and values of one layer: (2, H, T, D)."""
        parts = [memory.kv[layer] for memory in self.runs]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    @property
    def length(self) -> int:
        return sum(memory.kv.shape[3] for memory in self.runs)


@dataclass(frozen=True, slots=True)
class Dense:
    """A forest as one batch: P rows of up to N queries and T keys, padded.

    queries (P, N) are packed tokens; keys (P, T) count all trunks' tokens, then the packed ones;
    mask (P, 1, N, T) is added to the logits: 0 where a query attends to a key; back (packed
    tokens,) is where each is among the P * N.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor
    back: Tensor


@dataclass(slots=True)
class Plan:
    """A forest of new runs over cached trunks, as one row of N packed tokens, with room for their
    keys and values."""

    nodes: list[Node] = field(default_factory=list)
    runs: list[slice] = field(
        default_factory=list
    )  # each new run's own tokens, in the order of `nodes`
    below: list[slice] = field(default_factory=list)  # what descends from it, itself left out
    trunks: list[Trunk] = field(default_factory=list)
    tops: list[tuple[slice, int]] = field(
        default_factory=list
    )  # what hangs on cached runs, and how long these are
    layers: list[Tensor] = field(default_factory=list)  # (2, H, N, D) each, as they are computed
    size: int = 0
    small: bool = True
    _dense: Dense | None = None

    @classmethod
    def over(cls, root: Node, new: Sequence[Node]) -> Plan:
        """Plan the forward of nodes without memory, whose ancestors are cached or among them."""
        marked: dict[Node, list[Node]] = {}
        for node in new:
            child = node
            while child.parent is not None:
                siblings = marked.setdefault(child.parent, [])
                if child in siblings:
                    break
                siblings.append(child)
                child = child.parent
        plan = cls()
        for child in marked.get(root, ()):
            plan._visit(child, marked)
        plan.small = plan._is_small()
        return plan

    def _visit(self, node: Node, marked: dict[Node, list[Node]]) -> None:
        if node.memory is None:
            first = self.size
            self._new(node, marked)
            self.tops.append((slice(first, self.size), node.start))
            return
        chain = [node.memory]
        # Runs that nothing branches off from are one trunk.
        while len(marked[node]) == 1 and (only := marked[node][0]).memory is not None:
            node = only
            chain.append(only.memory)
        first = self.size
        for child in marked[node]:
            self._visit(child, marked)
        self.trunks.append(Trunk(slice(first, self.size), tuple(chain)))

    def _new(self, node: Node, marked: dict[Node, list[Node]]) -> None:
        at = len(self.nodes)
        own = slice(self.size, self.size + len(node.tokens))
        self.nodes.append(node)
        self.runs.append(own)
        self.below.append(own)
        self.size = own.stop
        for child in marked.get(node, ()):
            self._new(child, marked)
        self.below[at] = slice(own.stop, self.size)

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and positions (each token's depth in its path), padded to a size often seen:
        (1, N or more)."""
        padding = [0] * (rounded(self.size) - self.size)
        ids = [token for node in self.nodes for token in node.tokens] + padding
        positions = [p for node in self.nodes for p in range(node.start, node.depth)] + padding
        return torch.tensor([ids], device=device), torch.tensor([positions], device=device)

    def memories(self, hidden: Tensor) -> list[Memory]:
        """What was computed for each new node, copied out of the packed `hidden` (N, E) and
        layers."""
        return [
            Memory(torch.stack([layer[:, :, own] for layer in self.layers]), hidden[own].clone())
            for own in self.runs
        ]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One layer's attention: `query` (Hq, N, D), `key` and `value` (Hkv, N, D); returns (Hq, N,
        D).

        Padding behind the N attends to nothing and comes out as zeros.
        """
        layer, padding = len(self.layers), query.shape[1] - self.size
        query = query[:, : self.size]
        self.layers.append(torch.stack((key[:, : self.size], value[:, : self.size])))
        found = (
            self._at_once(layer, query, scale) if self.small else self._cascade(layer, query, scale)
        )
        return functional.pad(found, (0, 0, 0, padding))

    def _is_small(self) -> bool:
        """Whether one padded, masked attention is cheaper than many of just what is needed."""
        queries = max(own.stop - own.start for own, _ in self.tops)
        keys = max(own.stop - own.start + above for own, above in self.tops)
        calls = (
            len(self.runs)
            + sum(below.start < below.stop for below in self.below)
            + len(self.trunks)
        )
        return bool(len(self.tops) * max(queries, _COPY_PAIRS) * keys <= CALL_PAIRS * calls)

    def _cascade(self, layer: int, query: Tensor, scale: float) -> Tensor:
        new = self.layers[layer]
        out = torch.empty_like(
            query, dtype=torch.float32
        )  # merged many times: half precision would add up
        weight = torch.empty(
            query.shape[:2], dtype=torch.float32, device=query.device
        )  # log-sum-exp so far
        for own in self.runs:
            out[:, own], weight[:, own] = run_attention(
                query[:, own], new[:, :, own], scale, causal=True
            )
        for own, below in zip(self.runs, self.below, strict=True):
            if below.start < below.stop:
                _merge(
                    out,
                    weight,
                    below,
                    *run_attention(query[:, below], new[:, :, own], scale, causal=False),
                )
        for trunk in self.trunks:
            seen = query[:, trunk.queries]
            _merge(
                out,
                weight,
                trunk.queries,
                *run_attention(seen, trunk.of(layer), scale, causal=False),
            )
        return out.to(query.dtype)

    def _at_once(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """One masked attention, in which what is cached is read by everything that hangs on it."""
        dense = self._dense = self._dense or self._laid_out(query.device, query.dtype)
        memories = [memory.kv[layer] for trunk in self.trunks for memory in trunk.runs]
        kv = torch.cat([*memories, self.layers[layer]], dim=2)  # (2, Hkv, known + packed tokens, D)
        # A token's keys and values lie together while they are gathered, which is several times
        # faster.
        rows = functional.embedding(
            dense.keys, kv.permute(2, 0, 1, 3).flatten(1)
        )  # (P, T, 2 * Hkv * D)
        key, value = rows.view(*dense.keys.shape, 2, kv.shape[1], kv.shape[3]).permute(
            2, 0, 3, 1, 4
        )
        found = functional.scaled_dot_product_attention(
            query[:, dense.queries].transpose(0, 1),
            key,
            value,
            dense.mask,
            scale=scale,
            enable_gqa=True,
        )  # (P, Hq, N, D)
        return found.transpose(0, 1).flatten(1, 2)[:, dense.back]

    def _laid_out(self, device: torch.device, dtype: torch.dtype) -> Dense:
        """A key is seen by the queries that descend from it: a slice, from its own token on or the
        trunk's."""
        lengths = [trunk.length for trunk in self.trunks]
        own = [run.stop - run.start for run in self.runs]
        # Of each key, the queries that see it: (known + size,) both.
        first = torch.cat(
            [
                _spread([trunk.queries.start for trunk in self.trunks], lengths),
                torch.arange(self.size),
            ]
        )
        ends = [
            *(trunk.queries.stop for trunk in self.trunks),
            *(below.stop for below in self.below),
        ]
        last = _spread(ends, lengths + own)
        rows = [torch.arange(own.start, own.stop) for own, _ in self.tops]
        spans = torch.tensor([(own.start, own.stop) for own, _ in self.tops])
        read = (first < spans[:, 1:]) & (last > spans[:, :1])  # (P, known + size)
        counts = read.sum(1)
        queries = pad_sequence(rows, batch_first=True)
        keys = pad_sequence(
            list(read.nonzero()[:, 1].tensor_split(counts.cumsum(0)[:-1])), batch_first=True
        )
        real = torch.arange(keys.shape[1]) < counts[:, None]
        mask = (first[keys][:, None] <= queries[..., None]) & (
            queries[..., None] < last[keys][:, None]
        )
        mask &= real[:, None]
        width = queries.shape[1]
        back = torch.cat([i * width + torch.arange(len(row)) for i, row in enumerate(rows)])
        # Padded queries attend to nothing, and must not come out as nan: the least number instead
        # of -inf.
        added = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return Dense(
            queries.to(device), keys.to(device), added[:, None].to(device), back.to(device)
        )


def _spread(values: list[int], counts: list[int]) -> Tensor:
    """Each value as often as it counts."""
    return torch.tensor(values, dtype=torch.long).repeat_interleave(
        torch.tensor(counts, dtype=torch.long)
    )


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The entry for transformers: `query` (1, Hq, N, D), `key` and `value` (1, Hkv, N, D); gives
    (1, N, Hq, D)."""
    plan: Plan = kwargs["plan"]
    scale = kwargs.get("scaling")
    found = plan.attend(
        query[0], key[0], value[0], query.shape[-1] ** -0.5 if scale is None else float(scale)
    )
    return found.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, tree_attention)


def _merge(out: Tensor, weight: Tensor, at: slice, other: Tensor, other_weight: Tensor) -> None:
    """Join two softmaxes over disjoint keys, in place: each counts by its share of the sum of
    exponentials."""
    total = torch.logaddexp(weight[:, at], other_weight)
    mine, theirs = (weight[:, at] - total).exp(), (other_weight - total).exp()
    out[:, at] = out[:, at] * mine[..., None] + other * theirs[..., None]
    weight[:, at] = total


def run_attention(
    query: Tensor, kv: Tensor, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention of `query` (Hq, S, D) over one run `kv` (2, Hkv, T, D), with its log-sum-exp (Hq,
    S) in fp32."""
    key, value = kv[0], kv[1]
    heads, length, width = query.shape
    groups = heads // key.shape[0]
    kernel = kernel_for(query)
    if causal:
        key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
        return kernel(query, key, value, scale, True)
    # Without causality the order of queries does not matter: heads that share keys become queries
    # of one head.
    folded = query.reshape(key.shape[0], groups * length, width)
    out, weight = kernel(folded, key, value, scale, False)
    return out.reshape(heads, length, width), weight.reshape(heads, length)


_Kernel = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]


def kernel_for(query: Tensor) -> _Kernel:
    """The fused kernel of this device, where PyTorch has one that returns the log-sum-exp."""
    if query.device.type == "cpu" and hasattr(
        torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"
    ):
        return _flash_cpu
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.device.type == "cuda" and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        return _flash_cuda
    return by_formula


def _flash_cpu(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None], key[None], value[None], 0.0, causal, scale=scale
    )
    return out[0], weight[0]


def _flash_cuda(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    out, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query[None], key[None], value[None], 0.0, causal, scale=scale
    )
    return out[0], weight[0]


def by_formula(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """By the formula, a slice of queries at a time."""
    step = max(1, MATH_PAIRS // key.shape[1])
    parts = []
    for first in range(0, query.shape[1], step):
        some = query[:, first : first + step]
        logits = (some @ key.transpose(1, 2)).float() * scale  # (H, S, T)
        if causal:
            seen = torch.arange(first, first + some.shape[1], device=query.device)
            hidden = torch.arange(key.shape[1], device=query.device)[None] > seen[:, None]
            logits.masked_fill_(hidden, -torch.inf)
        weight = logits.logsumexp(-1)
        parts.append(((logits - weight[..., None]).exp().to(value.dtype) @ value, weight))
    return torch.cat([out for out, _ in parts], 1), torch.cat([weight for _, weight in parts], 1)
