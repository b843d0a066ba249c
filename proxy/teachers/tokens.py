"""Counting tokens where a backend does not: an approximation by tiktoken's cl100k_base, for accounting only.

Never used to cut, score or bound anything; `usage` from the backend always wins.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken


def approximate_tokens(text: str) -> int:
    """How many tokens a typical tokenizer makes of this text."""
    return len(_encoding().encode(text, disallowed_special=()))


@lru_cache(maxsize=1)
def _encoding() -> tiktoken.Encoding:
    import tiktoken

    # tiktoken fetches its vocabulary when first asked; litellm ships the same file, found without importing it.
    litellm = importlib.util.find_spec("litellm")
    if "TIKTOKEN_CACHE_DIR" not in os.environ and litellm is not None and litellm.origin is not None:
        vocabulary = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ["TIKTOKEN_CACHE_DIR"] = str(vocabulary)
    return tiktoken.get_encoding("cl100k_base")
