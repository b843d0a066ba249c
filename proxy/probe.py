"""Whether what the proxy depends on answers: each teacher and the scorer, asked over HTTP again and again.

A teacher that answers for the first time, or again, is examined once: whether it goes on with a half-written turn.
Tells `/ready` and `cord check`; keeping requests from a teacher is the guard's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from proxy.api.health import ComponentState
from proxy.errors import TeacherError

_SETTLED_S = 10.0
_STARTING_S = 0.25
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers HTTP. `path` is relative to the client's base URL and answers 200 when all is well.

    `examine` then says what else is wrong with it, if anything.
    """

    name: str
    client: httpx.AsyncClient
    path: str
    required: bool
    examine: Callable[[], Awaitable[str | None]] | None = None


@dataclass(slots=True)
class Probes:
    """The latest state of every target. A proxy is ready with its scorer and at least one teacher."""

    teachers: Sequence[Target]
    scorer: Target
    _states: dict[str, ComponentState] = field(default_factory=dict)
    _complaints: dict[str, str | None] = field(default_factory=dict)  # of those examined since they last answered

    def states(self) -> Mapping[str, ComponentState]:
        """By component; `teachers` stands for there being at least one."""
        answering = [target.name for target in self.teachers if self._state(target).ok]
        some = ComponentState("teachers", bool(answering), True, f"{len(answering)} of {len(self.teachers)} answer")
        targets = (self.scorer, *self.teachers)
        return {"teachers": some, **{target.name: self._state(target) for target in targets}}

    def settled(self) -> bool:
        """Whether everything answers, for better or for worse."""
        targets = (self.scorer, *self.teachers)
        return all(self._state(target).ok or self._complaints.get(target.name) for target in targets)

    async def run(self) -> None:
        """Probe until cancelled: often while something is missing, else now and then."""
        while True:
            await self.until_settled()
            await anyio.sleep(_SETTLED_S)

    async def until_settled(self) -> None:
        """Probe until everything answers and has been examined."""
        await self.once()
        while not self.settled():
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
            detail = "" if reply.status_code == 200 else f"HTTP {reply.status_code}"
        except httpx.HTTPError as exc:
            detail = f"{type(exc).__name__}: {exc}"
        if detail:
            self._complaints.pop(target.name, None)
        else:
            detail = await self._examine(target)
        self._states[target.name] = ComponentState(target.name, not detail, target.required, detail)

    async def _examine(self, target: Target) -> str:
        """What is wrong with a target that answers, found out once; empty if nothing is."""
        if target.examine is None:
            return ""
        if target.name not in self._complaints:
            try:
                self._complaints[target.name] = await target.examine()
            except TeacherError as exc:
                return str(exc)
        return self._complaints[target.name] or ""
