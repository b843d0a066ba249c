"""Whether what the proxy depends on answers: each teacher and the scorer, asked over HTTP again and again.

Every target has a loop of its own, so a slow or failing one delays no other, and every question is bounded in time. A
target that answers for the first time, or again, is examined once. Tells `/ready` and `cord check`, and has a child
that hangs restarted; keeping requests from a teacher is the guard's business.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import httpx

from proxy.api.health import ComponentState, Status
from proxy.errors import TeacherError
from proxy.processes import Child

log = logging.getLogger(__name__)

_HUNG_AFTER = 3
"""Probes in a row without a reply after which a child that has answered before is restarted."""
_CRASHES = 3
"""Restarts after which waiting for a child is not worth while, though it is still started again."""
_LONGEST_REPLY = 1 << 20
_FINAL: frozenset[Status] = frozenset({"ok", "unfit", "wrong_url"})


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers HTTP. `path` is relative to the client's base URL and answers 200 when all is well.

    `examine` then says what else is wrong with it, if anything; `note` what else is to be known of it. `child` is the
    process, where it is one of ours.
    """

    name: str
    client: httpx.AsyncClient
    path: str
    required: bool
    examine: Callable[[], Awaitable[str | None]] | None = None
    note: Callable[[], str] = lambda: ""
    child: Child | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How often targets are asked, and how long one question or a child's start may take, in seconds."""

    own_s: float = 2.0
    others_s: float = 10.0
    loading_s: float = 0.25
    unreachable_s: float = 1.0
    timeout_s: float = 5.0
    examine_s: float = 120.0
    load_s: float = 1800.0


@dataclass(slots=True)
class _Known:
    """What is known of one target.

    `complaint` is its examination's result, once it is `examined`; `logged` the last unexpected failure in the log.
    """

    state: ComponentState
    answered_at: float | None = None
    timeouts: int = 0
    examined: bool = False
    complaint: str | None = None
    logged: str = ""


@dataclass(slots=True)
class Probes:
    """The latest state of every target. A proxy is ready with its scorer and at least one teacher."""

    teachers: Sequence[Target]
    scorer: Target
    pace: Pace = Pace()
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, _Known] = field(init=False)
    _changed: anyio.Event = field(init=False)

    def __post_init__(self) -> None:
        self._known = {
            target.name: _Known(
                ComponentState(target.name, False, target.required, "not asked yet")
            )
            for target in self._targets
        }
        self._changed = anyio.Event()

    def states(self) -> Mapping[str, ComponentState]:
        """By component; `teachers` stands for there being at least one."""
        states = {target.name: self._state(target) for target in self._targets}
        answering = sum(states[target.name].ok for target in self.teachers)
        detail = f"{answering} of {len(self.teachers)} teachers answer"
        some = ComponentState(
            "teachers", answering > 0, True, detail, "ok" if answering else "failed"
        )
        return {"teachers": some, **states}

    def settled(self) -> bool:
        """Whether waiting changes nothing: everything answers, or has failed in a way that only its owner can mend."""
        return all(self._is_settled(target) for target in self._targets)

    async def run(self) -> None:
        """Probe every target until cancelled."""
        async with anyio.create_task_group() as group:
            for target in self._targets:
                group.start_soon(self._watch, target)

    async def until_settled(self) -> None:
        """Wait, while `run` probes, until everything is settled."""
        while not self.settled():
            await self.changed()

    async def changed(self) -> None:
        """Wait for the next change of any state."""
        await self._changed.wait()

    async def once(self) -> None:
        """Probe every target once, all at the same time."""
        async with anyio.create_task_group() as group:
            for target in self._targets:
                group.start_soon(self._probe, target)

    @property
    def _targets(self) -> tuple[Target, ...]:
        return (self.scorer, *self.teachers)

    def _state(self, target: Target) -> ComponentState:
        """The latest state, unless it is too old to be believed."""
        known = self._known[target.name]
        if known.state.ok and known.answered_at is not None:
            silence_s = self.clock() - known.answered_at
            if silence_s > self._pause_s(target, known.state) + self.pace.timeout_s + 1:
                return _state(target, "silent", f"no answer for {silence_s:.0f} s")
        return known.state

    def _is_settled(self, target: Target) -> bool:
        status = self._known[target.name].state.status
        if target.child is not None:
            return status in _FINAL or target.child.gave_up or target.child.restarts >= _CRASHES
        return status in _FINAL or status in ("unreachable", "failed")

    async def _watch(self, target: Target) -> None:
        while True:
            await self._probe(target)
            await anyio.sleep(self._pause_s(target, self._known[target.name].state))

    def _pause_s(self, target: Target, state: ComponentState) -> float:
        if state.status in ("ok", "unfit", "failed"):
            return self.pace.others_s if target.child is None else self.pace.own_s
        return self.pace.unreachable_s if target.child is None else self.pace.loading_s

    async def _probe(self, target: Target) -> None:
        """Ask one target; whatever goes wrong becomes its state."""
        known = self._known[target.name]
        try:
            state = await self._asked(target, known)
        except (
            Exception
        ) as exc:  # a bug, or a library's surprise: this target's failure and nobody else's
            state = _state(target, "failed", f"{type(exc).__name__}: {exc}")
            if known.logged != state.detail:
                log.exception("probing %s failed", target.name)
            known.logged = state.detail
        self._tell(known, state)

    async def _asked(self, target: Target, known: _Known) -> ComponentState:
        try:
            with anyio.fail_after(self.pace.timeout_s):
                status = await _get(target)
        except (TimeoutError, httpx.TimeoutException):
            known.examined = False
            return self._silent(target, known)
        except (httpx.HTTPError, OSError) as exc:
            known.examined, known.timeouts = False, 0
            if target.child is not None and target.child.loading_s > self.pace.load_s:
                target.child.restart(
                    f"its model has been loading for {target.child.loading_s:.0f} s"
                )
            return _unanswered(target, exc)
        known.timeouts = 0
        if target.child is not None:
            target.child.answered()
        if status != 200:
            known.examined = False
            return _state(target, *_meaning(target, status))
        return await self._examined(target, known)

    def _silent(self, target: Target, known: _Known) -> ComponentState:
        known.timeouts += 1
        detail = f"no answer within {self.pace.timeout_s:g} s"
        if target.child is not None and target.child.serving and known.timeouts >= _HUNG_AFTER:
            target.child.restart(f"{detail}, {known.timeouts} times in a row")
            known.timeouts = 0
        return _state(target, "silent", detail)

    async def _examined(self, target: Target, known: _Known) -> ComponentState:
        """The state of a target that answers: what is wrong with it is found out once."""
        if target.examine is not None and not known.examined:
            self._tell(known, _state(target, "examining", "answers, and is being examined"))
            try:
                with anyio.fail_after(self.pace.examine_s):
                    known.complaint = await target.examine()
            except TimeoutError:
                return _state(
                    target,
                    "failed",
                    f"its examination did not end within {self.pace.examine_s:g} s",
                )
            except TeacherError as exc:
                return _state(target, "failed", str(exc))
            known.examined = True
        known.answered_at = self.clock()
        return (
            _state(target, "unfit", known.complaint)
            if known.complaint
            else _state(target, "ok", target.note())
        )

    def _tell(self, known: _Known, state: ComponentState) -> None:
        if state == known.state:
            return
        known.state = state
        self._changed.set()
        self._changed = anyio.Event()


def _state(target: Target, status: Status, detail: str = "") -> ComponentState:
    return ComponentState(target.name, status == "ok", target.required, detail, status)


async def _get(target: Target) -> int:
    """The status of a GET; of its body no more is read than is sensible."""
    size = 0
    async with target.client.stream("GET", target.path) as reply:
        async for chunk in reply.aiter_bytes():
            size += len(chunk)
            if size > _LONGEST_REPLY:
                break
    return reply.status_code


def _unanswered(target: Target, exc: Exception) -> ComponentState:
    """The state of a target that cannot be reached: for a child, what its process says explains more."""
    if target.child is not None and not target.child.serving:
        return _state(target, *target.child.condition())
    return _state(
        target, "unreachable", f"cannot reach {target.client.base_url}: {exc or type(exc).__name__}"
    )


def _meaning(target: Target, status: int) -> tuple[Status, str]:
    """What a status other than 200 says about the target, and what to do."""
    url = target.client.base_url.join(target.path)
    if target.child is None and status in (401, 403):
        return "wrong_url", f"HTTP {status} at {url}: it wants another API key; set api_key"
    if target.child is None and status in (404, 405):
        hint = "check the address"
        if not target.client.base_url.path.rstrip("/").endswith("/v1"):
            hint = f"OpenAI-compatible servers answer below /v1: try {target.client.base_url.join('v1')}"
        return "wrong_url", f"HTTP {status} at {url}; {hint}"
    return "failed", f"HTTP {status} at {url}"
