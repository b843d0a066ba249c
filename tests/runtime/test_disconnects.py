"""Work that is raced against its client."""

from __future__ import annotations

import anyio
import pytest

from runtime.disconnects import ClientGone, while_connected

pytestmark = pytest.mark.anyio


async def silent() -> dict[str, str]:
    """A client that stays and says nothing."""
    await anyio.sleep_forever()
    raise AssertionError


async def gone() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def test_work_that_ends_first_gives_its_result() -> None:
    async def work() -> int:
        return 3

    assert await while_connected(silent, work) == 3


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    cancelled = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    with pytest.raises(ClientGone):
        await while_connected(gone, work)
    assert cancelled


async def test_a_failure_inside_task_groups_comes_out_bare() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    with pytest.raises(ValueError, match="broken"):
        await while_connected(silent, work)
