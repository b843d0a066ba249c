"""`/docs`: the API's description as a page for people. It is one HTML file without scripts or requests of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code{font-family:ui-monospace,monospace}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-top:1px solid #8884}"
    "summary{cursor:pointer}"
)


def docs_page(description: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    title = escape(f"{description['info']['title']} {description['info']['version']}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "".join((*_paths(description["paths"]), *_schemas(description["components"]["schemas"])))
    machine = '<p>For machines: <a href="/openapi.json">/openapi.json</a></p>'
    page = f"<head>{head}<style>{_STYLE}</style></head><body><h1>{title}</h1>{machine}{body}</body>"
    return f'<!doctype html><html lang="en">{page}</html>'


def _paths(paths: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Paths</h2><table>"
    for path, methods in paths.items():
        for method, told in methods.items():
            if method == "parameters":
                continue
            body = (
                told.get("requestBody", {})
                .get("content", {})
                .get("application/json", {})
                .get("schema", {})
            )
            link = _type(body) if body else ""
            yield f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(told['summary'])}<td>{link}"
    yield "</table>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Bodies</h2>"
    for name, schema in schemas.items():
        needed = schema.get("required", ())
        rows = "".join(
            f"<tr><td><code>{escape(key)}</code>{'*' if key in needed else ''}<td>{_type(one)}"
            f"<td>{escape(str(one.get('description', '')))}"
            for key, one in schema.get("properties", {}).items()
        )
        told = f"<p>{escape(str(schema.get('description', '')))}</p><table>{rows}</table>"
        yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>{told}</details>'


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words; another body as a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return escape(", ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = " ".join(f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema)
    kind = schema.get("type", "anything")
    return escape(f"{', '.join(kind) if isinstance(kind, list) else kind} {told}".strip())
