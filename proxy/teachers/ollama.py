"""Teachers behind Ollama. Its OpenAI-compatible completions apply the chat template once more, so it is asked in its
own words for a raw continuation, which it streams as a JSON object a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.decoder.ports import OnText
from proxy.decoder.types import Ask, Continuation
from proxy.errors import TeacherError
from proxy.teachers.compatible import CompatibleTeacher, ended_by, failure
from serving.stopping import StopScanner


class OllamaTeacher(CompatibleTeacher):
    """One model of an Ollama server. The client's base URL is that of its OpenAI-compatible API, up to /v1."""

    def _payload(self, ask: Ask, stops: tuple[str, ...]) -> dict[str, Any]:
        # Ollama does not say which stop text it hit, so none is sent, and the connection closed when one is read.
        options = {
            "num_predict": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
        }
        format = {} if ask.format is None else {"format": _format(ask.format)}
        # Without the last two, a prompt that is too long would be cut in silence.
        return {
            "model": self._model,
            "prompt": self._template.turn(ask),
            "raw": True,
            "options": options,
            **format,
            "truncate": False,
            "shift": False,
        }

    async def _streamed(
        self, payload: dict[str, Any], ask: Ask, stops: tuple[str, ...], on_text: OnText | None
    ) -> Continuation:
        scanner = StopScanner(stops)
        pieces: list[str] = []
        usage: dict[str, Any] | None = None
        finish: object = None

        def hear(text: str) -> None:
            pieces.append(text)
            if text and on_text is not None:
                on_text(text)

        url = self._client.base_url.join("../api/generate")
        async with self._client.stream("POST", url, json=payload) as reply:
            if reply.status_code != 200:
                await reply.aread()
                raise failure(self._name, reply)
            async for line in reply.aiter_lines():
                said = json.loads(line)
                if "error" in said:
                    raise TeacherError(self._name, "broken", f"failed while writing: {said['error']}")
                hear(scanner.feed(said.get("response") or ""))
                if scanner.hit is not None:
                    finish = "stop"
                    break
                if said.get("done"):
                    hear(scanner.flush())
                    finish = said.get("done_reason") or "stop"
                    usage = {
                        "prompt_tokens": said.get("prompt_eval_count", 0),
                        "completion_tokens": said.get("eval_count", 0),
                    }
        if finish is None:
            raise TeacherError(self._name, "broken", "the stream broke off before its end")
        return self._continuation("".join(pieces), ended_by(finish, scanner.hit, ask), usage, payload["prompt"])


def _format(format: Mapping[str, Any]) -> Any:
    """OpenAI's `response_format` as Ollama's `format`: the schema itself, or any JSON."""
    return format["json_schema"]["schema"] if format["type"] == "json_schema" else "json"
