"""`cord traces`: listing, showing, erasing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.trace.store import Retention, TraceFolder
from tests.trace.searches import failed
from tests.trace.test_export import kept_record, store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def traces(tmp_path: Path) -> str:
    good, bad = await kept_record(), await kept_record(failed)
    other = replace(good, id="chatcmpl-3", metadata={"safety_identifier": "u-2"})
    folder = store(tmp_path / "traces", [good, replace(bad, id="chatcmpl-2"), other])
    TraceFolder(folder).housekeep(rotate_s=-1.0, compress=True, retention=Retention())
    return str(folder)


async def test_the_latest_are_listed_first(traces: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["traces", "ls", "--traces", traces]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["id", "chatcmpl-3", "chatcmpl-2", "chatcmpl-1"]
    assert main(["traces", "ls", "--traces", traces, "--outcome", "failed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_a_trace_is_shown_as_a_tree_with_scores_and_fates(
    traces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["traces", "show", "resp_1", "--traces", traces]) == 0
    shown = capsys.readouterr().out
    assert "ada 0.407 won" in shown and "bob 0.368 rank" in shown and "failed:unreachable" in shown
    assert "answer by ada: answer by a" in shown
    depths = [line.index("ada") for line in shown.splitlines() if " won " in line]
    assert depths == sorted(depths) and len(set(depths)) == 3
    assert main(["traces", "show", "chatcmpl-1", "--json", "--traces", traces]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "chatcmpl-1"
    assert main(["traces", "show", "nobody", "--traces", traces]) == 1


async def test_a_user_and_a_reply_are_erased(
    traces: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["traces", "erase", "--user", "u-2", "--traces", traces]) == 0
    assert main(["traces", "erase", "--id", "cmpl-2", "--traces", traces]) == 0
    capsys.readouterr()
    assert main(["traces", "ls", "--traces", traces]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "id",
        "chatcmpl-1",
    ]
    assert main(["traces", "erase", "--user", "u-2", "--traces", traces]) == 1
