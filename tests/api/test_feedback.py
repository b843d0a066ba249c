"""`POST /v1/feedback`: kept under a reply's id, joined to its trace, erased with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.trace.erase import erase
from proxy.trace.feedback import FeedbackLog, feedback_file
from proxy.trace.finder import TraceFinder
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.reader import TraceReader
from proxy.trace.record import Provenance
from proxy.trace.redact import Redaction
from tests.api.panel import CHAT, Panel, ask

pytestmark = pytest.mark.anyio

FEEDBACK = "/v1/feedback"


def panel(folder: Path) -> Panel:
    log = TraceLog(folder, LogSettings(), provenance=Provenance())
    redaction = Redaction.load([("secret", "[x]")], None)
    return Panel(store=TraceFinder(folder), log=log, feedback=FeedbackLog(folder, redaction))


async def test_a_late_reference_joins_its_trace_once(tmp_path: Path) -> None:
    tested = panel(tmp_path)
    async with tested.client() as client:
        reply = (await client.post(CHAT, json=ask(), headers={"x-request-id": "mine"})).json()
        said = {"reference": "43", "rating": 0.5, "comment": "a secret"}
        for id in (reply["id"], reply["id"], "mine"):
            answer = await client.post(FEEDBACK, json={"id": id, **said})
            assert (answer.status_code, answer.json()) == (
                200,
                {"object": "feedback", "id": reply["id"]},
            )
    [record] = TraceReader(tmp_path)
    [feedback] = record.feedback
    assert record.references == ("43",) and (feedback.rating, feedback.comment) == (0.5, "a [x]")
    assert feedback_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert erase(tmp_path, id=reply["id"]) == 1
    assert feedback_file(tmp_path).read_bytes() == b""


async def test_feedback_that_belongs_to_nothing_or_says_nothing_is_refused(tmp_path: Path) -> None:
    async with panel(tmp_path).client() as client:
        assert (
            await client.post(FEEDBACK, json={"id": "nobody", "rating": 1.0})
        ).status_code == 404
        for body in (
            {"id": "x"},
            {"rating": 1.0},
            {"id": "x", "rating": 2.0},
            {"id": "x", "rating": 1.0, "mood": 1},
        ):
            assert (await client.post(FEEDBACK, json=body)).status_code == 400
    async with Panel().client() as client:
        assert (await client.post(FEEDBACK, json={"id": "x", "rating": 1.0})).status_code == 404
    assert not feedback_file(tmp_path).exists()
