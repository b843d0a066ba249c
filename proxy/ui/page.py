"""Serves the page: `/` and the files below `/ui/`, read once at the start from this package.

Nothing here is asked for a key: the files are the same for everybody, and the page asks for a key when the API does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

ROOT = Path(__file__).parent

CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, as it goes out."""

    body: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Asset:
        body = file.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        # Browsers ask each time whether the file is still the same, so an upgrade shows at once.
        headers = {
            "content-type": CONTENT_TYPES[file.suffix],
            "etag": tag,
            "cache-control": "no-cache",
        }
        return cls(body, {**headers, **SECURITY_HEADERS})


def assets() -> dict[str, Asset]:
    """Every file of the page by its path below this package."""
    files = (file for file in ROOT.rglob("*") if file.suffix in CONTENT_TYPES)
    return {file.relative_to(ROOT).as_posix(): Asset.read(file) for file in files}


def page_routes() -> list[BaseRoute]:
    """The routes of the page."""
    found = assets()

    async def file(request: Request) -> Response:
        asset = found.get(request.path_params.get("path", "index.html"))
        if asset is None:
            raise HTTPException(404)
        if request.headers.get("if-none-match") == asset.headers["etag"]:
            return Response(status_code=304, headers=asset.headers)
        return Response(asset.body, headers=asset.headers)

    return [Route("/", file, methods=["GET"]), Route("/ui/{path:path}", file, methods=["GET"])]
