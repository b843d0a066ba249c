"""Attention over a tree of new tokens on top of cached prefixes, in one forward of an unchanged transformers model.

The new tokens of all requests are packed into one row, in depth-first order: what descends from a run of tokens is
then one slice of queries. Attention is computed run by run, each against all the queries below it at once, and
merged by log-sum-exp (cascade attention; the split of a softmax as in FlashAttention, arXiv 2205.14135). No mask over
queries x keys is built, no cached prefix is read more than once a layer, and no padding is computed. Little work goes
through one masked attention instead, where launching many small ones would cost more than it saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from scoring.cache import Memory, Node

NAME = "cord_tree"
"""What to set a model's attention implementation to. It then needs `plan=` in each forward."""

_DENSE_PAIRS = 1 << 18
"""Up to so many (query, key) pairs, one masked attention is faster than the cascade. Measured on CPU."""

_MATH_PAIRS = 1 << 22
"""How many (query, key) pairs a head are scored at a time where no fused kernel gives the log-sum-exp."""


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


@dataclass(slots=True)
class Plan:
    """A forest of new runs over cached trunks, as one row of N packed tokens, with room for their keys and values."""

    nodes: list[Node] = field(default_factory=list)
    runs: list[slice] = field(default_factory=list)  # each new run's own tokens, in the order of `nodes`
    below: list[slice] = field(default_factory=list)  # what descends from it, itself left out
    trunks: list[Trunk] = field(default_factory=list)
    layers: list[Tensor] = field(default_factory=list)  # (2, H, N, D) each, as they are computed
    size: int = 0
    _mask: Tensor | None = None

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
        return plan

    def _visit(self, node: Node, marked: dict[Node, list[Node]]) -> None:
        if node.memory is None:
            self._new(node, marked)
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
            self._visit(child, marked)
        self.below[at] = slice(own.stop, self.size)

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids and positions (each token's depth in its path): (1, N) both."""
        ids = [token for node in self.nodes for token in node.tokens]
        positions = [p for node in self.nodes for p in range(node.depth - len(node.tokens), node.depth)]
        return torch.tensor([ids], device=device), torch.tensor([positions], device=device)

    def memories(self, hidden: Tensor) -> list[Memory]:
        """What was computed for each new node, copied out of the packed `hidden` (N, E) and layers."""
        return [
            Memory(torch.stack([layer[:, :, own] for layer in self.layers]), hidden[own].clone()) for own in self.runs
        ]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One layer's attention: `query` (Hq, N, D), `key` and `value` (Hkv, N, D); returns (Hq, N, D)."""
        layer = len(self.layers)
        self.layers.append(torch.stack((key, value)))
        if self.size * (self.size + sum(trunk.length for trunk in self.trunks)) <= _DENSE_PAIRS:
            return self._dense(layer, query, scale)
        return self._cascade(layer, query, scale)

    def _cascade(self, layer: int, query: Tensor, scale: float) -> Tensor:
        new = self.layers[layer]
        out = torch.empty_like(query, dtype=torch.float32)  # merged many times: half precision would add up
        weight = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)  # log-sum-exp so far
        for own in self.runs:
            out[:, own], weight[:, own] = _attention(query[:, own], new[:, :, own], scale, causal=True)
        for own, below in zip(self.runs, self.below, strict=True):
            if below.start < below.stop:
                _merge(out, weight, below, *_attention(query[:, below], new[:, :, own], scale, causal=False))
        for trunk in self.trunks:
            seen = query[:, trunk.queries]
            _merge(out, weight, trunk.queries, *_attention(seen, trunk.of(layer), scale, causal=False))
        return out.to(query.dtype)

    def _dense(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """One masked attention over all trunks and all new tokens."""
        key, value = torch.cat([trunk.of(layer) for trunk in self.trunks] + [self.layers[layer]], dim=2)
        if self._mask is None:
            self._mask = self.mask().to(query.device)
        found = functional.scaled_dot_product_attention(
            query[None], key[None], value[None], self._mask, scale=scale, enable_gqa=True
        )
        return found[0]

    def mask(self) -> Tensor:
        """Who sees whom: (N, trunk tokens + N), true where a query attends to a key."""
        trunk_tokens = sum(trunk.length for trunk in self.trunks)
        mask = torch.zeros(self.size, trunk_tokens + self.size, dtype=torch.bool)
        at = 0
        for trunk in self.trunks:
            mask[trunk.queries, at : at + trunk.length] = True
            at += trunk.length
        new = mask[:, trunk_tokens:]
        for own, below in zip(self.runs, self.below, strict=True):
            new[own, own] = torch.ones(own.stop - own.start, own.stop - own.start, dtype=torch.bool).tril()
            new[below, own] = True
        return mask


def tree_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The entry for transformers: `query` (1, Hq, N, D), `key` and `value` (1, Hkv, N, D); gives (1, N, Hq, D)."""
    plan: Plan = kwargs["plan"]
    scale = kwargs.get("scaling")
    found = plan.attend(query[0], key[0], value[0], query.shape[-1] ** -0.5 if scale is None else float(scale))
    return found.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, tree_attention)


def _merge(out: Tensor, weight: Tensor, at: slice, other: Tensor, other_weight: Tensor) -> None:
    """Join two softmaxes over disjoint keys, in place: each counts by its share of the sum of exponentials."""
    total = torch.logaddexp(weight[:, at], other_weight)
    mine, theirs = (weight[:, at] - total).exp(), (other_weight - total).exp()
    out[:, at] = out[:, at] * mine[..., None] + other * theirs[..., None]
    weight[:, at] = total


def _attention(query: Tensor, kv: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention of `query` (Hq, S, D) over one run `kv` (2, Hkv, T, D), with its log-sum-exp (Hq, S) in fp32."""
    key, value = kv[0], kv[1]
    heads, length, width = query.shape
    groups = heads // key.shape[0]
    kernel = _kernel(query)
    if causal:
        key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
        return kernel(query, key, value, scale, True)
    # Without causality the order of queries does not matter: heads that share keys become queries of one head.
    folded = query.reshape(key.shape[0], groups * length, width)
    out, weight = kernel(folded, key, value, scale, False)
    return out.reshape(heads, length, width), weight.reshape(heads, length)


_Kernel = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]


def _kernel(query: Tensor) -> _Kernel:
    """The fused kernel of this device, where PyTorch has one that returns the log-sum-exp."""
    if query.device.type == "cpu" and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return _flash_cpu
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.device.type == "cuda" and half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        return _flash_cuda
    return _math


def _flash_cpu(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[None], key[None], value[None], 0.0, causal, scale=scale
    )
    return out[0], weight[0]


def _flash_cuda(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    out, weight, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        query[None], key[None], value[None], 0.0, causal, scale=scale
    )
    return out[0], weight[0]


def _math(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """By the formula, a slice of queries at a time."""
    step = max(1, _MATH_PAIRS // key.shape[1])
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
