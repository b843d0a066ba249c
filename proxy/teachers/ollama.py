"""Teachers behind Ollama. Its OpenAI-compatible completions apply the chat template once more, so it is asked in its
own words for a raw continuation, which it streams as a JSON object a line.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import httpx

from proxy.decoder.types import TeacherRequest
from proxy.errors import TeacherError
from proxy.teachers import wire
from proxy.teachers.compatible import CompatibleTeacher

_SHOWN_BYTES = 64 << 20
"""What Ollama shows of a model may hold its whole vocabulary."""


class OllamaTeacher(CompatibleTeacher):
    """One model of an Ollama server. The client's base URL is that of its OpenAI-compatible API, up to /v1."""

    _streaming: ClassVar[Mapping[str, Any]] = {}  # it streams unless told otherwise
    _stream_type: ClassVar[str] = "application/x-ndjson"

    def _payload(self, ask: TeacherRequest, prompt: str, stops: tuple[str, ...]) -> dict[str, Any]:
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
            "prompt": prompt,
            "raw": True,
            "options": options,
            **format,
            "truncate": False,
            "shift": False,
        }

    async def _finds_bos_added(self, bos: str) -> bool:
        """As the model's file says; where it does not, Ollama adds one."""
        payload = {"model": self._model}
        try:
            async with self._call(self._client.base_url.join("../api/show"), payload) as reply:
                shown = wire.json_object(await wire.read_whole(reply.aiter_raw(), _SHOWN_BYTES))
        except TeacherError as exc:
            if exc.kind in ("refused", "unknown_model"):
                return True  # the call itself will tell why
            raise
        stated = shown.get("model_info")
        return (
            not isinstance(stated, dict) or stated.get("tokenizer.ggml.add_bos_token") is not False
        )

    @property
    def _url(self) -> httpx.URL:
        return self._client.base_url.join("../api/generate")

    async def _chunks(
        self, body: AsyncIterator[bytes], bounds: wire.Bounds
    ) -> AsyncIterator[wire.Chunk]:
        async for line in wire.lines(body, bounds.whole_bytes):
            said = wire.json_object(line)
            if "error" in said:
                yield wire.Chunk(error=said)
            else:
                yield _chunk(said)

    async def _raise_reason(self, payload: dict[str, Any]) -> None:
        """Ollama says why it refuses at once."""


def _chunk(said: Mapping[str, Any]) -> wire.Chunk:
    text = wire.text(said.get("response"), "response")
    if not said.get("done"):
        return wire.Chunk(text)
    # It leaves a count out where it is 0.
    usage = wire.Usage(
        *(wire.count(said.get(name, 0), name) for name in ("prompt_eval_count", "eval_count"))
    )
    return wire.Chunk(
        text, wire.text(said.get("done_reason"), "done_reason") or "stop", usage=usage
    )


def _format(format: Mapping[str, Any]) -> Any:
    """OpenAI's `response_format` as Ollama's `format`: the schema itself, or any JSON."""
    return format["json_schema"]["schema"] if format["type"] == "json_schema" else "json"
