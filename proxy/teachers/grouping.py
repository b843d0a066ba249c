"""Steps of a sensible length from short paragraphs: a teacher that ends one too early is asked to go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.decoder.ports import OnText
from proxy.decoder.types import Continuation, TeacherRequest

Write = Callable[[TeacherRequest, OnText | None], Awaitable[Continuation]]
"""A teacher's `write`."""

_BREAK = "\n\n"


async def write_grouped(write: Write, ask: TeacherRequest, on_text: OnText | None) -> Continuation:
    """As `write`, joined to at least `ask.min_chars` characters, or until it ends otherwise than at a step's end.

    Each further call counts as it costs: prompt tokens are summed too.

    Raises:
        TeacherError: as `write`; what had been written is lost with it.
    """
    whole = await write(ask, on_text)
    while whole.ended == "marker" and whole.text.strip() and len(whole.text) < ask.min_chars:
        left = ask.max_tokens - whole.completion_tokens
        if left <= 0:
            break
        said = whole.text.rstrip() + _BREAK
        if on_text is not None:
            on_text(said[len(whole.text) :] if said.startswith(whole.text) else _BREAK)
        part = await write(replace(ask, reasoning=ask.reasoning + said, max_tokens=left), on_text)
        whole = Continuation(
            said + part.text.lstrip(),
            part.ended,
            whole.prompt_tokens + part.prompt_tokens,
            whole.completion_tokens + part.completion_tokens,
            whole.tokens_estimated or part.tokens_estimated,
        )
        if not part.text.strip():
            break
    return whole
