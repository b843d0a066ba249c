"""Stored traces over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from proxy.api.auth import master_key
from proxy.trace.finder import TraceFinder
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.query import TracePage, TraceQuery
from proxy.trace.record import Provenance
from tests.api.panel import CHAT, OPTIONS, Panel, ask

pytestmark = pytest.mark.anyio

TRACES = "/v1/cord/traces"


@dataclass
class Store:
    """Keeps what it was asked."""

    asked: list[TraceQuery] = field(default_factory=list)

    def page(self, query: TraceQuery) -> TracePage:
        self.asked.append(query)
        return TracePage((), "1:a")

    def find(self, id: str) -> bytes | None:
        return b'{"id":"there"}' if id == "there" else None


async def test_filters_reach_the_store() -> None:
    store = Store()
    query = "?since=2026-01-31&until=2026-01-31T12:00:00Z&model=cord&min_value=0.5&text=six&limit=7&cursor=9:b&teacher="
    async with Panel(store=store).client() as client:
        reply = await client.get(TRACES + query)
    assert reply.json() == {"object": "list", "data": [], "next": "1:a", "skipped": 0}
    day = 1_769_817_600.0
    assert store.asked == [
        TraceQuery(day, day + 43_200, "cord", min_value=0.5, text="six", limit=7, cursor="9:b"),
    ]


async def test_one_trace_comes_as_it_is_stored() -> None:
    async with Panel(store=Store()).client() as client:
        found, missing = await client.get(f"{TRACES}/there"), await client.get(f"{TRACES}/not")
    assert found.json() == {"id": "there"} and found.headers["content-type"] == "application/json"
    assert missing.status_code == 404 and "not" in missing.json()["error"]["message"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=201", "since=yesterday", "min_value=x", "colour=red"]
)
async def test_filter_that_cannot_be_read_is_refused_by_name(query: str) -> None:
    async with Panel(store=Store()).client() as client:
        reply = await client.get(f"{TRACES}?{query}")
    assert reply.status_code == 400 and reply.json()["error"]["param"] == query.partition("=")[0]


async def test_without_traces_or_key_there_are_none() -> None:
    async with Panel().client() as client:
        assert (await client.get(TRACES)).status_code == 404
    async with Panel(
        options=replace(OPTIONS, keys=(master_key("k"),)), store=Store()
    ).client() as client:
        for path in (TRACES, f"{TRACES}/there"):
            assert (await client.get(path)).status_code == 401


async def test_search_is_found_under_the_id_of_its_reply(tmp_path: Path) -> None:
    log = TraceLog(tmp_path, LogSettings(rotate_bytes=1 << 20), provenance=Provenance())
    panel = Panel(store=TraceFinder(tmp_path), log=log)
    async with panel.client() as client:
        reply = (await client.post(CHAT, json=ask())).json()
        (entry,) = (await client.get(TRACES)).json()["data"]
        trace = (await client.get(f"{TRACES}/{reply['id']}")).json()
    log.close()
    assert entry["id"] == reply["id"] and entry["value"] == pytest.approx(reply["cord"]["value"])
    assert entry["prompt"] == "What is 6 × 7?" and entry["teachers"] == [
        s["teacher"] for s in reply["cord"]["steps"]
    ]
    assert trace["winner"]["answer"] == reply["choices"][0]["message"]["content"]


async def test_requests_that_are_not_to_be_stored_leave_no_trace(tmp_path: Path) -> None:
    log = TraceLog(tmp_path, LogSettings(rotate_bytes=1 << 20), provenance=Provenance())
    panel = Panel(store=TraceFinder(tmp_path), log=log)
    async with panel.client() as client:
        for body, headers in (({"store": False}, {}), ({}, {"x-cord-store": "false"})):
            reply = await client.post(CHAT, json={**ask(), **body}, headers=headers)
            assert reply.status_code == 200
        asked = {"model": "cord", "input": "What is 6 × 7?", "store": False}
        assert (await client.post("/v1/responses", json=asked)).status_code == 200
        assert (await client.get(TRACES)).json()["data"] == []
    log.close()
