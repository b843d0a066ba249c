"""The state of one component, as `/ready` shows it. `proxy.probe` finds it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal[
    "ok",
    "waiting",
    "loading",
    "examining",
    "silent",
    "crashed",
    "unreachable",
    "wrong_url",
    "unfit",
    "failed",
]
"""`waiting`: not asked yet; `silent`: connected, but no reply in time; `unfit`: failed its examination."""


@dataclass(frozen=True, slots=True)
class ComponentState:
    """A teacher's or the scorer's state. The proxy is ready while all that is `required` is `ok`."""

    name: str
    ok: bool
    required: bool = True
    detail: str = ""
    status: Status = "waiting"


def is_ready(components: Mapping[str, ComponentState]) -> bool:
    """Whether requests can be served with the components as they are."""
    return all(state.ok for state in components.values() if state.required)
