"""Which trajectories survive a step: ranking, diversity, and the steps that may be sent. Pure.

Ties are broken by slot, so equal scores give the same beam whoever answers first.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.decoder.types import Candidate, Trajectory

Rank = Callable[[Trajectory], float]
"""A trajectory's worth; higher is better."""

_WORDS = re.compile(r"\w+")


def derive(seed: int, *parts: object) -> int:
    """A 31-bit seed of its own for each call, from the request's seed and what is asked of whom.

    What a teacher proposes under a prefix thus depends neither on the width of the beam nor on who else is asked.
    """
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def blend(score: str) -> dict[str, float]:
    """The weights of the scores in one score's name: "cross" alone, or a sum such as "cross + 0.5*confidence".

    Raises:
        ValueError: it is no such sum, or names a score twice.
    """
    weights: dict[str, float] = {}
    for term in score.split("+"):
        factor, times, name = term.rpartition("*")
        name, weight = name.strip(), float(factor) if times else 1.0
        if not name or name in weights or not 0 < weight < float("inf"):
            raise ValueError(f"{score!r} is not a sum of different scores with positive weights")
        weights[name] = weight
    return weights


def by_score(length_penalty: float) -> Rank:
    """Rank by the scorer's value."""
    return lambda trajectory: trajectory.value(length_penalty)


def by_blend(
    pool: Sequence[Trajectory], weights: Mapping[str, float], length_penalty: float
) -> Rank:
    """Rank by Σ w z, each score as its z-value within the pool, so that scores on different scales can be summed."""
    values = [[tally.value(length_penalty) for tally in trajectory.tallies] for trajectory in pool]
    worth = [0.0] * len(pool)
    for weight, column in zip(weights.values(), zip(*values, strict=True), strict=True):
        mean, spread = statistics.fmean(column), statistics.pstdev(column)
        for i, value in enumerate(column):
            worth[i] += weight * (value - mean) / spread if spread else 0.0
    ranks = {trajectory.path: total for trajectory, total in zip(pool, worth, strict=True)}
    return lambda trajectory: ranks[trajectory.path]


def answers_of_others(elicited: Mapping[int, Sequence[str]], of: int) -> dict[str, float]:
    """π: what all but one candidate would answer, each answer with its share. Where there is no other, its own."""
    answers = [answer for id, said in elicited.items() if id != of for answer in said]
    answers = answers or list(elicited[of])
    return {answer: answers.count(answer) / len(answers) for answer in dict.fromkeys(answers)}


def similarity(left: str, right: str) -> float:
    """The share of different words that two texts have in common (Jaccard), in [0, 1]."""
    ours, theirs = (set(_WORDS.findall(text.lower())) for text in (left, right))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0


def by_length(trajectory: Trajectory) -> float:
    """Rank by the length of the last step in characters (the paper's longest-step baseline)."""
    return float(len(trajectory.candidates[-1].text))


def by_chance(seed: int) -> Rank:
    """Rank by a seeded draw (the paper's random-step baseline)."""
    return lambda trajectory: float(
        derive(seed, "chance", *(candidate.slot for candidate in trajectory.candidates))
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """The beam in order of rank, best first, and what fell out of it: by its rank, or for saying what a better said."""

    beam: tuple[Trajectory, ...]
    dropped: tuple[Trajectory, ...]
    repeated: tuple[Trajectory, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """How the beam is kept from filling up with one parent's children, or with one step in several wordings.

    With `diversity` γ > 0 the k-th best child of a parent (k from 0) is ranked γ·k nats lower (Li, Monroe & Jurafsky,
    arXiv 1611.08562). A child beyond `max_children_per_parent` gets a place only if it would stay empty. A child is
    dropped when its words overlap a better sibling's by `similarity_threshold` or more.
    """

    diversity: float = 0.0
    max_children_per_parent: int | None = None
    similarity_threshold: float | None = None

    def repeats(self, trajectory: Trajectory, better: Sequence[Trajectory]) -> bool:
        """Whether one of these siblings says the same."""
        if self.similarity_threshold is None:
            return False
        text = trajectory.candidates[-1].text
        return any(
            similarity(text, other.candidates[-1].text) >= self.similarity_threshold
            for other in better
        )


def choose(pool: Sequence[Trajectory], rank: Rank, width: int, spread: Spread) -> Selection:
    """Keep the best `width` of the pool.

    Finished trajectories compete with living ones for the same places. The beam's own order is that of the
    unpenalised rank.
    """
    worth = {trajectory.path: rank(trajectory) for trajectory in pool}

    def order(trajectory: Trajectory) -> tuple[float, tuple[tuple[int, int], ...]]:
        return -worth[trajectory.path], trajectory.order

    families: dict[tuple[int, ...], list[Trajectory]] = {}
    penalised: list[tuple[float, tuple[tuple[int, int], ...], Trajectory]] = []
    surplus: list[Trajectory] = []
    repeated: list[Trajectory] = []
    for trajectory in sorted(pool, key=order):
        better = families.setdefault(trajectory.path[:-1], [])
        if spread.repeats(trajectory, better):
            repeated.append(trajectory)
            continue
        if (
            spread.max_children_per_parent is not None
            and len(better) >= spread.max_children_per_parent
        ):
            surplus.append(trajectory)
            continue
        penalised.append(
            (-worth[trajectory.path] + spread.diversity * len(better), trajectory.order, trajectory)
        )
        better.append(trajectory)
    ranked = [
        trajectory for *_, trajectory in sorted(penalised, key=lambda entry: entry[:2])
    ] + surplus
    return Selection(
        tuple(sorted(ranked[:width], key=order)), tuple(ranked[width:]), tuple(repeated)
    )


def shared(beam: Sequence[Trajectory]) -> tuple[Candidate, ...]:
    """The steps that every trajectory has in common: what may be sent and never retracted."""
    common: list[Candidate] = []
    for rungs in zip(*(trajectory.candidates for trajectory in beam), strict=False):
        if any(rung.id != rungs[0].id for rung in rungs):
            break
        common.append(rungs[0])
    return tuple(common)


def enforce_lag(beam: Sequence[Trajectory], lag: int | None) -> Selection:
    """Drop what disagrees with the best trajectory further back than `lag` steps; None never drops."""
    settled = max(len(beam[0].path) - lag, 0) if lag is not None else 0
    agrees = [trajectory.path[:settled] == beam[0].path[:settled] for trajectory in beam]
    return Selection(
        tuple(trajectory for trajectory, same in zip(beam, agrees, strict=True) if same),
        tuple(trajectory for trajectory, same in zip(beam, agrees, strict=True) if not same),
    )
