"""The API's description, served at `/openapi.json`, generated from the schema that checks requests.

Chat requests are described as they are decoded. Fields that several teachers cannot honour together are named without
bounds, since a request that goes straight to one teacher may hold anything its server takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from proxy.api.completions import CompletionRequest
from proxy.api.feedback import FeedbackRequest
from proxy.api.fields import CHAT, COMPLETIONS, RESPONSES, Neutral
from proxy.api.relay import RELAYED
from proxy.api.responses import ResponsesRequest
from proxy.api.schema import ChatRequest
from proxy.trace.query import TraceQuery

_REF = "#/components/schemas/{model}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_FAILURES = {
    "400": "the request is at fault; the error names the field",
    "401": "the key is missing or wrong",
    "403": "the key does not open this path",
    "404": "no such model, search or trace",
    "413": "the body is too long",
    "429": "as many searches run as are allowed",
    "502": "the one teacher that was asked cannot be reached",
    "503": "no teacher, or not the scorer, could do its part",
    "504": "no step was finished in time",
}


def describe_api(models: Sequence[str]) -> dict[str, Any]:
    """An OpenAPI 3.1 document for a server of these models."""
    kinds: dict[type[BaseModel], Neutral] = {
        ChatRequest: CHAT,
        CompletionRequest: COMPLETIONS,
        ResponsesRequest: RESPONSES,
    }
    named_kinds: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (kind, "validation") for kind in kinds
    ]
    _, schemas = models_json_schema(named_kinds, ref_template=_REF)
    components: dict[str, Any] = {**schemas["$defs"], "Error": _ERROR}
    unbounded = {"description": "as OpenAI has it; honoured by one teacher alone (docs/api.md)"}
    model = {"type": "string", "enum": list(models)}
    for kind, table in kinds.items():
        components[kind.__name__]["properties"] |= {
            **{name: unbounded for name in table},
            "model": model,
        }
    chat, completion, response = ({"$ref": _REF.format(model=kind.__name__)} for kind in kinds)
    feedback = FeedbackRequest.model_json_schema()
    named = {"type": "object", "required": ["model"], "properties": {"model": model}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CoRD proxy",
            "version": version("cord-proxy"),
            "license": {"name": "Apache-2.0"},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": _post("Reason together, or ask one teacher", chat),
            "/v1/completions": _post("The same for one prompt", completion),
            "/v1/responses": _post("The same in OpenAI's newer form", response),
            **{
                f"/v1/{path}": _post(f"{path.capitalize()} of one model, straight through", named)
                for path in RELAYED
            },
            "/v1/models": _get("Ensembles and single models"),
            "/v1/models/{id}": {**_get("One of them", ("401", "403", "404")), "parameters": [_ID]},
            "/v1/feedback": _post("A late reference, a rating or a comment for a reply", feedback),
            "/v1/cord/traces": {
                **_get("A page of the stored traces, newest first", ("400", "401", "403", "404")),
                "parameters": [
                    {"name": spec.name, "in": "query", "schema": {}} for spec in fields(TraceQuery)
                ],
            },
            "/v1/cord/traces/{id}": {
                **_get("A trace as it is stored", ("401", "403", "404")),
                "parameters": [_ID],
            },
            "/v1/cord/searches": _get("Searches that can be watched"),
            "/v1/cord/searches/{id}/events": {
                **_get(
                    "A search's events as they happen (server-sent; docs/live.md)",
                    ("400", "401", "403", "404"),
                ),
                "parameters": [_ID],
            },
            "/health": _get("Whether the proxy runs", ("503",)),
            "/ready": _get("Whether the scorer and a teacher answer", ("503",)),
            "/metrics": _get("Prometheus figures", ()),
        },
    }


_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _post(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "post": {"summary": summary, "requestBody": body, "responses": _responses(tuple(_FAILURES))}
    }


def _get(summary: str, failures: tuple[str, ...] = ("401", "403")) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(failures)}}


def _responses(failures: tuple[str, ...]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    told = {status: {"description": _FAILURES[status], "content": error} for status in failures}
    return {"200": {"description": "as asked"}, **told}
