"""What runs say: shares with intervals, gains at equal tokens, what holds after other trainings, what scores prefer."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from miniature.task import Label, Problem
from proxy.decoder.events import Event, Proposed, Scored
from proxy.decoder.types import Candidate, Score

Z95 = 1.959964
BY_REFERENCE = "beam B=4, reference, one child a parent"
"""The default where a reference is known: what searches without one are held against."""


@dataclass(frozen=True, slots=True)
class Run:
    """One problem under one method.

    right: in [0, 1]. log_s: mean log-probability of the reference after the winner, under the meta-prover. seconds:
    of one core, its share of the batches it was in. winners: who wrote which step. marks: how the score
    ordered steps, see `mark`. in_reasoning: as `right`, for what the reasoning comes to, where that was looked at.
    """

    table: str
    method: str
    problem: int
    right: float
    log_s: float | None
    written: int
    scored: int
    seconds: float
    winners: tuple[str, ...] = ()
    marks: dict[str, float] = field(default_factory=dict)
    in_reasoning: float | None = None


def mark(problem: Problem, events: Sequence[Event], judge: str | None) -> dict[str, float]:
    """How a search's scores ordered siblings, as counts to be summed and divided.

    right_pairs: one right step and one wrong (from the label so far); right_first: those in which the right one scored
    higher (half for a tie). long_pairs, long_first: both right, one longer in characters. own_pairs, own_first: both
    right, one by the judge. votes: families that several judges scored; agreed: those in which all judges but its
    author liked the same step best; agreed_right: and it was right.
    """
    proposed = {
        event.candidate.id: event.candidate for event in events if isinstance(event, Proposed)
    }
    scores = {event.id: event.score for event in events if isinstance(event, Scored)}
    families: dict[int | None, list[Candidate]] = defaultdict(list)
    for id in scores:
        families[proposed[id].parent].append(proposed[id])
    marks: defaultdict[str, float] = defaultdict(float)
    for parent, siblings in families.items():
        before = problem.start if parent is None else Label.find_last(proposed[parent].text)
        if before is None or siblings[0].depth > len(problem.operations):
            continue
        wanted = problem.advance(before, siblings[0].depth - 1)
        rights = {one.id: Label.find_last(one.text) == wanted for one in siblings}
        for left, right in combinations(siblings, 2):
            first = _first(scores[left.id], scores[right.id])
            if rights[left.id] != rights[right.id]:
                marks["right_pairs"] += 1
                marks["right_first"] += first if rights[left.id] else 1 - first
            elif rights[left.id]:
                if len(left.text) != len(right.text):
                    marks["long_pairs"] += 1
                    marks["long_first"] += first if len(left.text) > len(right.text) else 1 - first
                if judge is not None and (left.teacher == judge) != (right.teacher == judge):
                    marks["own_pairs"] += 1
                    marks["own_first"] += first if left.teacher == judge else 1 - first
        if len({one.teacher for one in siblings}) > 2 and scores[
            siblings[0].id
        ].objective.startswith("cross"):
            elected = _elected(siblings, scores)
            marks["votes"] += 1
            marks["agreed"] += elected is not None
            marks["agreed_right"] += elected is not None and rights[elected]
    return dict(marks)


def _first(left: Score, right: Score) -> float:
    """1 if the left scored higher, 0 if the right, half for a tie."""
    ours, theirs = left.nats / left.length, right.nats / right.length
    return 0.5 if ours == theirs else float(ours > theirs)


def _elected(siblings: Sequence[Candidate], scores: dict[int, Score]) -> int | None:
    """The sibling that every judge but its author likes best, each judge's own steps aside; None if there is none."""
    by_judge: dict[str, dict[int, float]] = defaultdict(dict)
    for one in siblings:
        for part in scores[one.id].per_model:
            if part.model != one.teacher:
                by_judge[part.model][one.id] = part.nats / scores[one.id].length
    favourites = {judge: max(liked, key=lambda id: liked[id]) for judge, liked in by_judge.items()}
    for one in siblings:
        votes = [
            favourite == one.id for judge, favourite in favourites.items() if judge != one.teacher
        ]
        if votes and all(votes):
            return one.id
    return None


def wilson(share: float, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    centre = (share + Z95**2 / (2 * total)) / (1 + Z95**2 / total)
    spread = (
        Z95
        / (1 + Z95**2 / total)
        * math.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2))
    )
    return centre - spread, centre + spread


def paired(left: Sequence[Run], right: Sequence[Run]) -> tuple[float, float, float]:
    """The mean difference left - right on the same problems, and its 95 % interval (normal)."""
    others = {run.problem: run.right for run in right}
    apart = [run.right - others[run.problem] for run in left if run.problem in others]
    mean = sum(apart) / len(apart)
    spread = math.sqrt(sum((x - mean) ** 2 for x in apart) / max(len(apart) - 1, 1) / len(apart))
    return mean, mean - Z95 * spread, mean + Z95 * spread


@dataclass(frozen=True, slots=True)
class Row:
    """One method; shares in per cent."""

    method: str
    problems: int
    accuracy: float
    low: float
    high: float
    predictive_perplexity: float | None
    written: int
    scored: int
    seconds: float
    right_first: float | None
    long_first: float | None
    own_first: float | None
    agreed: float | None
    agreed_right: float | None
    hollow_first: float | None = None
    in_reasoning: float | None = None
    unfinished: float | None = None


@dataclass(frozen=True, slots=True)
class Gain:
    """What one method gains over another on the same problems, in points, and the tokens each wrote."""

    method: str
    over: str
    points: float
    low: float
    high: float
    written: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Retrained:
    """One table after several trainings of the models, on problems that all of them have in common.

    accuracy: of every method in all of them, in per cent, a training each. The gains are of the mean over trainings,
    their intervals over problems.
    """

    name: str
    problems: dict[str, int]
    accuracy: dict[str, tuple[float, ...]]
    written: dict[str, int]
    gains: tuple[Gain, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One table: its rows, gains at equal tokens, and how often each teacher wrote the winner's nth step.

    kept: by search without a reference, what it gains over the best teacher alone, in per cent of what the default
    with a reference gains.
    """

    name: str
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    kept: dict[str, float]
    wins: dict[str, dict[str, list[float]]]


def tables(runs: Sequence[Run]) -> list[Found]:
    """Everything that was measured, in the order it was."""
    found = []
    for name in dict.fromkeys(run.table for run in runs):
        methods: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            if run.table == name:
                methods[run.method].append(run)
        rows = tuple(_row(method, mine) for method, mine in methods.items())
        wins = {
            method: _wins(mine)
            for method, mine in methods.items()
            if method.startswith(("greedy", "beam"))
        }
        found.append(Found(name, rows, tuple(_gains(methods, rows)), _kept(rows), wins))
    return found


def retrained(trainings: Sequence[Sequence[Run]]) -> list[Retrained]:
    """What was measured of the same problems after each of several trainings."""
    known = [{(run.table, run.method, run.problem): run for run in runs} for runs in trainings]
    same = [[runs[key] for runs in known] for key in known[0] if all(key in runs for runs in known)]
    mean = [
        replace(
            runs[0],
            right=sum(run.right for run in runs) / len(runs),
            written=round(sum(run.written for run in runs) / len(runs)),
        )
        for runs in same
    ]
    shares = [
        {(table.name, row.method): row.accuracy for table in tables(runs) for row in table.rows}
        for runs in zip(*same, strict=True)
    ]
    return [
        Retrained(
            table.name,
            {row.method: row.problems for row in table.rows},
            {
                row.method: tuple(each[table.name, row.method] for each in shares)
                for row in table.rows
            },
            {row.method: row.written for row in table.rows},
            table.gains,
        )
        for table in tables(mean)
    ]


def _row(method: str, runs: Sequence[Run]) -> Row:
    count = len(runs)
    marks: Counter[str] = Counter()
    for run in runs:
        marks.update(run.marks)
    share = sum(run.right for run in runs) / count
    low, high = wilson(share, count)
    known = [math.exp(run.log_s) for run in runs if run.log_s is not None]

    def portion(part: str, whole: str) -> float | None:
        return round(100 * marks[part] / marks[whole], 1) if marks[whole] >= 50 else None

    return Row(
        method=method,
        problems=count,
        accuracy=round(100 * share, 1),
        low=round(100 * low, 1),
        high=round(100 * high, 1),
        predictive_perplexity=round(sum(known) / len(known), 3) if known else None,
        written=round(sum(run.written for run in runs) / count),
        scored=round(sum(run.scored for run in runs) / count),
        seconds=round(sum(run.seconds for run in runs) / count, 3),
        right_first=portion("right_first", "right_pairs"),
        long_first=portion("long_first", "long_pairs"),
        own_first=portion("own_first", "own_pairs"),
        agreed=portion("agreed", "votes"),
        agreed_right=portion("agreed_right", "agreed"),
        hollow_first=portion("hollow_first", "hollow_pairs"),
        in_reasoning=_percent([run.in_reasoning for run in runs if run.in_reasoning is not None]),
        unfinished=_percent([run.marks["unfinished"] for run in runs if "unfinished" in run.marks]),
    )


def _percent(shares: Sequence[float]) -> float | None:
    return round(100 * sum(shares) / len(shares), 1) if shares else None


def gain(methods: Mapping[str, Sequence[Run]], method: str, over: str) -> Gain:
    """One method against another on the problems that both have, in points."""
    mean, low, high = (round(100 * value, 1) for value in paired(methods[method], methods[over]))
    written = [
        sum(run.written for run in methods[name]) / len(methods[name]) for name in (method, over)
    ]
    return Gain(method, over, mean, low, high, (written[0], written[1]))


def _gains(methods: dict[str, list[Run]], rows: Sequence[Row]) -> list[Gain]:
    """Every search against the cheapest curation that wrote no fewer tokens, or the dearest there is."""
    by_name = {row.method: row for row in rows}
    curations = sorted(
        (row for row in rows if row.method.startswith("curation×")), key=lambda row: row.written
    )
    gains = []
    for name, runs in methods.items():
        judged = [row for row in curations if _judge(row.method) <= _judge(name)]
        if not name.startswith(("greedy", "beam", "MCTS")) or not judged:
            continue
        nearest = max((_judge(row.method) for row in judged), key=len)
        ours = [row for row in judged if _judge(row.method) == nearest]
        rival = next((row for row in ours if row.written >= by_name[name].written), ours[-1])
        mean, low, high = (round(100 * value, 1) for value in paired(runs, methods[rival.method]))
        gains.append(
            Gain(name, rival.method, mean, low, high, (by_name[name].written, rival.written))
        )
    return gains


def _kept(rows: Sequence[Row]) -> dict[str, float]:
    """See `Found.kept`; empty where the table does not hold what it takes."""
    accuracy = {row.method: row.accuracy for row in rows}
    alone = [share for method, share in accuracy.items() if re.fullmatch(r"\w+ alone", method)]
    if not alone or BY_REFERENCE not in accuracy or accuracy[BY_REFERENCE] <= max(alone):
        return {}
    return {
        method: round(100 * (share - max(alone)) / (accuracy[BY_REFERENCE] - max(alone)), 1)
        for method, share in accuracy.items()
        if method.startswith(("greedy", "beam")) and "reference" not in method
    }


def _judge(method: str) -> frozenset[str]:
    """What a row's name says after its strategy: the score, and who judges."""
    return frozenset(method.split(", ")[1:])


def _wins(runs: Sequence[Run]) -> dict[str, list[float]]:
    """By teacher, the share of winners in per cent whose nth step it wrote."""
    found: dict[str, list[float]] = {}
    for teacher in sorted({name for run in runs for name in run.winners}):
        found[teacher] = [
            round(100 * sum(teacher in run.winners[step : step + 1] for run in runs) / len(runs), 1)
            for step in range(6)
        ]
    return found
