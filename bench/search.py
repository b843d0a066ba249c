"""What speculation is worth: the real search over simulated teachers, in virtual time.

Three teachers of 60, 50 and 45 tokens a second write 40 steps of 200 tokens, log-normal; 80 ms to
a first token, 60 ms a score, and each further sequence slows an engine by 3 %. Every figure is the
mean over seeds of a ratio within the same seed, so the machine's speed does not matter. What is
found is checked to be the same with speculation and without.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio
import trio.testing
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.simulated import SimulatedScorer, SimulatedTeacher, Texts
from proxy.decoder.events import Committed, StepDecided
from proxy.decoder.journal import Journal
from proxy.decoder.search import search
from proxy.decoder.settings import Budget, Sampling, Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Message, Problem, Result

STEPS = 40
_SPEEDS = (60.0, 50.0, 45.0)
_PROBLEM = Problem("p", (Message("user", "What is it?"),), references=("42",))
_BASE = Settings(
    score="predictive",
    quorum=1.0,
    speculate="off",
    budget=Budget(steps=STEPS, step_tokens=4096, reasoning_tokens=10**6, deadline_s=1e6),
)
_PATIENT = {"quorum": 0.5, "patience": 3.0}
SEARCHES: dict[str, Settings] = {
    "curation ×1": replace(_BASE, strategy="curation"),
    "greedy": replace(_BASE, strategy="greedy"),
    "greedy, speculative": replace(_BASE, strategy="greedy", speculate="auto"),
    "beam of 4": _BASE,
    "beam of 4, speculative, ≤ 12 calls": replace(_BASE, speculate="auto", max_calls=12),
    "beam of 4, speculative, ≤ 18 calls": replace(_BASE, speculate="auto"),
    "beam of 4, one child a parent": replace(_BASE, max_children_per_parent=1),
    "the same, speculative": replace(_BASE, max_children_per_parent=1, speculate="auto"),
    "beam of 4, speculative, patience 3": replace(_BASE, speculate="auto", **_PATIENT),  # type: ignore[arg-type]
}
"""By what the table calls them. The first and "beam of 4" are what the others are divided by."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One search: virtual seconds, tokens written by all, and when its steps could be sent.

    `lag` is how many steps the search was ahead of what it had sent, the median over its steps.
    """

    seconds: float
    tokens: float
    result: Result
    first_s: float
    lag: float


def measure(settings: Settings, spread: float, seed: int, steps: int = STEPS) -> Measured:
    """Run one search on a clock that jumps to the next thing that happens."""
    texts = Texts(steps=steps, tokens=200, spread=spread)
    panel = [SimulatedTeacher(f"t{i}", texts, speed) for i, speed in enumerate(_SPEEDS)]
    chosen = replace(settings, sampling=Sampling(seed=seed))

    async def decode() -> tuple[Journal, Result]:
        journal = Journal(anyio.current_time)
        cut = Segmentation(instruction="")
        scorer = SimulatedScorer()
        result = await search(_PROBLEM, panel, scorer, chosen, cut, journal.emit)
        return journal, result

    clock = trio.testing.MockClock(autojump_threshold=0)
    journal, result = anyio.run(decode, backend="trio", backend_options={"clock": clock})
    depth, lags, first_s = 0, [], 0.0
    for stamped in journal.events:
        match stamped.event:
            case StepDecided(at):
                depth = at
            case Committed(candidate):
                first_s = first_s or stamped.at_s
                lags.append(depth - candidate.depth)
    tokens = sum(teacher.written for teacher in panel)
    return Measured(journal.events[-1].at_s, tokens, result, first_s, statistics.median(lags))


def table(spread: float, seeds: Sequence[int]) -> Table:
    """All searches at one spread of the steps' length."""
    made = Table(
        "", "wall ÷ curation ×1", "tokens ÷ beam's", "first step, s", "lag, steps", "same result"
    )
    runs = {
        name: [measure(settings, spread, seed) for seed in seeds]
        for name, settings in track(SEARCHES.items(), f"σ {spread:g}", console=Console(stderr=True))
    }
    for name, found in runs.items():
        unspeculative = replace(SEARCHES[name], speculate="off", max_calls=None)
        plain = next((key for key, one in SEARCHES.items() if one == unspeculative), None)
        same = ""
        if plain is not None and plain != name:
            pairs = zip(found, runs[plain], strict=True)
            same = f"{sum(one.result.winner.text == other.result.winner.text for one, other in pairs)} of {len(found)}"
        wall = _ratio([one.seconds for one in found], [one.seconds for one in runs["curation ×1"]])
        tokens = _ratio([one.tokens for one in found], [one.tokens for one in runs["beam of 4"]])
        first = statistics.fmean(one.first_s for one in found)
        lag = statistics.fmean(one.lag for one in found)
        made.add_row(name, f"{wall:.2f}", f"{tokens:.2f}", f"{first:.1f}", f"{lag:.1f}", same)
    return made


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.fmean(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="searches a row (default: 5)")
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.4, 0.7, 1.0], metavar="σ")
    options = parser.parse_args()
    console = Console(width=120)
    for spread in options.spreads:
        console.print(f"\nspread of a step's length: σ = {spread:g}, {options.seeds} seeds")
        console.print(table(spread, range(options.seeds)))


if __name__ == "__main__":
    main()
