"""The description that is served says what is there."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.routing import Route

from proxy.api.schema import ChatRequest
from tests.api.panel import Panel

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
    assert told == served - {("/openapi.json", "GET")}


async def test_every_field_of_a_request_is_described() -> None:
    chat = (await description())["components"]["schemas"]["ChatRequest"]
    assert chat["properties"].keys() >= {*ChatRequest.model_fields, "tools", "logprobs", "n"}
    assert chat["required"] == ["model", "messages"] and chat["additionalProperties"] is False
