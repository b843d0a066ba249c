"""Whether an answer is one of the reference answers, by its text alone."""

from __future__ import annotations

import re

from proxy.trace.record import TraceRecord

_BOXED = "\\boxed{"


def is_correct(record: TraceRecord) -> bool:
    """Whether the answer states a reference: as what it boxes last, else as the whole of what it says."""
    if record.winner is None:
        return False
    said = _plain(final_answer(record.winner.answer))
    return any(said == _plain(final_answer(reference)) for reference in record.references)


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
