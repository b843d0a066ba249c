"""One part that fails ends none of the others, and a proxy that cannot go on says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx
import pytest

from proxy.background import Background
from proxy.probe import Probes, Target
from proxy.processes import Child

pytestmark = pytest.mark.anyio


class Scripted(Child):
    """A child that does what it is told instead of running a process."""

    def __init__(self, name: str, life: Callable[[], object]) -> None:
        super().__init__(name, "nothing", [], Path("nowhere"))
        self._life = life

    async def supervise(self) -> None:
        self._life()
        await anyio.sleep_forever()


def probes() -> Probes:
    client = httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200)), base_url="http://x"
    )
    return Probes((), Target("scorer", client, "health", required=True))


def explode() -> None:
    raise RuntimeError("a bug")


async def test_a_failed_task_is_remembered_and_ends_none_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = anyio.Event()
    background = Background(
        [Scripted("bad", explode), Scripted("good", lambda: None)], probes(), failed.set
    )
    with caplog.at_level(logging.CRITICAL, "proxy.background"):
        async with background.running():
            assert background.healthy
            await failed.wait()
            await background.probes.until_settled()
            assert not background.healthy
    assert background.failure == "bad: RuntimeError: a bug"
    assert caplog.records[0].exc_info is not None


async def test_a_proxy_is_healthy_only_while_it_runs() -> None:
    background = Background([], probes())
    assert not background.healthy
    async with background.running():
        assert background.healthy
    assert not background.healthy
