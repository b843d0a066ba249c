"""Which proposals of a step are no longer waited for. Pure.

Once a quorum of a step has arrived, the others get as long as `patience` times what is usual at
this step, and at most `patience_s` seconds more than the quorum took.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from proxy.decoder.plan import Layer
from proxy.decoder.settings import Settings
from proxy.decoder.tree import Proposal

_LEAST_S = 1.0
"""No proposal is given up earlier: a pause of this length says nothing about a teacher."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`overdue` are the proposals to give up now; at `until`, if at all, there may be more."""

    overdue: tuple[Proposal, ...] = ()
    until: float | None = None


def patience(layer: Layer, settings: Settings, now: float) -> Patience:
    """What to give up of a layer; `now` is in seconds, on the clock of its proposals' times."""
    # A proposal that waits for the others to be weighed against them has arrived.
    out = [one for one in layer.unsettled if one.elicited is None]
    spare = math.floor((1 - settings.quorum) * len(layer.wants))
    answered = layer.landed or len(out) < len(layer.unsettled)
    if not out or layer.missing or len(out) > spare or not answered:
        return Patience()
    arrived = [one for one in layer.proposals if one not in out]
    spoken = [one for one in arrived if one.candidate is not None]
    since = sorted(one.settled_s for one in arrived)[max(len(layer.wants) - spare - 1, 0)]
    usual = statistics.median(one.settled_s - one.requested_s for one in spoken)

    def limit(proposal: Proposal) -> float:
        allowed = proposal.requested_s + max(settings.patience * usual, _LEAST_S)
        return min(max(allowed, since), since + settings.patience_s)

    limits = {one: limit(one) for one in out}
    return Patience(
        tuple(one for one in out if limits[one] <= now),
        min((at for at in limits.values() if at > now), default=None),
    )
