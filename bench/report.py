"""The figures as tables for a terminal, as a page and as a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from bench.figures import BY_REFERENCE, Found, Gain, Retrained, Row

_HEADS = {
    "method": "method",
    "accuracy": "right, %",
    "interval": "95 %",
    "predictive_perplexity": "S",
    "written": "written",
    "scored": "scored",
    "seconds": "s",
    "right_first": "right first, %",
    "long_first": "longer first, %",
    "own_first": "own first, %",
    "agreed": "agreed, %",
    "agreed_right": "of these right, %",
    "hollow_first": "right before hollow, %",
    "in_reasoning": "right in reasoning, %",
    "unfinished": "unfinished, %",
}


_PREFERENCES = ("right_first", "long_first", "own_first", "agreed", "agreed_right")

_KEPT = f"of what “{BY_REFERENCE}” gains over the best teacher alone, %"

_EQUAL = ("at equal tokens", "over", "points (95 %)", "tokens written")

_CLIENT = (
    "what the client gets",
    "right in content, %",
    "right in reasoning, %",
    "unfinished, %",
    "right step before hollow, %",
)

_COLUMNS = ("", "problems", "right, % (95 %)", "S", "written", "scored", "seconds")

_LEGEND = """Shares with Wilson intervals. S: mean predictive perplexity of the true answer after the winner, by meta.
Tokens written by teachers and read by judges, and seconds of one core, are a problem's. At equal tokens: the same
problems, paired, against the cheapest curation that wrote no fewer, or the dearest. Of two siblings: how often the
score puts the right one of a right and a wrong step first, the longer of two right ones, the judge's own of two right
ones (50 is chance); how often all judges but its author liked one step best, and how often that was right."""


def _cells(row: Row, keys: Iterable[str] = _HEADS) -> list[str]:
    values = {**asdict(row), "interval": f"{row.low:.0f}–{row.high:.0f}"}
    return ["" if values[key] is None else str(values[key]) for key in keys]


def _shown(row: Row) -> list[str]:
    right = f"{row.accuracy:.1f} ({row.low:.0f}–{row.high:.0f})"
    perplexity = "" if row.predictive_perplexity is None else f"{row.predictive_perplexity:.2f}"
    scored = f"{row.scored:,}" if row.scored else ""
    return [
        row.method,
        str(row.problems),
        right,
        perplexity,
        f"{row.written:,}",
        scored,
        f"{row.seconds:.2f}",
    ]


def _client_rows(rows: Sequence[Row]) -> Iterable[Sequence[str]]:
    """By method, where both were looked at: right in the answer, in the reasoning, and reasoning that did not close."""
    for row in rows:
        if row.unfinished is not None:
            hollow = "" if row.hollow_first is None else f"{row.hollow_first:.0f}"
            yield (
                row.method,
                f"{row.accuracy:.0f}",
                f"{row.in_reasoning or 0:.0f}",
                f"{row.unfinished:.0f}",
                hollow,
            )


def _shares(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.0f}" for share in shares)


@dataclass(frozen=True, slots=True)
class Report:
    """The whole bench."""

    date: str
    machine: str
    found: list[Found] = field(default_factory=list)
    retrained: list[Retrained] = field(default_factory=list)
    command: str = "make bench-quality"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def rendered(self) -> list[RichTable]:
        """For a terminal."""
        shown = []
        for found in self.found:
            table = RichTable(*_HEADS.values(), title=found.name)
            for row in found.rows:
                table.add_row(*_cells(row))
            shown.append(table)
            if found.gains:
                gains = RichTable(*_EQUAL, title=found.name)
                for gain in found.gains:
                    gains.add_row(*_gain_cells(gain))
                shown.append(gains)
        return shown

    def markdown(self) -> str:
        """The same as a page of a document."""
        lines = [
            f"# Figures of `{self.command}`",
            "",
            f"{self.date}, {self.machine}.",
            "",
            _LEGEND,
            "",
        ]
        for found in self.found:
            judged = [
                [row.method, *_cells(row, _PREFERENCES)]
                for row in found.rows
                if row.right_first is not None
            ]
            teachers = sorted({teacher for wins in found.wins.values() for teacher in wins})
            won = [
                [row, *(_shares(wins.get(name, [])) for name in teachers)]
                for row, wins in found.wins.items()
            ]
            lines += [f"## {found.name.capitalize()}", ""]
            lines += _table(_COLUMNS, map(_shown, found.rows))
            lines += _table(_EQUAL, map(_gain_cells, found.gains))
            lines += _table(
                ("without a reference", _KEPT),
                ((row, f"{kept:.0f}") for row, kept in found.kept.items()),
            )
            lines += _table(("of two siblings", *(_HEADS[key] for key in _PREFERENCES)), judged)
            lines += _table(_CLIENT, _client_rows(found.rows))
            lines += _table(("winner's steps 1 to 6, %", *teachers), won)
        for again in self.retrained:
            trainings = range(1, 1 + len(next(iter(again.accuracy.values()))))
            heads = (
                "right, %",
                "problems",
                *(f"training {number}" for number in trainings),
                "mean",
                "written",
            )
            lines += [
                f"## {again.name.capitalize()}: models of several trainings, gains in the mean",
                "",
            ]
            lines += _table(heads, _retrained_cells(again))
            lines += _table(_EQUAL, map(_gain_cells, again.gains))
        return "\n".join(lines)

    def draw(self, file: Path) -> None:
        """Accuracy over tokens written, a panel a table."""
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5))
        for axis in axes.flat[len(self.found) :]:
            axis.remove()
        for axis, found in zip(axes.flat, self.found, strict=False):
            for number, (label, (marker, rows)) in enumerate(_groups(found.rows).items()):
                x, y = [row.written for row in rows], [row.accuracy for row in rows]
                spread = [
                    [row.accuracy - row.low for row in rows],
                    [row.high - row.accuracy for row in rows],
                ]
                line = "-" if number > 1 else ""
                axis.errorbar(
                    x, y, spread, label=label, marker=marker, ls=line, capsize=2, color=f"C{number}"
                )
            axis.set(title=found.name, ylim=(0, 102), xlim=(0, None))
            axis.grid(alpha=0.3)
        figure.supxlabel("tokens written a problem")
        figure.supylabel("right, %")
        axes.flat[0].legend(fontsize=8, loc="lower right")
        figure.tight_layout()
        figure.savefig(file)


def _groups(rows: Sequence[Row]) -> dict[str, tuple[str, list[Row]]]:
    """The rows that a picture shows, by what joins them, with the marker of each."""

    def named(pattern: str) -> list[Row]:
        return sorted(
            (row for row in rows if re.fullmatch(pattern, row.method)), key=lambda row: row.written
        )

    return {
        "one teacher alone": ("x", named(r"\w+ alone")),
        "majority vote": ("*", named(r"majority vote of \d+")),
        "curation, reference": ("s", named(r"curation×\d+, reference")),
        "greedy and beams, reference": ("o", named(r"(greedy|beam B=\d+), reference")),
        "beams, one child a parent": ("D", named(r"beam B=\d+, reference, one child a parent")),
        "greedy and beams, cross": ("^", named(r"(greedy|beam B=\d+), cross")),
    }


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, if it has rows."""
    told = list(rows)
    return (
        [*(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *told)), ""]
        if told
        else []
    )


def _retrained_cells(again: Retrained) -> Iterable[Sequence[str]]:
    """By method: problems, each training's accuracy and their mean, tokens written."""
    for method, shares in again.accuracy.items():
        told = (f"{share:.1f}" for share in (*shares, sum(shares) / len(shares)))
        yield method, str(again.problems[method]), *told, f"{again.written[method]:,}"


def _gain_cells(gain: Gain) -> list[str]:
    points = f"{gain.points:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})"
    return [gain.method, gain.over, points, f"{gain.written[0]:,.0f} : {gain.written[1]:,.0f}"]
