"""Policy as tables: who survives, what may be sent, when to stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.decoder import selection
from proxy.decoder.limits import has_settled
from proxy.decoder.selection import Spread
from proxy.decoder.types import Candidate, Score, Source, Tally, Trajectory


def grow(*ids: int, nats: float = 0.0, ended: str = "marker") -> Trajectory:
    path = tuple(
        Candidate(id, None, depth, "t", f"step {id}", "marker" if depth < len(ids) else ended, 1, 1)  # type: ignore[arg-type]
        for depth, id in enumerate(ids, 1)
    )
    return Trajectory(path, (Tally(nats, 1.0),))


def paths(trajectories: tuple[Trajectory, ...]) -> list[tuple[int, ...]]:
    return [trajectory.path for trajectory in trajectories]


RANK = selection.by_score(1.0)


def test_the_best_survive_in_order_of_rank() -> None:
    pool = [grow(1, nats=-3), grow(2, nats=-1), grow(3, nats=-2)]
    choice = selection.choose(pool, RANK, 2, Spread())
    assert paths(choice.beam) == [(2,), (3,)]
    assert paths(choice.dropped) == [(1,)]


def test_ties_go_to_the_lower_id() -> None:
    pool = [grow(3, nats=-1), grow(1, nats=-1), grow(2, nats=-1)]
    assert paths(selection.choose(pool, RANK, 2, Spread()).beam) == [(1,), (2,)]


def test_a_finished_trajectory_competes_for_the_same_places() -> None:
    pool = [grow(1, nats=-0.5, ended="closed"), grow(2, 5, nats=-0.1), grow(2, 6, nats=-0.9)]
    assert paths(selection.choose(pool, RANK, 2, Spread()).beam) == [(2, 5), (1,)]


@pytest.mark.parametrize(
    ("diversity", "beam"),
    [
        pytest.param(0.0, [(1, 3), (1, 4)], id="without a penalty one parent fills the beam"),
        pytest.param(
            0.5, [(1, 3), (2, 5)], id="a second sibling falls behind another parent's child"
        ),
    ],
)
def test_diversity_spreads_the_beam_over_parents(
    diversity: float, beam: list[tuple[int, ...]]
) -> None:
    pool = [grow(1, 3, nats=-1.0), grow(1, 4, nats=-1.1), grow(2, 5, nats=-1.2)]
    assert paths(selection.choose(pool, RANK, 2, Spread(diversity)).beam) == beam


def test_the_beam_keeps_its_plain_order_under_a_diversity_penalty() -> None:
    pool = [grow(1, 3, nats=-1.0), grow(1, 4, nats=-1.1), grow(2, 5, nats=-1.5)]
    assert paths(selection.choose(pool, RANK, 3, Spread(0.7)).beam) == [(1, 3), (1, 4), (2, 5)]


def test_length_penalty_decides_between_a_short_and_a_long_trajectory() -> None:
    short = Trajectory(grow(1).candidates, (Tally(-4.0, 4.0),))
    long = Trajectory(grow(2).candidates, (Tally(-6.0, 9.0),))
    assert paths(selection.choose([short, long], selection.by_score(0.0), 1, Spread()).beam) == [
        (1,)
    ]
    assert paths(selection.choose([short, long], selection.by_score(1.0), 1, Spread()).beam) == [
        (2,)
    ]


def test_step_scores_add_up_and_forward_looking_scores_replace() -> None:
    step = grow(1).candidates[0]
    adds = Score(-2.0, 10.0, True, "step", Source.NONE)
    looks = Score(-0.5, 1.0, False, "predictive", Source.REFERENCE)
    twice = Trajectory().extend(step, adds).extend(step, adds)
    assert (twice.tallies, twice.value(1.0)) == ((Tally(-4.0, 20.0),), -0.2)
    assert Trajectory().extend(step, looks).extend(step, looks).value(1.0) == -0.5


@pytest.mark.parametrize(
    ("beam", "common"),
    [
        ([(1, 2, 3), (1, 2, 4)], (1, 2)),
        ([(1, 2), (1, 2, 4)], (1, 2)),
        ([(1,), (2,)], ()),
        ([(1, 2)], (1, 2)),
    ],
)
def test_what_all_trajectories_share_may_be_sent(
    beam: list[tuple[int, ...]], common: tuple[int, ...]
) -> None:
    assert (
        tuple(candidate.id for candidate in selection.shared([grow(*path) for path in beam]))
        == common
    )


@pytest.mark.parametrize(
    ("lag", "kept"),
    [
        (None, [(1, 2, 3), (4, 5, 6)]),
        (3, [(1, 2, 3), (4, 5, 6)]),
        (2, [(1, 2, 3)]),
        (0, [(1, 2, 3)]),
    ],
)
def test_lag_forces_the_best_trajectorys_choice(
    lag: int | None, kept: list[tuple[int, ...]]
) -> None:
    choice = selection.enforce_lag([grow(1, 2, 3), grow(4, 5, 6)], lag)
    assert paths(choice.beam) == kept
    assert len(choice.beam) + len(choice.dropped) == 2


def test_the_search_settles_when_a_finished_best_outlives_a_step() -> None:
    done = grow(1, ended="closed", nats=-0.1)
    assert has_settled([done, grow(2)], [done, grow(2, 3)])
    assert not has_settled([grow(2), done], [done, grow(2, 3)])
    assert not has_settled([grow(1)], [grow(1)])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 0)), min_size=1, max_size=20),
    st.integers(1, 8),
    st.floats(0, 2),
)
def test_choosing_loses_nobody_and_keeps_the_best(
    pool: list[tuple[int, float]], width: int, diversity: float
) -> None:
    grown = [grow(parent, 10 + id, nats=nats) for id, (parent, nats) in enumerate(pool)]
    choice = selection.choose(grown, RANK, width, Spread(diversity))
    assert sorted(paths((*choice.beam, *choice.dropped))) == sorted(
        trajectory.path for trajectory in grown
    )
    assert len(choice.beam) == min(width, len(grown))
    assert choice.beam[0].value(1.0) == max(trajectory.value(1.0) for trajectory in grown)


@given(st.integers(), st.integers(0, 1000))
def test_derived_seeds_are_stable_and_fit_every_backend(seed: int, part: int) -> None:
    assert selection.derive(seed, part) == selection.derive(seed, part)
    assert 0 <= selection.derive(seed, part) < 2**31


@pytest.mark.parametrize(
    ("spread", "beam", "repeated"),
    [
        (Spread(), [(1, 3), (1, 4), (2, 5)], []),
        (Spread(max_children_per_parent=1), [(1, 3), (2, 5)], []),
        (Spread(similarity_threshold=0.8), [(1, 3), (2, 5)], [(1, 4)]),
    ],
    ids=["as they come", "one child a parent", "no step in two wordings"],
)
def test_the_beam_is_kept_from_filling_up_with_the_same(
    spread: Spread, beam: list[tuple[int, ...]], repeated: list[tuple[int, ...]]
) -> None:
    pool = [grow(1, 3, nats=-1.0), grow(1, 4, nats=-1.1), grow(2, 5, nats=-1.2)]
    said = {3: "two and two is four", 4: "Two and two: four is", 5: "two and two is four"}
    pool = [
        replace(
            one, candidates=(one.candidates[0], replace(one.candidates[1], text=said[one.path[1]]))
        )
        for one in pool
    ]
    choice = selection.choose(pool, RANK, len(beam), spread)
    assert paths(choice.beam) == beam
    assert paths(choice.repeated) == repeated
    assert {*paths(choice.beam), *paths(choice.dropped), *paths(choice.repeated)} == set(
        paths(tuple(pool))
    )


def test_no_place_stays_empty_for_want_of_parents() -> None:
    """At the first step all have the same one."""
    pool = [grow(id, nats=-float(id)) for id in (1, 2, 3)]
    choice = selection.choose(pool, RANK, 2, Spread(max_children_per_parent=1))
    assert (paths(choice.beam), paths(choice.dropped)) == ([(1,), (2,)], [(3,)])


def test_a_blend_ranks_by_the_sum_of_z_values() -> None:
    """Scales do not matter, weights do: the first score alone prefers 1, the second 3, both together 2."""

    def scored(id: int, first: float, second: float) -> Trajectory:
        return replace(grow(id), tallies=(Tally(first, 1.0), Tally(second, 1.0)))

    pool = [scored(1, 3.0, 0.0), scored(2, 2.5, 900.0), scored(3, 0.0, 1000.0)]

    def best(first: float, second: float) -> int:
        rank = selection.by_blend(pool, {"a": first, "b": second}, 1.0)
        return max(pool, key=rank).path[0]

    assert [best(1, 0.01), best(1, 1), best(0.01, 1)] == [1, 2, 3]


def test_a_score_that_does_not_tell_candidates_apart_does_not_count() -> None:
    pool = [replace(grow(id), tallies=(Tally(-5.0, 1.0), Tally(-float(id), 1.0))) for id in (1, 2)]
    rank = selection.by_blend(pool, {"a": 9.0, "b": 1.0}, 1.0)
    assert rank(pool[0]) > rank(pool[1])


def test_a_candidate_does_not_vote_for_its_own_answer() -> None:
    elicited = {1: ["4", "4"], 2: ["5", "4"], 3: []}
    assert selection.answers_of_others(elicited, 1) == {"5": 0.5, "4": 0.5}
    assert selection.answers_of_others(elicited, 3) == {"4": 0.75, "5": 0.25}
    assert selection.answers_of_others({1: ["7"]}, 1) == {"7": 1.0}


@pytest.mark.parametrize(
    ("left", "right", "share"),
    [("a b", "B, a!", 1.0), ("a b", "b c", 1 / 3), ("", "", 1.0), ("a", "", 0.0)],
)
def test_similarity_is_the_share_of_words_in_common(left: str, right: str, share: float) -> None:
    assert selection.similarity(left, right) == pytest.approx(share)
