"""The prefix cache: what it finds, what it keeps, what it frees, and what its keys cost."""

from __future__ import annotations

import tracemalloc

import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.prefix_cache import Memory, MemoryPool, Node, PrefixCache, common_length

PER_TOKEN = 24

sequences = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple)


def memory(tokens: tuple[int, ...]) -> Memory:
    """Keys, values and states that tell which tokens they are of."""
    values = torch.tensor(tokens, dtype=torch.float32)
    return Memory(values.expand(1, 2, 1, -1)[..., None].clone(), values[:, None].clone())


def cache(budget: int = 1 << 20) -> tuple[PrefixCache, MemoryPool]:
    pool = MemoryPool(budget)
    return PrefixCache(pool, PER_TOKEN), pool


def insert(tree: PrefixCache, tokens: tuple[int, ...]) -> None:
    tree.insert(tokens, lambda start: memory(tokens[start:]))


def contents(node: Node) -> tuple[list[float], list[float]]:
    """What is stored on the path to a node, from the root on: keys, and hidden states."""
    keys: list[float] = []
    states: list[float] = []
    for step in reversed(list(node.upwards())):
        assert step.memory is not None and step.memory.hidden is not None
        keys += step.memory.kv[0, 0, 0, :, 0].tolist()
        states += step.memory.hidden[:, 0].tolist()
    return keys, states


@given(st.lists(sequences, max_size=8), sequences)
def test_the_longest_cached_prefix_is_found_with_its_memory(
    known: list[tuple[int, ...]], asked: tuple[int, ...]
) -> None:
    tree, pool = cache()
    for tokens in known:
        insert(tree, tokens)
    found = tree.match(tree.root, asked)
    assert found.depth == max((common_length(tokens, asked) for tokens in known), default=0)
    assert contents(found) == ([*map(float, asked[: found.depth])],) * 2
    prefixes = {tokens[:end] for tokens in known for end in range(1, len(tokens) + 1)}
    assert pool.bytes == len(prefixes) * tree.bytes_per_token
    tree.clear()
    assert pool.bytes == 0


@given(st.lists(sequences, min_size=1, max_size=12), st.integers(0, 10))
def test_the_budget_holds_and_the_last_sequence_stays_if_it_fits(
    known: list[tuple[int, ...]], room: int
) -> None:
    tree, pool = cache()
    pool.budget = room * tree.bytes_per_token
    for tokens in known:
        insert(tree, tokens)
        assert pool.bytes <= pool.budget
        if len(tokens) <= room:
            assert tree.match(tree.root, tokens).depth == len(tokens)


def test_the_least_recently_used_leaf_is_evicted_first() -> None:
    tree, pool = cache()
    pool.budget = 6 * tree.bytes_per_token
    for tokens in ((1, 1, 1), (2, 2, 2)):
        insert(tree, tokens)
    tree.match(tree.root, (1, 1, 1))
    insert(tree, (3, 3, 3))
    depths = [tree.match(tree.root, tokens).depth for tokens in ((1, 1, 1), (2, 2, 2), (3, 3, 3))]
    assert depths == [3, 0, 3] and pool.evictions == 1


def test_what_is_in_use_stays_until_it_is_released() -> None:
    tree, pool = cache()
    insert(tree, (1, 1, 2))
    insert(tree, (1, 1, 3))
    held = tree.match(tree.root, (1, 1, 2))
    tree.acquire(held)
    pool.shrink(0)
    assert tree.match(tree.root, (1, 1, 2)) is held
    assert tree.match(tree.root, (1, 1, 3)).depth == 2
    tree.release(held)
    pool.shrink(0)
    assert pool.bytes == 0


def test_ephemeral_nodes_are_freed_on_release_and_the_others_stay() -> None:
    tree, pool = cache()
    insert(tree, (1, 2))
    node = tree.match(tree.root, (1, 2))
    tree.acquire(node)
    answer = tree.extend(node, (7, 8), ephemeral=True)
    answer.memory = memory((7, 8))
    tree.release(answer)
    assert pool.bytes == 2 * tree.bytes_per_token
    assert tree.match(tree.root, (1, 2, 7, 8)).depth == 2


def test_a_node_is_still_what_ends_where_it_ended_when_it_is_split() -> None:
    tree, _ = cache()
    insert(tree, (1, 2, 3, 4))
    node = tree.match(tree.root, (1, 2, 3, 4))
    tree.acquire(node)
    tree.match(tree.root, (1, 2, 9))
    assert node.depth == 4 and contents(node)[0] == [1, 2, 3, 4]


def test_a_failure_to_compute_leaves_nothing_behind() -> None:
    tree, pool = cache()

    def fail(start: int) -> Memory:
        raise torch.OutOfMemoryError

    try:
        tree.insert((1, 2), fail)
    except torch.OutOfMemoryError:
        pass
    assert pool.bytes == 0 and not tree.root.children


def test_keys_take_as_much_as_the_budget_accounts_for() -> None:
    """A key holds each token once, however long the sequence."""
    tree, pool = cache()
    tokens = tuple(range(1000, 17_000))
    once = Memory(torch.zeros(1, 2, 1, 0, 1))
    tracemalloc.start()
    tree.insert(tokens, lambda start: once)
    tree.match(tree.root, tokens)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1 << 20
    assert pool.bytes - len(tokens) * PER_TOKEN >= held


@given(sequences, sequences)
def test_common_length_counts_equal_tokens(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    naive = 0
    while naive < min(len(left), len(right)) and left[naive] == right[naive]:
        naive += 1
    assert common_length(left, right) == naive
