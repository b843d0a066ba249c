"""Decides what happens to a request: several teachers decode it, one teacher gets it unchanged, or it is refused.

Pure: from what a request asks for and which models there are. A request to an ensemble goes to a single teacher only
where the client or the operator has agreed to that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proxy.errors import RequestError, UnknownModel
from proxy.service import Ensemble


@dataclass(frozen=True, slots=True)
class Wish:
    """A field that asks for more than one text.

    `needs` says who can grant it: a panel with a teacher that calls tools, one with a teacher that holds its answer to
    a format, or no panel, only a single teacher. `message` is told where nobody can.
    """

    field: str
    needs: Literal["tools", "format", "single"]
    message: str

    def granted_by(self, ensemble: Ensemble) -> bool:
        """Whether these teachers can do it together."""
        match self.needs:
            case "tools":
                return ensemble.supports_tools
            case "format":
                return ensemble.supports_response_format
        return False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What decides about a request. `searches`: it says how to search; `relay`: it may go to a single teacher."""

    path: str
    model: str
    wishes: Sequence[Wish] = ()
    searches: bool = False
    relay: bool = False

    @classmethod
    def of(
        cls, path: str, fields: Mapping[str, Any], wishes: Sequence[Wish], relay: bool
    ) -> Wanted:
        """Read from a body whose `model` is text; `relay` is the operator's word, if the request has none."""
        cord = fields.get("cord")
        cord = cord if isinstance(cord, dict) else {} if cord is None else {"": cord}
        own = cord.get("relay")
        searches = bool(cord.keys() - {"relay"})
        return cls(
            path, str(fields["model"]), wishes, searches, relay if own is None else own is True
        )


@dataclass(frozen=True, slots=True)
class Models:
    """The models there are: ensembles (single teachers among them), and which paths a single model's server has."""

    ensembles: Mapping[str, Ensemble]
    paths: Mapping[str, frozenset[str]]

    def answer(self, path: str) -> list[str]:
        """The single models that can be asked directly on a path."""
        return [name for name, paths in self.paths.items() if path in paths]


@dataclass(frozen=True, slots=True)
class Decode:
    """The teachers of an ensemble write together."""

    ensemble: Ensemble


@dataclass(frozen=True, slots=True)
class Relay:
    """The body goes to one teacher's own server. `why` is the field that an ensemble could not honour."""

    model: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody is asked."""

    error: RequestError


Plan = Decode | Relay | Refuse


def plan(wanted: Wanted, models: Models) -> Plan:
    """What becomes of a request."""
    direct = models.answer(wanted.path)
    if wanted.model in direct and not wanted.searches:
        return Relay(wanted.model)
    ensemble = models.ensembles.get(wanted.model)
    if ensemble is None:
        return Refuse(UnknownModel(_unknown(wanted, direct), param="model"))
    wish = next((wish for wish in wanted.wishes if not wish.granted_by(ensemble)), None)
    if wish is None:
        return Decode(ensemble)
    names = [ensemble.settings.answerer, *(teacher.name for teacher in ensemble.panel)]
    able = [name for name in dict.fromkeys(names) if name in direct]
    if able and wanted.relay and not wanted.searches:
        return Relay(str(able[0]), re.split(r"[.\[]", wish.field)[0])
    return Refuse(
        RequestError(
            _refusal(wish, wanted, ensemble, able), param=wish.field, code="unsupported_parameter"
        )
    )


def _unknown(wanted: Wanted, direct: Sequence[str]) -> str:
    if wanted.path in ("chat/completions", "completions", "responses"):
        return f"the model {wanted.model[:256]!r} is not configured"
    able = ", ".join(direct) or "none is configured"
    return f"no single model {wanted.model[:256]!r} answers /v1/{wanted.path}; these do: {able}"


def _refusal(wish: Wish, wanted: Wanted, ensemble: Ensemble, able: Sequence[str | None]) -> str:
    if not able:
        return wish.message
    names = ", ".join(map(str, able))
    if wanted.searches:
        return f"{wish.message}; without cord settings it can go to a single teacher: {names}"
    told = f"ask a single teacher ({names}), or send cord.relay = true to have one of them chosen"
    return f"{ensemble.name!r}: {wish.message}; {told}"
