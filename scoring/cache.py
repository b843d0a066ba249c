"""A radix tree of attention keys and values by token ids: every prefix is forwarded once and shared.

Nodes hold the keys and values of their own tokens only, (layers, 2, heads, tokens, head_dim); a path from the root is
a prefix. The least recently used leaves are dropped once the tree holds more bytes than its budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens below a parent. `used` is when it last served, in ticks of the tree."""

    tokens: tuple[int, ...]
    kv: Tensor | None  # (L, 2, H, T, D), None at the root
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    used: int = 0


class PrefixCache:
    """Not thread-safe: it belongs to the one thread that runs the model."""

    def __init__(self, budget_bytes: int) -> None:
        self._root = Node((), None, None)
        self._budget = budget_bytes
        self._tick = 0
        self.bytes = 0
        self.evictions = 0

    def begin(self) -> None:
        """A new batch: until the next one, nothing that it touches is dropped."""
        self._tick += 1

    def match(self, ids: tuple[int, ...], limit: int) -> tuple[Node, int]:
        """The node that ends the longest known prefix of `ids[:limit]`, and its length in tokens.

        A node that agrees only in part is split there, so that the returned node ends exactly at the length.
        """
        node, length = self._root, 0
        while length < limit and (child := node.children.get(ids[length])) is not None:
            common = _common(child.tokens, ids[length:limit])
            if common < len(child.tokens):
                child = self._split(child, common)
            node, length = child, length + common
            node.used = self._tick
        return node, length

    def gather(self, node: Node) -> Tensor | None:
        """Keys and values of the whole prefix that ends at the node: (L, 2, H, T, D); None for the empty one."""
        parts = [step.kv for step in self._path(node) if step.kv is not None]
        return torch.cat(parts[::-1], dim=3) if parts else None

    def insert(self, node: Node, tokens: tuple[int, ...], kv: Tensor) -> None:
        """Remember what follows a node. `kv` (L, 2, H, len(tokens), D) is kept as given: hand in a copy of its own."""
        known, length = self._below(node, tokens)
        if length == len(tokens):
            return
        rest = kv[:, :, :, length:].clone() if length else kv
        child = Node(tokens[length:], rest, known, used=self._tick)
        known.children[child.tokens[0]] = child
        self.bytes += rest.nbytes
        self._evict()

    def _below(self, node: Node, tokens: tuple[int, ...]) -> tuple[Node, int]:
        """As `match`, from a node instead of the root."""
        length = 0
        while length < len(tokens) and (child := node.children.get(tokens[length])) is not None:
            common = _common(child.tokens, tokens[length:])
            if common < len(child.tokens):
                child = self._split(child, common)
            node, length = child, length + common
        return node, length

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; the upper half, which takes its place below the parent."""
        assert node.parent is not None and node.kv is not None
        upper = Node(node.tokens[:at], node.kv[:, :, :, :at].clone(), node.parent, used=node.used)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.kv, node.parent = node.tokens[at:], node.kv[:, :, :, at:].clone(), upper
        upper.children[node.tokens[0]] = node
        return upper

    def _evict(self) -> None:
        """Drop least recently used leaves until the budget holds; what this tick has used stays."""
        while self.bytes > self._budget:
            leaves = [node for node in self._walk() if not node.children and node.used < self._tick]
            if not leaves:
                return
            oldest = min(leaves, key=lambda node: node.used)
            assert oldest.parent is not None and oldest.kv is not None
            del oldest.parent.children[oldest.tokens[0]]
            self.bytes -= oldest.kv.nbytes
            self.evictions += 1

    def _walk(self) -> Iterator[Node]:
        """Every node but the root."""
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            stack.extend(node.children.values())
            yield node

    @staticmethod
    def _path(node: Node) -> Iterator[Node]:
        """From a node up to the root."""
        at: Node | None = node
        while at is not None:
            yield at
            at = at.parent


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
