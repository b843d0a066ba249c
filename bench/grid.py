"""What the quality bench compares: tables of methods. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.panel import META, TEACHERS
from miniature.task import Variety
from miniature.voices import Panel
from proxy.decoder.steps import Cut

VOTES = 2
"""Traces of each teacher that a vote counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """How to search, with which teachers, judged by whom. `more` are further search settings.

    A curation tells a row for every number of samples up to its own, and if asked one for each teacher `alone` and one
    for the vote.
    """

    name: str
    strategy: str
    score: str = "predictive"
    beam_width: int = 4
    samples: int = 1
    teachers: tuple[str, ...] = TEACHERS
    meta_prover: str = META
    judges: tuple[str, ...] = TEACHERS
    temperature: float = 0.8
    alone: bool = False
    cut: Cut = "marker"
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of what it tells."""
        if self.strategy != "curation":
            return (self.name,)
        label = self.name.partition(", ")[2]
        curations = tuple(f"curation×{samples}, {label}" for samples in range(1, self.samples + 1))
        alone = (
            *(f"{name} alone" for name in self.teachers),
            f"majority vote of {VOTES * len(self.teachers)}",
        )
        return (*curations, *(alone if self.alone else ()))

    @property
    def scored(self) -> bool:
        return self.strategy in ("beam", "greedy", "curation", "mcts")

    @property
    def needs_reference(self) -> bool:
        return self.scored and "predictive" in self.score

    @property
    def judge(self) -> str | None:
        """The teacher that alone judges its own and the others' steps, if one does."""
        alone = (
            self.scored
            and self.meta_prover in TEACHERS
            and not self.score.startswith(("cross", "consensus"))
        )
        return self.meta_prover if alone else None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows on problems of one variety, by the teachers of one panel."""

    name: str
    variety: Variety
    panel: Panel
    methods: tuple[Method, ...]


def _searches(
    score: str, label: str = "", widths: tuple[int, ...] = (1, 4), **more: Any
) -> tuple[Method, ...]:
    """Greedy and beams by one score."""
    label = label or score
    return tuple(
        Method(
            f"beam B={width}, {label}" if width > 1 else f"greedy, {label}",
            "beam",
            score,
            width,
            **more,
        )
        for width in widths
    )


_GREEDILY = tuple(
    Method(f"{name} alone, temperature 0", "single", teachers=(name,), temperature=0.0)
    for name in TEACHERS
)
_RANDOM = Method("random step", "random")
_ALDER: dict[str, Any] = {"meta_prover": "alder"}


def _curation(
    samples: int, score: str = "predictive", label: str = "reference", **more: Any
) -> Method:
    return Method(f"curation×{samples}, {label}", "curation", score, samples=samples, **more)


# What is judged by one model is judged by alder, a teacher, as in the paper; "meta" is the model trained for it.
_MAIN = (
    *_GREEDILY,
    _RANDOM,
    Method("longest step", "longest"),
    _curation(4, alone=True),
    *_searches("predictive", "reference", (1, 2, 4, 8)),
    Method("MCTS, reference", "mcts"),
    Method("alder alone ×3, beam B=4, reference", "beam", samples=3, teachers=("alder",)),
    *_searches(
        "predictive", "reference, two children a parent", (4,), more={"max_children_per_parent": 2}
    ),
    *_searches(
        "predictive", "reference, one child a parent", (2, 4), more={"max_children_per_parent": 1}
    ),
    *_searches("predictive", "reference, diversity 0.5", (4,), more={"diversity": 0.5}),
    *_searches("predictive", "reference, cut at blank lines", cut="blank-line"),
    *_searches("predictive", "reference, cut at cue words", (4,), cut="cue-word"),
    *_searches("predictive + cross", "reference + cross"),
    _curation(3, label="reference, alder", **_ALDER),
    *_searches("predictive", "reference, alder", **_ALDER),
    *_searches(
        "predictive",
        "reference, one child a parent, alder",
        (4,),
        more={"max_children_per_parent": 1},
        **_ALDER,
    ),
    _curation(3, "cross", "cross"),
    *_searches("cross"),
    *_searches("cross", "cross, adaptive", (1,), more={"adaptive": True}),
    *_searches("cross", "cross, one child a parent", (4,), more={"max_children_per_parent": 1}),
    *_searches("cross-others", widths=(1,)),
    *_searches("cross", "cross with meta", (1,), judges=(META, *TEACHERS)),
    *_searches("cross", "cross, cut at blank lines", (1,), cut="blank-line"),
    *_searches("consensus", widths=(1,)),
    _curation(2, "step", "step, meta"),
    *_searches("step", "step, meta", (1,)),
    _curation(2, "step", "step, alder", **_ALDER),
    *_searches("step", "step, alder", (1,), **_ALDER),
    *_searches("chunks", "chunks, alder", (1,), **_ALDER),
    *_searches("worst-chunk", "worst chunk, alder", (1,), **_ALDER),
    _curation(2, "contrastive", "contrastive, alder", **_ALDER),
    *_searches("contrastive", "contrastive, alder", (1,), **_ALDER),
    _curation(2, "confidence", "confidence, alder", **_ALDER),
    *_searches("confidence", "confidence, alder", (1,), **_ALDER),
)

_EVEN = (
    _curation(3, alone=True),
    *_searches("predictive", "reference"),
    *_searches(
        "predictive", "reference, one child a parent", (4,), more={"max_children_per_parent": 1}
    ),
    *_searches("predictive + cross", "reference + cross", (1,)),
    *_searches("cross"),
)

_SHARED = (
    _curation(3, alone=True),
    *_searches("predictive", "reference"),
    *_searches(
        "predictive", "reference, one child a parent", (4,), more={"max_children_per_parent": 1}
    ),
    *_searches("predictive + cross", "reference + cross"),
    *_searches("cross"),
    *_searches("cross", "cross, one child a parent", (4,), more={"max_children_per_parent": 1}),
    *_searches("cross-others", widths=(1,)),
    *_searches("cross", "cross with meta", (1,), judges=(META, *TEACHERS)),
    *_searches("consensus", widths=(1,)),
)

_OPEN = (
    *(Method(f"{name} alone", "single", teachers=(name,)) for name in TEACHERS),
    _RANDOM,
    *_searches("cross"),
    *_searches("step", "step, alder", (1,), **_ALDER),
)

GRID = (
    Table("tangled", "tangled", "independent", _MAIN),
    Table("even", "even", "independent", _EVEN),
    Table("shared mistakes", "tangled", "shared", _SHARED),
    Table("open", "open", "independent", _OPEN),
)
