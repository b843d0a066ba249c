"""The table of scores in docs/search.md, written from `scoring.scores.SCORES`.

`python -m scoring.score_table` rewrites it between its marks; a test checks that it is up to date.
"""

from __future__ import annotations

from pathlib import Path

from scoring.scores import SCORES, ScoreSpec

PAGE = Path("docs/search.md")
_BEGIN = "<!-- scores: written by `python -m scoring.score_table` -->\n"
_END = "<!-- /scores -->\n"


def rewritten(page: str) -> str:
    """The page with the table between its marks replaced."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    rows = "".join(_row(spec) for spec in SCORES.values())
    head = "| score | source | formula | asks | sums over steps | needs | costs |\n|---|---|---|---|---|---|---|\n"
    return f"{before}{_BEGIN}\n{head}{rows}\n{_END}{after}"


def _row(spec: ScoreSpec) -> str:
    formula = f"{spec.formula} (arXiv {spec.paper})" if spec.paper else spec.formula
    additive = "yes" if spec.additive else ""
    return f"| `{spec.name}` | {spec.source} | {formula} | {spec.asks} | {additive} | {spec.needs} | {spec.cost} |\n"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
