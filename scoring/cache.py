"""A radix tree of what a model has read: every prefix is forwarded once and shared.

Nodes hold their own tokens' keys and values, (layers, 2, heads, tokens, head_dim), and final hidden states,
(tokens, width): with the latter any token that has been read can predict another next one, so that nothing is
forwarded again to score what follows it. A path from the root is a prefix. Trees of several models share a pool of
bytes; beyond its budget the least recently used leaves are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """What the model made of a run of T tokens: `kv` (L, 2, H, T, D) and `hidden` (T, E)."""

    kv: Tensor
    hidden: Tensor

    def split(self, at: int) -> tuple[Memory, Memory]:
        """Two memories of their own storage, so that dropping one of them frees it."""
        return (
            Memory(self.kv[:, :, :, :at].clone(), self.hidden[:at].clone()),
            Memory(self.kv[:, :, :, at:].clone(), self.hidden[at:].clone()),
        )


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens below a parent; `depth` counts the tokens from the root to its end.

    `memory` is missing at the root, and in a node that is about to be read. A pinned node is in use and stays; a
    passing one (an elicitation and its answer) goes as soon as nobody reads on from it.
    """

    tokens: tuple[int, ...]
    parent: Node | None
    depth: int
    memory: Memory | None = None
    children: dict[int, Node] = field(default_factory=dict)
    pins: int = 0
    passing: bool = False

    def upwards(self) -> Iterator[Node]:
        """This node and its ancestors, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class Pool:
    """The bytes that all trees share, and the order in which their nodes were last used."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget = budget_bytes
        self.bytes = 0
        self.evictions = 0
        self._recent: OrderedDict[Node, int] = OrderedDict()  # with each node's bytes, the stalest first

    def hold(self, node: Node, size: int) -> None:
        """Account for a new node, or for another size of a known one."""
        self.bytes += size - self._recent.get(node, 0)
        self._recent[node] = size

    def touch(self, node: Node) -> None:
        """A node and its ancestors have served. Ancestors come out as more recent, so leaves go first."""
        for step in node.upwards():
            self._recent.move_to_end(step)

    def release(self, node: Node) -> None:
        """Drop a childless node."""
        assert node.parent is not None and not node.children
        del node.parent.children[node.tokens[0]]
        self.bytes -= self._recent.pop(node)

    def shrink(self, goal: int) -> None:
        """Drop the stalest leaves that nobody uses until `goal` bytes are left, or nothing more can go."""
        while self.bytes > goal:
            stalest = next((node for node in self._recent if not node.children and not node.pins), None)
            if stalest is None:
                return
            self.release(stalest)
            self.evictions += 1


class PrefixTree:
    """One model's prefixes. Not thread-safe: it belongs to the one thread that runs the model."""

    def __init__(self, pool: Pool, bytes_per_token: int) -> None:
        self.root = Node((), None, 0)
        self.bytes_per_token = bytes_per_token
        self._pool = pool

    def match(self, node: Node, tokens: tuple[int, ...]) -> Node:
        """The node that ends the longest known continuation of `node` by `tokens`.

        A node that agrees only in part is split there, so that the returned node ends exactly where knowledge does.
        """
        done = 0
        while done < len(tokens) and (child := node.children.get(tokens[done])) is not None:
            common = _common(child.tokens, tokens[done : done + len(child.tokens)])
            if common < len(child.tokens):
                child = self._split(child, common)
            node, done = child, done + common
        self._pool.touch(node)
        return node

    def extend(self, node: Node, tokens: tuple[int, ...], *, passing: bool) -> Node:
        """A new node below a pinned one that knows no continuation by `tokens`; its memory comes later.

        The caller's pin moves on to it. Room is made elsewhere, as far as nothing in use is in the way.
        """
        child = Node(tokens, node, node.depth + len(tokens), pins=1, passing=passing)
        node.children[tokens[0]] = child
        node.pins -= 1
        self._pool.hold(child, len(tokens) * self.bytes_per_token)
        self._pool.touch(child)
        self._pool.shrink(self._pool.budget)
        return child

    def release(self, node: Node) -> None:
        """Unpin a node. If it was only passing, or never read, it goes, and ancestors of its kind with it."""
        node.pins -= 1
        for step in list(node.upwards()):
            if step.children or step.pins or not (step.passing or step.memory is None):
                return
            self._pool.release(step)

    def clear(self) -> None:
        """Drop everything that nobody uses."""
        below = [self.root]
        for node in below:
            below.extend(node.children.values())
        for node in reversed(below[1:]):
            if not node.children and not node.pins:
                self._pool.release(node)

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; returns the upper half. The node itself stays what ends where it ended."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.parent, node.depth - len(node.tokens) + at, passing=node.passing)
        if node.memory is not None:
            upper.memory, node.memory = node.memory.split(at)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[at:], upper
        upper.children[node.tokens[0]] = node
        self._pool.hold(node, len(node.tokens) * self.bytes_per_token)
        self._pool.hold(upper, len(upper.tokens) * self.bytes_per_token)
        return upper


def hidden_between(node: Node, start: int, stop: int) -> Tensor:
    """Hidden states of the positions from `start` to `stop` (exclusive) on the path to a read node: (T, E)."""
    parts = []
    for step in node.upwards():
        assert step.memory is not None
        first = step.depth - len(step.tokens)
        if first < stop:
            parts.append(step.memory.hidden[max(start - first, 0) : stop - first])
        if first <= start:
            break
    return torch.cat(parts[::-1])


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    if a == b:
        return len(a)
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
