"""The request fields that cannot be honoured: accepted where they ask for nothing, refused by name where they do.

One table. A field that is neither here nor in the schema is unknown, and refused as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.api.body import to_json
from proxy.api.plan import Wish

Neutral = Mapping[str, tuple[Any, ...]]
"""By field, the values that ask for nothing; null always does."""

CHAT: Neutral = {
    # OpenAI
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
    # vLLM's and other servers' sampling extras, which generic clients send at their neutral values
    "top_k": (-1, 0),
    "min_p": (0,),
    "typical_p": (1,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False, True),
    "min_tokens": (0,),
    "echo": (False,),
    "chat_template_kwargs": ({},),
}

COMPLETIONS: Neutral = {
    **CHAT,
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "suffix": ("",),
    "logprobs": (),
}

RESPONSES: Neutral = {
    "background": (False,),
    "context_management": (),
    "conversation": (),
    "include": ([], ["reasoning.encrypted_content"]),
    "max_tool_calls": (),
    "parallel_tool_calls": (True, False),
    "previous_response_id": (),
    "prompt": (),
    "top_logprobs": (0,),
}


def supported(body: Mapping[str, Any], table: Neutral) -> dict[str, Any]:
    """The body without the fields of the table."""
    return {name: value for name, value in body.items() if name not in table}


def wishes(body: Mapping[str, Any], table: Neutral) -> list[Wish]:
    """The fields of the table that ask for something, which only a single teacher can grant."""
    return [
        Wish(name, "single", _refusal(name, table))
        for name, value in body.items()
        if name in table
        and value is not None
        and not any(_same(value, neutral) for neutral in table[name])
    ]


def _same(value: Any, neutral: Any) -> bool:
    """Equal, and not merely because Python holds True for 1."""
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _refusal(name: str, table: Neutral) -> str:
    neutral = " or ".join(to_json(value) for value in table[name])
    allowed = f"; only {neutral} is accepted" if neutral else ""
    return f"{name!r} cannot be honoured by several teachers together{allowed}"
