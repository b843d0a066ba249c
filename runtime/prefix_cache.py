"""The prefix cache: a radix tree of the tokens that a model has read, with what it computed for
them.

A path from the root is a prefix; prefixes share their common beginnings. Nodes in use are
ref-counted. All trees of a process may share one pool with a budget of bytes; beyond it the least
recently used leaves are evicted. Holds no model and no scheduling. Not thread-safe: a tree belongs
to the thread that runs its model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

_KEY_BYTES = 40
"""What a token id takes as a key: a Python integer, and the reference to it in a tuple."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model computed for a run of T tokens.

    `kv` (L, 2, H, T, D) are the keys and values of all layers. `hidden` (T, E), where it is kept,
    are the final hidden states, from which the token after any of the T can be predicted without
    another forward.
    """

    kv: Tensor
    hidden: Tensor | None = None

    def split(self, at: int) -> tuple[Memory, Memory]:
        """Two memories with storage of their own, so that dropping one of them frees it."""
        return self._slice(slice(None, at)), self._slice(slice(at, None))

    def _slice(self, some: slice) -> Memory:
        hidden = None if self.hidden is None else self.hidden[some].clone()
        return Memory(self.kv[:, :, :, some].clone(), hidden)


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens below a parent; `depth` counts the tokens from the root to its end.

    `memory` is None at the root, and in a node whose forward has not run yet. A node with a
    positive `ref_count` is in use and is not evicted. An `ephemeral` node (an elicitation and its
    answer) is freed on its last release instead of staying in the cache.
    """

    tokens: tuple[int, ...]
    parent: Node | None
    depth: int
    memory: Memory | None = None
    children: dict[int, Node] = field(default_factory=dict)
    ref_count: int = 0
    ephemeral: bool = False

    @property
    def start(self) -> int:
        """The tokens from the root to where this node begins."""
        return self.depth - len(self.tokens)

    def upwards(self) -> Iterator[Node]:
        """This node and its ancestors, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class MemoryPool:
    """A budget of bytes that all trees share, and the order in which their nodes were last used."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget = budget_bytes
        self.bytes = 0
        self.evictions = 0
        self._recent: OrderedDict[Node, int] = (
            OrderedDict()
        )  # bytes by node, the least recently used first

    def hold(self, node: Node, size: int) -> None:
        """Account for a new node, or for the new size of a known one."""
        self.bytes += size - self._recent.get(node, 0)
        self._recent[node] = size

    def touch(self, node: Node) -> None:
        """Mark a node and its ancestors as just used. Ancestors count as used later, so leaves are
        evicted first."""
        for step in node.upwards():
            self._recent.move_to_end(step)

    def drop(self, node: Node) -> None:
        """Remove a childless node from its tree and free its bytes."""
        assert node.parent is not None and not node.children
        del node.parent.children[node.tokens[0]]
        self.bytes -= self._recent.pop(node)

    def shrink(self, goal: int) -> None:
        """Evict the least recently used leaves until at most `goal` bytes are left, or all that is
        left is in use."""
        while self.bytes > goal:
            stalest = next(
                (node for node in self._recent if not node.children and not node.ref_count), None
            )
            if stalest is None:
                return
            self.drop(stalest)
            self.evictions += 1


class PrefixCache:
    """One model's tree of prefixes in a pool."""

    def __init__(self, pool: MemoryPool, bytes_per_token: int) -> None:
        """`bytes_per_token` is the size of one token's memory; its key is accounted for on top."""
        self.root = Node((), None, 0)
        self.bytes_per_token = bytes_per_token + _KEY_BYTES
        self._pool = pool

    def match(self, node: Node, tokens: tuple[int, ...]) -> Node:
        """The node that ends the longest cached continuation of `node` by `tokens`.

        A node of which only the beginning matches is split there, so the returned node ends at the
        last cached token.
        """
        done = 0
        while done < len(tokens) and (child := node.children.get(tokens[done])) is not None:
            common = common_length(child.tokens, tokens[done : done + len(child.tokens)])
            if common < len(child.tokens):
                child = self._split(child, common)
            node, done = child, done + common
        self._pool.touch(node)
        return node

    def acquire(self, node: Node) -> None:
        """Use a node: neither it nor its ancestors are evicted until it is released as often."""
        node.ref_count += 1

    def release(self, node: Node) -> None:
        """Use a node no longer. Frees ephemeral nodes, and nodes without memory, that nothing else
        needs; all others become evictable."""
        node.ref_count -= 1
        for step in list(node.upwards()):
            if step.children or step.ref_count or not (step.ephemeral or step.memory is None):
                return
            self._pool.drop(step)

    def extend(self, node: Node, tokens: tuple[int, ...], *, ephemeral: bool) -> Node:
        """A new node, to be given its memory later, below an acquired one that has no continuation
        by `tokens`.

        The caller's reference moves from `node` to the new node. Other leaves are evicted to make
        room, as far as they are not in use.
        """
        child = Node(tokens, node, node.depth + len(tokens), ref_count=1, ephemeral=ephemeral)
        node.children[tokens[0]] = child
        node.ref_count -= 1
        self._pool.hold(child, len(tokens) * self.bytes_per_token)
        self._pool.touch(child)
        self._pool.shrink(self._pool.budget)
        return child

    def insert(self, tokens: tuple[int, ...], compute: Callable[[int], Memory]) -> None:
        """Keep the memory of a sequence; `compute(start)` gives that of its tokens from `start` on.

        Only what is not cached yet is asked for. A sequence that is larger than the whole budget is
        not kept.
        """
        if len(tokens) * self.bytes_per_token > self._pool.budget:
            return
        node = self.match(self.root, tokens)
        rest = tokens[node.depth :]
        if not rest:
            return
        self.acquire(node)
        node = self.extend(node, rest, ephemeral=False)
        try:
            node.memory = compute(node.start)
        finally:
            self.release(node)
        self._pool.shrink(self._pool.budget)

    def clear(self) -> None:
        """Drop everything that is not in use."""
        below = [self.root]
        for node in below:
            below.extend(node.children.values())
        for node in reversed(below[1:]):
            if not node.children and not node.ref_count:
                self._pool.drop(node)

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two and return the upper half. The node itself becomes the lower half: it
        still ends where it ended, so references to it stay right."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.parent, node.start + at, ephemeral=node.ephemeral)
        if node.memory is not None:
            upper.memory, node.memory = node.memory.split(at)
        node.parent.children[upper.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[at:], upper
        upper.children[node.tokens[0]] = node
        self._pool.hold(node, len(node.tokens) * self.bytes_per_token)
        self._pool.hold(upper, len(upper.tokens) * self.bytes_per_token)
        return upper


def common_length(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:  # the first difference lies in [low, high)
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
