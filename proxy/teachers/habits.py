"""In which cuts a teacher's reasoning falls when it is left to itself: found out once, by one short problem.

Many reasoning models ignore what they are told of headers and think in paragraphs. Cut by headers, such a teacher would
write all of its reasoning as one step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.decoder.steps import Cut, Segmentation
from proxy.decoder.types import Continuation, Message, TeacherRequest

Write = Callable[[TeacherRequest], Awaitable[Continuation]]
"""A teacher's `write`."""

_PROBLEM = (
    "A shop sells pens for 3 coins and books for 12 coins. Ann buys 4 pens and 2 books and pays with 50 coins. "
    "How many coins does she get back?"
)
_TOKENS = 256
_PARAGRAPHS = 3
_CUES = 2


async def kept_cuts(write: Write, segmentation: Segmentation) -> frozenset[Cut] | None:
    """The cuts that a teacher keeps of itself. `segmentation` is by markers: it is told of them, and begins with one.

    Empty where its reasoning goes on without falling in parts; None where it was done too soon to tell. One greedy
    call of up to 256 tokens.

    Raises:
        TeacherError: it could not be asked.
    """
    messages = segmentation.instruct((Message("user", _PROBLEM),))
    header = segmentation.header(1)
    written = await write(
        TeacherRequest(messages, header, None, (), _TOKENS, temperature=0.0, top_p=1.0, seed=0)
    )
    cuts = cuts_in(header + written.text, segmentation)
    return None if not cuts and written.ended != "length" else cuts


def cuts_in(reasoning: str, segmentation: Segmentation) -> frozenset[Cut]:
    """The cuts by which a text falls in parts."""
    paragraphs = [paragraph for paragraph in reasoning.split("\n\n") if paragraph.strip()]
    found: set[Cut] = set()
    if f"\n{segmentation.marker} 2" in reasoning:
        found.add("marker")
    if len(paragraphs) >= _PARAGRAPHS:
        found.add("blank-line")
    if sum(paragraph.startswith(segmentation.cues) for paragraph in paragraphs[1:]) >= _CUES:
        found.add("cue-word")
    return frozenset(found)
