"""How to search: every setting is written once, here, with its type, bounds, default and doc line.

The request schema, the configuration schema and the tables in docs/search.md and docs/api.md follow from `SETTINGS`.
This module reads no JSON and no YAML, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from proxy.decoder.types import Source

StrategyName = Literal["beam", "greedy", "curation", "single", "random", "longest"]
"""The keys of `decoder.strategies.STRATEGIES`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about a setting beside its name, type and default.

    Attributes:
        doc: what it does, one line of docs/search.md.
        cost: what a higher value costs.
        name: its name outside, where that differs from the field's.
        ge, gt, le: the bounds of a number, or the longest text.
        unit: of a number, as the docs write it.
        null: what null means where it is a value of its own; elsewhere null leaves the setting as configured.
        by_source: the default by what the score knows, where nobody sets it (docs/quality.md).
        default: how the docs write the default, where the value alone would say little.
        top_level: a request sets it in OpenAI's own field of that name, not in `cord`.
    """

    doc: str
    cost: str = ""
    name: str | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    unit: str = ""
    null: str | None = None
    by_source: Mapping[Source, Any] = field(default_factory=dict)
    default: str | None = None
    top_level: bool = False


_TOKENS = {"ge": 1, "le": 1_048_576}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a teacher samples. `seed` is the request's; every call derives its own from it."""

    temperature: Annotated[float, Setting("of every teacher", ge=0, le=2, top_level=True)] = 0.8
    top_p: Annotated[float, Setting("nucleus of every teacher", gt=0, le=1, top_level=True)] = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """What one search may spend.

    `total_tokens`, where set, bounds reasoning and answer together (OpenAI's `max_completion_tokens`).
    """

    steps: Annotated[
        int,
        Setting(
            "the reasoning ends after so many steps", "linear", name="max_steps", ge=1, le=1024
        ),
    ] = 32
    step_tokens: Annotated[int, Setting("tokens of one step", "linear", **_TOKENS)] = 512
    reasoning_tokens: Annotated[
        int, Setting("tokens of the winning reasoning", "linear", **_TOKENS)
    ] = 16384
    answer_tokens: Annotated[int, Setting("tokens of the answer", "linear", **_TOKENS)] = 4096
    total_tokens: int | None = None
    deadline_s: Annotated[
        float,
        Setting(
            "seconds for the whole request; then the best so far is answered, within another tenth (a second at least)",
            ge=0.1,
            le=86_400,
            unit="s",
        ),
    ] = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How to search; docs/search.md says what each does to quality and cost."""

    strategy: Annotated[StrategyName, Setting("what is searched, see below", "")] = "beam"
    score: Annotated[
        str,
        Setting(
            "what ranks the candidates: `auto` (`predictive` with a reference, else "
            "`scorer.reference_free`), a name from below, or a blend of them",
            "",
            le=256,
        ),
    ] = "auto"
    beam_width: Annotated[
        int,
        Setting(
            "B, hypotheses that survive a step",
            "B × K calls a step",
            ge=1,
            le=64,
            by_source={Source.REFERENCE: 4, Source.CONSENSUS: 1, Source.NONE: 1},
        ),
    ] = 4
    samples: Annotated[int, Setting("proposals per teacher and prefix", "linear", ge=1, le=16)] = 1
    diversity: Annotated[
        float,
        Setting(
            "nats taken off a candidate for each better sibling (arXiv 1611.08562)",
            ge=0,
            le=1000,
            unit="nats",
        ),
    ] = 0.0
    max_children_per_parent: Annotated[
        int | None,
        Setting(
            "children of one parent that survive while other parents have any; with 1, hypotheses never branch",
            "the first step is sent later: once all hypotheses share it, or `commit_lag` steps on",
            ge=1,
            le=64,
            null="as many as there are",
            by_source={Source.REFERENCE: 1},
        ),
    ] = None
    similarity_threshold: Annotated[
        float | None,
        Setting(
            "share of words at which the worse of two siblings is dropped as the same; equal text always is",
            gt=0,
            le=1,
            null="only equal text is dropped",
        ),
    ] = None
    length_penalty: Annotated[
        float,
        Setting(
            "α in Σ nats / Σ length^α, for scores that add up over steps (arXiv 1609.08144)",
            ge=0,
            le=4,
        ),
    ] = 1.0
    commit_lag: Annotated[
        int | None,
        Setting(
            "a step is sent at the latest when it lies this many steps back",
            "earlier text, less search",
            ge=0,
            le=1024,
            unit="steps",
            null="a step is sent once all hypotheses share it",
        ),
    ] = 8
    quorum: Annotated[
        float,
        Setting(
            "share of a step's proposals that must have arrived before stragglers may be left behind",
            "slow teachers are heard less",
            ge=0,
            le=1,
        ),
    ] = 0.5
    patience: Annotated[
        float,
        Setting(
            "after the quorum, a proposal is given up when it takes this many times what is usual "
            "at its step, and more than a second",
            "slow teachers are heard less",
            ge=1,
            le=1000,
        ),
    ] = 8.0
    patience_s: Annotated[
        float, Setting("and at the latest so long after the quorum", ge=0, le=3600, unit="s")
    ] = 20.0
    prefill_partial_steps: Annotated[
        bool,
        Setting(
            "the scorer reads steps while they are written, so that only their end is left when they are done",
            "more calls to the scorer; worth it when the scorer's GPU is idle while teachers write",
        ),
    ] = False
    speculate: Annotated[
        Literal["off", "auto"],
        Setting(
            "whether later steps are asked for before a step is final; never changes the result",
            "calls whose step did not survive",
        ),
    ] = "auto"
    max_calls: Annotated[
        int | None,
        Setting(
            "teacher calls in flight, speculation included",
            "",
            ge=1,
            le=1024,
            null="1.5 × `beam_width` × teachers × `samples`",
        ),
    ] = None
    adaptive: Annotated[
        bool,
        Setting(
            "ask those teachers less often that do not win at this stage of the reasoning",
            "saves calls",
        ),
    ] = False
    exploration: Annotated[
        float,
        Setting(
            "how often, at least, an adaptive search asks them all the same", "calls", ge=0, le=1
        ),
    ] = 0.1
    answerer: Annotated[
        str | None,
        Setting(
            "the teacher that writes the answer",
            le=256,
            null="the teacher that closed the thinking",
        ),
    ] = None
    budget: Budget = field(default_factory=Budget)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Registered:
    """A setting with what its declaration says: where it lives, its type without null, and its default.

    `section` is the attribute of `Settings` that holds it; None where `Settings` itself does.
    """

    name: str
    field: str
    section: str | None
    type: Any
    default: Any
    about: Setting

    @property
    def nullable(self) -> bool:
        """Whether null is a value of its own."""
        return self.about.null is not None


def _registered(kind: type, section: str | None) -> dict[str, Registered]:
    hints, found = get_type_hints(kind, include_extras=True), {}
    for declared in fields(kind):
        hint = hints[declared.name]
        if get_origin(hint) is not Annotated:
            continue
        type_, about = hint.__origin__, hint.__metadata__[0]
        if isinstance(type_, UnionType):
            [type_] = (one for one in get_args(type_) if one is not NoneType)
        name = about.name or declared.name
        found[name] = Registered(name, declared.name, section, type_, declared.default, about)
    return found


SETTINGS: Mapping[str, Registered] = MappingProxyType(
    {
        **_registered(Settings, None),
        **_registered(Budget, "budget"),
        **_registered(Sampling, "sampling"),
    }
)
"""Every setting by its name outside, in the order of the docs."""


FITTED = frozenset(name for name, one in SETTINGS.items() if one.about.by_source)
"""The settings whose default depends on the score's source."""


def fitting(source: Source) -> dict[str, Any]:
    """The settings that fit a score of this source, where nobody has set them."""
    return {
        name: one.about.by_source[source]
        for name, one in SETTINGS.items()
        if source in one.about.by_source
    }
