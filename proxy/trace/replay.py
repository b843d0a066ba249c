"""What another score, width or spread would have chosen from the proposals that a stored search had.

Nothing is generated. Two things are told apart. A *decision* is one step's proposals under one prefix: which is best
by the stored score and by the other is known for every one of them. A *replay* goes from the root by the other
settings, as far as the stored proposals reach: it may come to a prefix that was never asked for more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.decoder import selection
from proxy.decoder.limits import has_settled
from proxy.decoder.ports import Scorer
from proxy.decoder.selection import Rank, Spread
from proxy.decoder.settings import Settings
from proxy.decoder.stated import stated_answer
from proxy.decoder.types import Candidate, Message, Problem, Score, Source, Trajectory
from proxy.trace.export.checker import states_reference
from proxy.trace.export.student import as_text
from proxy.trace.record import CandidateRecord, TraceRecord, message_text

_UNSCORED = ("duplicate", "empty", "straggler", "speculative")

Scores = Mapping[int, Score]
"""By candidate."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a search would have found.

    Attributes:
        path: the trajectory that would have won, as far as it is stored.
        off_tree: it ends where nothing more was stored, though its reasoning was not closed.
        same_winner: it is the trajectory that did win.
        decisions, agreed: steps with two scored proposals or more, and those in which both scores have the same best.
        right, was_right: whether its answer, and the stored winner's, is a reference; None where that is not known.
    """

    path: tuple[int, ...]
    off_tree: bool
    same_winner: bool
    decisions: int
    agreed: int
    right: bool | None
    was_right: bool | None


@dataclass(slots=True)
class Comparison:
    """Counts over many replays."""

    records: int = 0
    same_winner: int = 0
    off_tree: int = 0
    decisions: int = 0
    agreed: int = 0
    judged: int = 0
    right: int = 0
    was_right: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1

    def add(self, replayed: Replayed) -> None:
        self.records += 1
        self.same_winner += replayed.same_winner
        self.off_tree += replayed.off_tree
        self.decisions += replayed.decisions
        self.agreed += replayed.agreed
        if replayed.right is not None and replayed.was_right is not None:
            self.judged += 1
            self.right += replayed.right
            self.was_right += replayed.was_right

    @property
    def lines(self) -> list[str]:
        """The report, a line a finding."""
        found = [
            f"{self.records} searches replayed; the same winner in {_share(self.same_winner, self.records)}",
            f"{self.decisions} decisions; the same best proposal in {_share(self.agreed, self.decisions)}",
            f"off the stored tree before the end: {_share(self.off_tree, self.records)}",
        ]
        if self.judged:
            found.append(
                f"right, where both answers are known ({self.judged}): replayed {_share(self.right, self.judged)}, "
                f"as it was {_share(self.was_right, self.judged)}"
            )
        else:
            found.append(
                "right: not known, as no search has a reference and a stated answer on both sides"
            )
        if self.left_out:
            found.append(
                "left out: "
                + ", ".join(f"{count} {why}" for why, count in sorted(self.left_out.items()))
            )
        return found


def replay(
    record: TraceRecord, scores: Scores, settings: Settings, score: str, width: int
) -> Replayed:
    """Choose again, by these scores and settings. `score` names them, as a blend may; `width` is the beam's."""
    families = _families(record, scores)
    beam: tuple[Trajectory, ...] = (Trajectory(),)
    spread = Spread(
        settings.diversity, settings.max_children_per_parent, settings.similarity_threshold
    )
    while True:
        grown = [child for one in beam if not one.closed for child in _grown(one, families, scores)]
        if not grown:
            break
        # What was not asked for more stays as it is and competes with the others.
        kept = [one for one in beam if one.candidates and (one.closed or one.tip not in families)]
        pool = kept + grown
        chosen = selection.choose(pool, _rank(pool, score, settings), width, spread)
        before, beam = beam, selection.enforce_lag(chosen.beam, settings.commit_lag).beam
        if beam[0].closed and has_settled(before, beam):
            break
    best = beam[0]
    decisions, agreed = _agreement(record, families, scores, score, settings)
    winner = record.winner.path if record.winner else ()
    # The tree may end in a winner that a majority of silent teachers closed.
    same = best.path == tuple(winner)
    return Replayed(
        path=best.path,
        off_tree=bool(best.candidates) and not best.closed and not same,
        same_winner=same,
        decisions=decisions,
        agreed=agreed,
        right=_is_right(record, best, same=same),
        was_right=_was_right(record),
    )


def stored_scores(record: TraceRecord, names: Sequence[str]) -> dict[int, Score]:
    """The candidates' stored scores of these names, the first of them leading; only where all are stored."""
    found: dict[int, Score] = {}
    for candidate in record.candidates:
        if candidate.score is not None:
            by_name = {
                score.objective: score for score in (candidate.score, *candidate.score.blended)
            }
            if all(name in by_name for name in names):
                first, *others = (replace(by_name[name], blended=()) for name in names)
                found[candidate.id] = replace(first, blended=tuple(others))
    return found


async def rescored(record: TraceRecord, scorer: Scorer, names: Sequence[str]) -> dict[int, Score]:
    """The candidates' scores of these names by a scorer, asked as the search would have asked it.

    Raises:
        ScorerError: the scorer is away or refused the text.
    """
    problem = as_problem(record)
    candidates = [one for one in record.candidates if one.text and one.fate not in _UNSCORED]
    elicited: dict[int, tuple[str, ...]] = {}
    if Source.CONSENSUS.value in names:
        for one in candidates:
            elicited[one.id], _ = await scorer.elicit(problem, record.prefix(one.parent), one.text)
    found: dict[int, Score] = {}
    for one in candidates:
        scores = []
        for name in names:
            pool = None
            if name == Source.CONSENSUS.value:
                step = {
                    other.id: elicited[other.id] for other in candidates if other.depth == one.depth
                }
                pool = selection.answers_of_others(step, one.id)
            scores.append(
                await scorer.score(
                    problem, record.prefix(one.parent), one.text, name, one.teacher, pool
                )
            )
        found[one.id] = replace(scores[0], blended=tuple(scores[1:]))
    return found


def as_problem(record: TraceRecord) -> Problem:
    """The problem as the search had it."""
    messages = tuple(
        Message(str(one["role"]), message_text(one)) for one in as_text(record.messages)
    )
    return Problem(record.id, messages, record.references, tools=record.tools)


def _families(record: TraceRecord, scores: Scores) -> dict[int | None, list[CandidateRecord]]:
    """The scored proposals under each prefix."""
    found: dict[int | None, list[CandidateRecord]] = defaultdict(list)
    for candidate in record.candidates:
        if candidate.id in scores and candidate.parent != candidate.id:
            found[candidate.parent].append(candidate)
    return dict(found)


def _grown(
    one: Trajectory, families: Mapping[int | None, Sequence[CandidateRecord]], scores: Scores
) -> list[Trajectory]:
    if len(one.candidates) > len(scores):
        return []  # a damaged record goes in a circle
    return [
        one.extend(_candidate(child, slot), scores[child.id])
        for slot, child in enumerate(families.get(one.tip, ()))
    ]


def _candidate(stored: CandidateRecord, slot: int) -> Candidate:
    ended = stored.ended if stored.ended in ("marker", "closed", "eos", "length") else "marker"
    return Candidate(
        stored.id,
        stored.parent,
        stored.depth,
        stored.teacher,
        stored.text,
        ended,  # type: ignore[arg-type]
        stored.prompt_tokens,
        stored.completion_tokens,
        slot=slot,
    )


def _rank(pool: Sequence[Trajectory], score: str, settings: Settings) -> Rank:
    weights = selection.blend(score)
    if len(weights) > 1:
        return selection.by_blend(pool, weights, settings.length_penalty)
    return selection.by_score(settings.length_penalty)


def _agreement(
    record: TraceRecord,
    families: Mapping[int | None, Sequence[CandidateRecord]],
    scores: Scores,
    score: str,
    settings: Settings,
) -> tuple[int, int]:
    """Families in which both scores can be compared, and those in which they have the same best."""
    decisions = agreed = 0
    for siblings in families.values():
        both = [one for one in siblings if one.score is not None]
        if len(both) < 2:
            continue
        decisions += 1
        was = [Trajectory().extend(_candidate(one, i), one.score) for i, one in enumerate(both)]
        now = [
            Trajectory().extend(_candidate(one, i), scores[one.id]) for i, one in enumerate(both)
        ]
        stored = record.settings
        best_was = max(was, key=_rank(was, record.objective or stored.score, stored))
        best_now = max(now, key=_rank(now, score, settings))
        agreed += best_was.path == best_now.path
    return decisions, agreed


def _is_right(record: TraceRecord, best: Trajectory, *, same: bool) -> bool | None:
    if same:
        return _was_right(record)
    if not record.references or not best.candidates:
        return None
    stated = stated_answer(best.candidates[-1].text)
    return None if stated is None else states_reference(stated, record.references)


def _was_right(record: TraceRecord) -> bool | None:
    if not record.references or record.winner is None:
        return None
    return states_reference(record.winner.answer, record.references)


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.0f} %)" if total else "0"
