"""The description that is served says what is there."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.routing import Route

from proxy.api.cors import cors
from proxy.api.schema import ChatRequest
from tests.api.panel import CHAT, Panel, ask

pytestmark = pytest.mark.anyio


async def description() -> dict[str, Any]:
    async with Panel().client() as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


async def test_every_path_is_described_with_its_method() -> None:
    served = {
        (route.path.replace(":path", ""), method)
        for route in Panel().app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {
        (path, method.upper())
        for path, operations in (await description())["paths"].items()
        for method in operations.keys() & {"get", "post"}
    }
    assert told == served - {("/openapi.json", "GET"), ("/docs", "GET")}


async def test_every_field_of_a_request_is_described() -> None:
    chat = (await description())["components"]["schemas"]["ChatRequest"]
    assert chat["properties"].keys() >= {*ChatRequest.model_fields, "tools", "logprobs", "n"}
    assert chat["required"] == ["model", "messages"] and chat["additionalProperties"] is False


async def test_the_description_is_a_page_too_that_loads_nothing() -> None:
    async with Panel().client() as client:
        page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for part in (
        "/v1/chat/completions",
        'id="CordOptions"',
        "beam_width",
        "hypotheses that survive a step",
    ):
        assert part in page.text
    assert "<script" not in page.text and "http://" not in page.text


async def test_pages_of_configured_origins_may_call() -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    app = Panel().app
    served = Starlette(routes=app.routes, middleware=cors(["https://app.example"]))
    async with AsyncClient(transport=ASGITransport(served), base_url="http://cord") as client:
        before = await client.options(
            CHAT, headers={**asked, "access-control-request-headers": "authorization"}
        )
        reply = await client.post(CHAT, json=ask(), headers={"origin": "https://app.example"})
        other = await client.post(CHAT, json=ask(), headers={"origin": "https://other.example"})
    assert before.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in before.headers["access-control-allow-headers"]
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-cord-search-id" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in other.headers
    assert cors([]) == []
