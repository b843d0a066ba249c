"""The plan of a search: from the tree as it is now to what is final, wanted, and dropped.

Pure and synchronous. A *layer* is one step of all hypotheses in a beam: the calls it needs, and
the beam that would follow from what has landed so far. The first layer grows the beam that is
final. A layer whose calls have all settled is final, too; a search without speculation looks no
further. A speculative search goes on: while a layer still has calls out, the beam that would
follow is *provisional*, and the next layer grows it. What a teacher writes depends on the prefix,
the teacher and the sample alone, so asking early changes when something is known, not what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.decoder import selection
from proxy.decoder.limits import Limits, has_settled
from proxy.decoder.selection import Rank, Spread
from proxy.decoder.settings import Settings
from proxy.decoder.strategies import Strategy
from proxy.decoder.tree import Node, Proposal, Slot
from proxy.decoder.types import Candidate, Trajectory

Slots = Callable[[int], Sequence[Slot]]
"""Who is asked for a step, by its depth; the same whenever it is called."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How hypotheses are ranked and chosen. `weights` are those of the scores in the blend."""

    settings: Settings
    strategy: Strategy
    limits: Limits
    weights: Mapping[str, float]

    @property
    def scored(self) -> bool:
        """Whether a proposal counts only once it is scored."""
        return bool(self.weights)

    def decide(self, pool: Sequence[Trajectory]) -> Decision:
        """Keep the best of the pool."""
        settings = self.settings
        width = self.strategy.width or settings.beam_width
        spread = Spread(
            settings.diversity, settings.max_children_per_parent, settings.similarity_threshold
        )
        best = selection.choose(pool, self._rank(pool), width, spread)
        kept = selection.enforce_lag(best.beam, settings.commit_lag)
        return Decision(kept.beam, best.dropped, best.repeated, kept.dropped)

    def _rank(self, pool: Sequence[Trajectory]) -> Rank:
        penalty = self.settings.length_penalty
        match self.strategy.rank:
            case "score" if len(self.weights) > 1:
                return selection.by_blend(pool, self.weights, penalty)
            case "score":
                return selection.by_score(penalty)
            case "chance":
                return selection.by_chance(self.settings.sampling.seed)
            case "length":
                return selection.by_length


@dataclass(frozen=True, slots=True)
class Decision:
    """The next beam, best first, and what is dropped: by rank, as a near repetition, by the lag."""

    beam: tuple[Trajectory, ...]
    outranked: tuple[Trajectory, ...]
    repeated: tuple[Trajectory, ...]
    lagging: tuple[Trajectory, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """A proposal that a layer needs: the next step of a prefix, from a slot, in so many tokens."""

    prefix: Trajectory
    node: Node
    slot: Slot
    max_tokens: int

    @property
    def key(self) -> tuple[int, int]:
        """Where the proposal stands in the node."""
        return self.slot.index, self.max_tokens

    @property
    def depth(self) -> int:
        """The step that is wanted, from 1."""
        return len(self.prefix.candidates) + 1

    @property
    def proposal(self) -> Proposal | None:
        """The call, if it has been made."""
        return self.node.proposals.get(self.key)


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a beam, as far as it has come.

    Attributes:
        depth: the step that is asked for, from 1.
        wants: the calls it needs, by the rank of their prefix, then by slot.
        missing: those that have not been made.
        unscored: written proposals that the decision needs a score of.
        unsettled: calls in progress, `unscored` ones among them.
        empty: proposals that say nothing.
        duplicates: proposals with the id of the one that says the same.
        surplus: proposals under a prefix to which the teachers have nothing to add.
        complete: those prefixes, as finished hypotheses.
        decision: what follows from what has landed; None if nothing has.
    """

    depth: int
    wants: tuple[Want, ...]
    missing: tuple[Want, ...]
    unscored: tuple[tuple[Want, Proposal], ...]
    unsettled: tuple[Proposal, ...]
    empty: tuple[Proposal, ...]
    duplicates: tuple[tuple[Proposal, Proposal], ...]
    surplus: tuple[Proposal, ...]
    complete: tuple[Trajectory, ...]
    extended: tuple[Trajectory, ...]
    decision: Decision | None

    @property
    def settled(self) -> bool:
        """Whether every call has been made and has come to its end."""
        return not self.missing and not self.unsettled

    @property
    def proposals(self) -> list[Proposal]:
        """The calls that have been made, in the order of the wants."""
        return [one for want in self.wants if (one := want.proposal) is not None]

    @property
    def written(self) -> list[Candidate]:
        """What the teachers wrote for this step."""
        return [one.candidate for one in self.proposals if one.candidate is not None]

    @property
    def failures(self) -> list[str]:
        """Why calls came to nothing."""
        return [str(one.failure) for one in self.proposals if one.failure is not None]

    @property
    def landed(self) -> bool:
        """Whether there is a next step, or the word of the teachers that none is needed."""
        return bool(self.extended or self.complete)


def layers(beam: Sequence[Trajectory], root: Node, rules: Rules, slots: Slots) -> Iterator[Layer]:
    """The layer that grows the final beam, then the speculative ones below it, one at a time.

    A layer below is there as long as the one above it has landed anything that can grow.
    """
    while True:
        layer = grow(beam, root, rules, slots)
        yield layer
        if not layer.landed or layer.decision is None:
            return
        after = layer.decision.beam
        if has_settled(beam, after) or not any(map(rules.limits.is_open, after)):
            return
        beam = after


def grow(beam: Sequence[Trajectory], root: Node, rules: Rules, slots: Slots) -> Layer:
    """The next step of this beam, as far as the tree knows it. The beam must be able to grow."""
    growing = [trajectory for trajectory in beam if rules.limits.is_open(trajectory)]
    depth = len(growing[0].candidates) + 1
    families = [_family(prefix, root.at(prefix), slots(depth), rules) for prefix in growing]
    complete = tuple(
        replace(family.prefix, complete=True) for family in families if family.is_complete
    )
    adding = [family for family in families if not family.is_complete]
    extended = tuple(trajectory for family in adding for trajectory in family.extended)
    finished = [trajectory for trajectory in beam if not rules.limits.is_open(trajectory)]
    pool = (*finished, *complete, *extended)
    return Layer(
        depth=depth,
        wants=tuple(want for family in families for want in family.wants),
        missing=tuple(want for family in families for want in family.missing),
        unscored=tuple(pair for family in families for pair in family.unscored),
        unsettled=tuple(one for family in families for one in family.unsettled),
        empty=tuple(one for family in families for one in family.empty),
        duplicates=tuple(pair for family in families for pair in family.duplicates),
        surplus=tuple(
            one for family in families if family.is_complete for one in family.distinct.values()
        ),
        complete=complete,
        extended=extended,
        decision=rules.decide(pool) if pool else None,
    )


@dataclass(slots=True)
class _Family:
    """The proposals under one prefix. `distinct` holds the first of each text, in slot order."""

    prefix: Trajectory
    wants: list[Want] = field(default_factory=list)
    missing: list[Want] = field(default_factory=list)
    unscored: list[tuple[Want, Proposal]] = field(default_factory=list)
    unsettled: list[Proposal] = field(default_factory=list)
    empty: list[Proposal] = field(default_factory=list)
    duplicates: list[tuple[Proposal, Proposal]] = field(default_factory=list)
    distinct: dict[str, Proposal] = field(default_factory=dict)
    extended: list[Trajectory] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether at least half of those who answered have nothing to add to this prefix."""
        silent = sum(one.candidate is not None and one.candidate.closes for one in self.empty)
        return bool(self.prefix.candidates) and silent >= max(len(self.extended), 1)


def _family(prefix: Trajectory, node: Node, slots: Sequence[Slot], rules: Rules) -> _Family:
    family = _Family(prefix)
    max_tokens = rules.limits.step_tokens(prefix)
    for slot in slots:
        want = Want(prefix, node, slot, max_tokens)
        family.wants.append(want)
        proposal = want.proposal
        if proposal is None:
            family.missing.append(want)
        elif proposal.writing:
            family.unsettled.append(proposal)
        elif proposal.candidate is not None and not proposal.abandoned:
            _sort_in(family, want, proposal, rules)
    return family


def _sort_in(family: _Family, want: Want, proposal: Proposal, rules: Rules) -> None:
    """Put a written proposal where it belongs among its siblings."""
    candidate = proposal.candidate
    assert candidate is not None
    if not candidate.text:
        family.empty.append(proposal)
    elif candidate.text in family.distinct:
        family.duplicates.append((proposal, family.distinct[candidate.text]))
    else:
        family.distinct[candidate.text] = proposal
        if not rules.scored or proposal.score is not None:
            # A prefix that two teachers wrote has one node: its children learn here whose it is.
            own = replace(candidate, parent=family.prefix.tip)
            family.extended.append(family.prefix.extend(own, proposal.score))
        else:
            family.unsettled.append(proposal)
            family.unscored.append((want, proposal))
