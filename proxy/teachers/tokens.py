"""Counting tokens where a backend does not: an approximation by tiktoken's cl100k_base, for accounting only.

Never used to cut, score or bound anything; `usage` from the backend always wins.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

if TYPE_CHECKING:
    import tiktoken

_PIECE_CHARS = 8192
_LONG_CHARS = 16384
"""About two milliseconds' work; handing it to a thread takes a tenth of one."""


def approximate_tokens(text: str) -> int:
    """How many tokens a typical tokenizer makes of this text.

    A long text is counted in pieces, since a tokenizer's time may grow with the square of an unbroken run.
    """
    pieces = (text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))
    return sum(len(_encoding().encode(piece, disallowed_special=())) for piece in pieces)


async def estimated_tokens(prompt: str, text: str) -> tuple[int, int]:
    """As `approximate_tokens`, for both; long ones are counted off the event loop."""
    if len(prompt) + len(text) < _LONG_CHARS:
        return approximate_tokens(prompt), approximate_tokens(text)
    return await to_thread.run_sync(lambda: (approximate_tokens(prompt), approximate_tokens(text)))


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    import tiktoken

    # tiktoken fetches its vocabulary when first asked; litellm ships the same file, found without importing it.
    litellm = importlib.util.find_spec("litellm")
    if (
        "TIKTOKEN_CACHE_DIR" not in os.environ
        and litellm is not None
        and litellm.origin is not None
    ):
        vocabulary = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ["TIKTOKEN_CACHE_DIR"] = str(vocabulary)
    return tiktoken.get_encoding("cl100k_base")
