"""The search settings as a user may give them, in a request or in config.yaml, and the choice of a score.

The fields follow from `decoder.settings.SETTINGS`. Knows no HTTP and does not search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    create_model,
    model_validator,
)

from proxy.api.old_names import modernise
from proxy.decoder.selection import blend
from proxy.decoder.settings import SETTINGS, Registered, Settings
from proxy.decoder.types import Source
from proxy.errors import RequestError
from scoring.scores import SCORES


class SearchOptions(BaseModel):
    """Search settings, every one optional. The fields are added by `with_settings`.

    A key that is left out keeps what the ensemble is configured with. So does null, unless the setting's
    declaration says what null means.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _accept_old_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        modern, warnings = modernise(value)
        made = handler(modern)
        made._warnings = warnings
        return made

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the names that were used."""
        return self._warnings

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are set here, by name; null only where it is a value of its own."""
        return {
            name: value
            for name in SETTINGS
            if name in self.model_fields_set
            and ((value := getattr(self, name)) is not None or SETTINGS[name].nullable)
        }

    def apply(self, settings: Settings) -> Settings:
        """The settings with the given ones put in their place."""
        sections: dict[str | None, dict[str, Any]] = {}
        for name, value in self.given.items():
            one = SETTINGS[name]
            sections.setdefault(one.section, {})[one.field] = value
        search = sections.pop(None, {})
        for section, values in sections.items():
            search[str(section)] = replace(getattr(settings, str(section)), **values)
        return replace(settings, **search)


Options = TypeVar("Options", bound=SearchOptions)


def with_settings(kind: type[Options]) -> type[Options]:
    """The model with one optional field for each setting of `cord`; a class decorator."""
    return _with(kind, {name: one for name, one in SETTINGS.items() if not one.about.top_level})


def with_all_settings(kind: type[Options]) -> type[Options]:
    """The model with one optional field for each setting, sampling included; a class decorator."""
    return _with(kind, SETTINGS)


def _with(kind: type[Options], settings: Mapping[str, Registered]) -> type[Options]:
    fields: dict[str, Any] = {name: (field_type(one), None) for name, one in settings.items()}
    made = create_model(
        kind.__name__, __base__=kind, __module__=kind.__module__, __doc__=kind.__doc__, **fields
    )
    return made


def field_type(one: Registered) -> Any:
    """A setting's type for pydantic: with its bounds, and null allowed."""
    about = one.about
    if one.type is str:
        bounds = Field(min_length=1, max_length=int(about.le or 256))
    else:
        bounds = Field(ge=about.ge, gt=about.gt, le=about.le)
    return Annotated[Annotated[one.type, bounds] | None, Field(description=about.doc)]


def source_of(score: str) -> Source:
    """What a score knows; a blend knows what any of its parts does."""
    if needs_reference(score):
        return Source.REFERENCE
    return Source.CONSENSUS if Source.CONSENSUS.value in blend(score) else Source.NONE


def needs_reference(score: str) -> bool:
    """Whether a score, or one of a blend, is defined only against an answer the request brought."""
    return any(name in SCORES and SCORES[name].needs_reference for name in blend(score))


def check_score(score: str, known: frozenset[str]) -> None:
    """Raises ValueError where a score is neither "auto" nor known, nor a blend of known ones."""
    unknown = set(blend(score)) - known if score != "auto" else set()
    if unknown:
        raise ValueError(
            f"unknown score {min(unknown)!r}; known are auto, {', '.join(sorted(known))}"
        )


def resolve_score(
    asked: str | None,
    configured: str,
    *,
    referenced: bool,
    known: frozenset[str],
    reference_free: str,
) -> str:
    """The score to search with: what was asked for, else what the ensemble is configured with.

    "auto" becomes "predictive" where the request brought a reference, else the ensemble's own score if that needs
    none, else `reference_free`.

    Raises:
        RequestError: the score is unknown, or needs a reference that did not come.
    """
    wanted = asked or configured
    if wanted == "auto":
        if referenced and "predictive" in known:
            return "predictive"
        own = configured != "auto" and not needs_reference(configured)
        return configured if own else reference_free
    try:
        check_score(wanted, known)
    except ValueError as exc:
        raise RequestError(str(exc), param="cord.score", code="invalid_value") from exc
    if needs_reference(wanted) and not referenced:
        param = "cord.score" if asked else "cord.reference"
        message = f"the score {wanted!r} needs cord.reference, which was not sent"
        raise RequestError(message, param=param, code="invalid_value")
    return wanted
