"""Finds an answer that a step already states, so that no teacher has to write it again.

Models without thinking markup often end their turn in the middle of a step, after they have answered in it. Pure, and
conservative: text that is not clearly an answer is ignored.
"""

from __future__ import annotations

import re

_NAME = r"(?:the |my )?(?:final )?answer"
_HEADING = re.compile(
    rf"^[ \t]*(?:#{{1,6}}[ \t]*{_NAME}\b|\*\*{_NAME} ?(?::\*\*|\*\*:?))[ \t]*[:.]?[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
"""`### Final Answer`, `**Answer:**`; what follows, on the line or below, is the answer."""
_SENTENCE = re.compile(
    r"\b(?:final|correct) answer\b[^\n]{0,40}?(?:\bis\b|=|:)[ \t*]*\S|\banswer is:?[ \t*]*\S",
    re.IGNORECASE,
)
_NONE_YET = re.compile(
    r"\\boxed\{\s*(?:\.\.\.|…|\?+|answer)?\s*\}|\banswer is (?:not|unknown|unclear)\b",
    re.IGNORECASE,
)
_HEADER = re.compile(r"^#{1,6} \w+ \d+\.[ \t]*")
_BOXED = "\\boxed{"


def stated_answer(step_text: str) -> str | None:
    """The part of a step that states the final answer, fit for a client; None if it states none.

    It is what stands under an answer's heading, else the last paragraph's line with a filled `\\boxed{}`, else its line
    that says what the (final) answer is.
    """
    text = _HEADER.sub("", step_text).strip()
    headings = list(_HEADING.finditer(text))
    if headings:
        under = text[headings[-1].end() :].strip()
        return under if under and not _NONE_YET.search(under) else None
    last = text.rpartition("\n\n")[2]
    for states in (_boxes, lambda line: _SENTENCE.search(line) is not None):
        line = next((line.strip() for line in reversed(last.splitlines()) if states(line)), None)
        if line is not None:
            return None if _NONE_YET.search(line) else line
    return None


def _boxes(line: str) -> bool:
    """Whether a line holds a `\\boxed{}` that is closed and not empty."""
    _, found, rest = line.rpartition(_BOXED)
    depth = 1
    for at, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return bool(found) and bool(rest[:at].strip())
    return False
