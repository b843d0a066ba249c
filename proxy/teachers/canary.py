"""Whether a teacher really goes on with a half-written turn: asked once, before it is trusted with anybody's request.

Servers that apply a chat template to a raw prompt, close the turn, open a second thinking block or cut tokens otherwise
answer with plausible text all the same, and every step after the first would be wrong without a sign. What they write
greedily gives them away: text that is cut at a word and handed back must be continued with what came next.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, Message, TeacherRequest

_QUESTION = "Name the days of the week in order, then the months of the year."
_TOKENS = 32
_CUTS = 3
_COMPARED = 12
"""Characters that must agree: later ones may differ where a server's arithmetic is not the same twice."""


Write = Callable[[TeacherRequest], Awaitable[Continuation]]
"""A teacher's `write`."""


async def complaint(write: Write, segmentation: Segmentation) -> str | None:
    """What is wrong with how a teacher continues, and what to change; None if nothing is.

    Two greedy calls of a few tokens, or a few more where the second does not go on: a model may have written tokens
    that its own tokenizer would not make of the text, and then goes on otherwise at that one place.

    Raises:
        TeacherError: it could not be asked.
    """
    messages = segmentation.instruct((Message("user", _QUESTION),))
    header = segmentation.header(1)
    ask = TeacherRequest(
        messages, header, None, (), max_tokens=_TOKENS, temperature=0.0, top_p=1.0, seed=0
    )
    first = await write(ask)
    if not first.text.strip() and first.ended == "eos":
        return (
            "it ends its turn where it should go on writing: its server closes a half-written turn. Serve it by a raw "
            "completions endpoint that adds neither a template nor an end token"
        )
    if first.text.lstrip().startswith(("<think>", "[THINK]", "<|channel|>")):
        return (
            "it opens a thinking block inside the open one: set model_info.markup to what its chat template writes, or "
            "check that model_info.tokenizer is the served model's own"
        )
    written = first.text.rstrip()
    cuts = [at for at, letter in enumerate(written[: len(written) // 2]) if letter == " " and at]
    said = None
    for at in dict.fromkeys(
        cuts[i * (len(cuts) - 1) // _CUTS] for i in range(_CUTS, -1, -1) if cuts
    ):
        rest = (await write(replace(ask, reasoning=header + written[:at]))).text
        compared = min(_COMPARED, len(written) - at)
        wanted, found = written[at : at + compared], rest[:compared]
        if found == wanted:
            return None
        said = said or f"after {written[:at][-20:]!r} it first wrote {wanted!r} and then {found!r}"
    return said and (
        f"it does not go on where its text is cut: {said}. Its server seems to apply a chat template to raw prompts "
        "or to cut tokens differently; serve it by a raw completions endpoint without added tokens"
    )
