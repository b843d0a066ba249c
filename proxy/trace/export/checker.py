"""Whether an answer is one of the reference answers, by its text alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.trace.record import TraceRecord

_BOXED = "\\boxed{"


def is_correct(record: TraceRecord) -> bool:
    """Whether the answer states a reference: as what it boxes last, else as the whole of what it says."""
    return record.winner is not None and states_reference(record.winner.answer, record.references)


def states_reference(answer: str, references: Sequence[str]) -> bool:
    """Whether a text's final answer is that of a reference."""
    said = _plain(final_answer(answer))
    return any(said == _plain(final_answer(reference)) for reference in references)


def final_answer(text: str) -> str:
    """What the last `\\boxed{…}` holds, its braces balanced; the whole text where there is none."""
    begin = text.rfind(_BOXED)
    if begin < 0:
        return text
    depth, start = 1, begin + len(_BOXED)
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().rstrip(".").casefold()
