"""The search settings a user may set, with their bounds, wherever they are set: in a request or in config.yaml.

Holds names, bounds and the choice of a score; knows no HTTP and does not search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from proxy.decoder.search import STRATEGIES
from proxy.decoder.selection import blend
from proxy.decoder.types import Settings, Source
from proxy.errors import RequestError

_SEARCH_FIELDS = (
    "strategy", "score", "beam_width", "samples", "diversity", "length_penalty", "commit_lag", "quorum", "patience_s",
    "prefill_partial_steps", "answerer", "max_children_per_parent", "similarity_threshold", "plateau", "agreement",
    "adaptive", "exploration",
)  # fmt: skip
_BUDGET_FIELDS = {
    "max_steps": "steps",
    "step_tokens": "step_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "answer_tokens": "answer_tokens",
    "deadline_s": "deadline_s",
}
_NULL_MEANS_SOMETHING = frozenset(
    {"commit_lag", "answerer", "max_children_per_parent", "similarity_threshold", "plateau", "agreement"}
)

Tokens = Annotated[int, Field(ge=1, le=1_048_576)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class SearchOptions(BaseModel):
    """How to search, every key optional; `decoder.types.Settings` says what each does.

    A key left out keeps what the ensemble is configured with. So does null, but for `commit_lag` (null: wait for
    convergence), `answerer` (null: the teacher that closed the thinking), and what bounds or ends a search unless it
    is null: `max_children_per_parent`, `similarity_threshold`, `plateau`, `agreement`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    strategy: Name | None = None
    score: Name | None = None
    beam_width: Annotated[int, Field(ge=1, le=64)] | None = None
    samples: Annotated[int, Field(ge=1, le=16)] | None = None
    diversity: Annotated[float, Field(ge=0, le=1000)] | None = None
    length_penalty: Annotated[float, Field(ge=0, le=4)] | None = None
    commit_lag: Annotated[int, Field(ge=0, le=1024)] | None = None
    quorum: Annotated[float, Field(ge=0, le=1)] | None = None
    patience_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    prefill_partial_steps: bool | None = None
    answerer: Name | None = None
    max_children_per_parent: Annotated[int, Field(ge=1, le=64)] | None = None
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    plateau: Annotated[int, Field(ge=1, le=1024)] | None = None
    agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    adaptive: bool | None = None
    exploration: Annotated[float, Field(ge=0, le=1)] | None = None
    max_steps: Annotated[int, Field(ge=1, le=1024)] | None = None
    step_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None
    answer_tokens: Tokens | None = None
    deadline_s: Annotated[float, Field(ge=0.1, le=86_400)] | None = None

    @field_validator("strategy")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in STRATEGIES:
            raise ValueError(f"unknown strategy; known are {', '.join(sorted(STRATEGIES))}")
        return value

    def apply(self, settings: Settings) -> Settings:
        """The settings with the keys that were given put in their place."""
        given = {
            name: getattr(self, name)
            for name in self.model_fields_set
            if getattr(self, name) is not None or name in _NULL_MEANS_SOMETHING
        }
        search = {name: given[name] for name in _SEARCH_FIELDS if name in given}
        budget = {field: given[name] for name, field in _BUDGET_FIELDS.items() if name in given}
        return replace(settings, **search, budget=replace(settings.budget, **budget))


FITTED: Mapping[Source, Mapping[str, int]] = {
    Source.REFERENCE: {"beam_width": 4, "max_children_per_parent": 1},
    Source.CONSENSUS: {"beam_width": 1},
    Source.NONE: {"beam_width": 1},
}
"""The settings that fit a score, by what it knows, where nobody has set them; measured in docs/quality.md."""


def source_of(score: str) -> Source:
    """What a score knows; a blend knows what any of its parts does."""
    if needs_reference(score):
        return Source.REFERENCE
    return Source.CONSENSUS if Source.CONSENSUS.value in blend(score) else Source.NONE


def needs_reference(score: str) -> bool:
    """Whether a score, or one of a blend, is defined only against an answer the request brought."""
    return any(name.startswith(("predictive", "lookahead")) for name in blend(score))


def check_score(score: str, known: frozenset[str]) -> None:
    """Raises ValueError where a score is neither "auto" nor known, nor a blend of known ones."""
    unknown = set(blend(score)) - known if score != "auto" else set()
    if unknown:
        raise ValueError(f"unknown score {min(unknown)!r}; known are auto, {', '.join(sorted(known))}")


def resolve_score(
    asked: str | None, configured: str, *, referenced: bool, known: frozenset[str], reference_free: str
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
