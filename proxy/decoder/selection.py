"""Which trajectories live on: ranking, diversity, what may be sent, when to stop. Pure and synchronous.

Ties are broken by candidate id, so equal scores give the same beam on every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy.decoder.types import Candidate, Trajectory

Rank = Callable[[Trajectory], float]
"""A trajectory's worth; higher is better."""


def derive(seed: int, *parts: object) -> int:
    """A 31-bit seed of its own for each call, from the request's seed and the call's place in the search."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def by_score(length_penalty: float) -> Rank:
    """Rank by the scorer's value."""
    return lambda trajectory: trajectory.value(length_penalty)


def by_length(trajectory: Trajectory) -> float:
    """Rank by the length of the last step in characters (the paper's longest-step baseline)."""
    return float(len(trajectory.candidates[-1].text))


def by_chance(seed: int) -> Rank:
    """Rank by a seeded draw (the paper's random-step baseline)."""
    return lambda trajectory: float(derive(seed, "chance", trajectory.tip))


@dataclass(frozen=True, slots=True)
class Choice:
    """The beam in order of rank, best first, and what fell out of it."""

    beam: tuple[Trajectory, ...]
    dropped: tuple[Trajectory, ...]


def choose(pool: Sequence[Trajectory], rank: Rank, width: int, diversity: float) -> Choice:
    """Keep the best `width` of the pool.

    Finished trajectories compete with living ones for the same places. With `diversity` γ > 0 the k-th best
    child of a parent (k from 0) is ranked γ·k nats lower (Li, Monroe & Jurafsky, arXiv 1611.08562), so that one
    parent does not fill the beam; the beam's own order stays that of the unpenalised rank.
    """
    worth = {trajectory.path: rank(trajectory) for trajectory in pool}

    def order(trajectory: Trajectory) -> tuple[float, tuple[int, ...]]:
        return -worth[trajectory.path], trajectory.path

    siblings: dict[tuple[int, ...], int] = {}
    penalised: list[tuple[float, tuple[int, ...], Trajectory]] = []
    for trajectory in sorted(pool, key=order):
        older = siblings.get(trajectory.path[:-1], 0)
        siblings[trajectory.path[:-1]] = older + 1
        penalised.append((-worth[trajectory.path] + diversity * older, trajectory.path, trajectory))
    kept = [trajectory for *_, trajectory in sorted(penalised, key=lambda entry: entry[:2])]
    return Choice(tuple(sorted(kept[:width], key=order)), tuple(kept[width:]))


def shared(beam: Sequence[Trajectory]) -> tuple[Candidate, ...]:
    """The steps that every trajectory has in common: what may be sent and never retracted."""
    common: list[Candidate] = []
    for rungs in zip(*(trajectory.candidates for trajectory in beam), strict=False):
        if any(rung.id != rungs[0].id for rung in rungs):
            break
        common.append(rungs[0])
    return tuple(common)


def enforce_lag(beam: Sequence[Trajectory], lag: int | None) -> Choice:
    """Drop what disagrees with the best trajectory further back than `lag` steps; None never drops."""
    settled = max(len(beam[0].path) - lag, 0) if lag is not None else 0
    agrees = [trajectory.path[:settled] == beam[0].path[:settled] for trajectory in beam]
    return Choice(
        tuple(trajectory for trajectory, same in zip(beam, agrees, strict=True) if same),
        tuple(trajectory for trajectory, same in zip(beam, agrees, strict=True) if not same),
    )


def settled(before: Sequence[Trajectory], after: Sequence[Trajectory]) -> bool:
    """Whether a finished trajectory has stayed the best while all others grew by a step."""
    return after[0].closed and after[0].path == before[0].path
