"""Whether what the proxy depends on answers: each teacher and the scorer, asked over HTTP again and again.

Tells `/ready` and `cord check`; never keeps a request from a teacher, which is the guard's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from proxy.api.health import ComponentState

_SETTLED_S = 10.0
_STARTING_S = 0.25
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers HTTP. `path` is relative to the client's base URL and answers 200 when all is well."""

    name: str
    client: httpx.AsyncClient
    path: str
    required: bool


@dataclass(slots=True)
class Probes:
    """The latest state of every target. A proxy is ready with its scorer and at least one teacher."""

    teachers: Sequence[Target]
    scorer: Target
    _states: dict[str, ComponentState] = field(default_factory=dict)

    def states(self) -> Mapping[str, ComponentState]:
        """By component; `teachers` stands for there being at least one."""
        answering = [target.name for target in self.teachers if self._state(target).ok]
        some = ComponentState("teachers", bool(answering), True, f"{len(answering)} of {len(self.teachers)} answer")
        targets = (self.scorer, *self.teachers)
        return {"teachers": some, **{target.name: self._state(target) for target in targets}}

    def all_ok(self) -> bool:
        return all(state.ok for state in self.states().values())

    async def run(self) -> None:
        """Probe until cancelled: often while something is missing, else now and then."""
        while True:
            await self.until_ok()
            await anyio.sleep(_SETTLED_S)

    async def until_ok(self) -> None:
        """Probe until everything answers."""
        await self.once()
        while not self.all_ok():
            await anyio.sleep(_STARTING_S)
            await self.once()

    async def once(self) -> None:
        """Probe every target once, all at the same time."""
        async with anyio.create_task_group() as group:
            for target in (self.scorer, *self.teachers):
                group.start_soon(self._probe, target)

    def _state(self, target: Target) -> ComponentState:
        return self._states.get(target.name) or ComponentState(target.name, False, target.required, "not asked yet")

    async def _probe(self, target: Target) -> None:
        try:
            reply = await target.client.get(target.path, timeout=_TIMEOUT_S)
            ok, detail = reply.status_code == 200, "" if reply.status_code == 200 else f"HTTP {reply.status_code}"
        except httpx.HTTPError as exc:
            ok, detail = False, f"{type(exc).__name__}: {exc}"
        self._states[target.name] = ComponentState(target.name, ok, target.required, detail)
