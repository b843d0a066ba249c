"""JSON bodies as this API writes them: UTF-8, compact, and never failing on the text a model wrote."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


def to_json(value: Any) -> str:
    """Compact JSON. Characters stay as they are; NaN and infinities are a bug and raise ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class JsonReply(Response):
    """A JSON response. Half a surrogate pair, which models do write and UTF-8 cannot hold, becomes `?`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content).encode("utf-8", "replace")
