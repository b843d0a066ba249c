"""Teachers hosted elsewhere, through litellm: any provider it knows, over chat messages.

The only module that imports litellm, and only when the first call is made (it costs seconds). A hosted chat model
can take part in a search when it continues a half-written assistant message; one that cannot may still begin a
trace (first steps, curation, a teacher alone) and is refused later steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import anyio.to_thread

from proxy.decoder.ports import OnText
from proxy.decoder.steps import tell_heading
from proxy.decoder.tool_calls import with_tools
from proxy.decoder.types import Continuation, Ended, TeacherRequest
from proxy.errors import FailureKind, TeacherError
from proxy.teachers import wire
from proxy.teachers.failures import retry_after
from proxy.teachers.tokens import estimated_tokens
from runtime.markup import PLAIN
from runtime.stopping import StopScanner


class LitellmTeacher:
    """One hosted model. It is driven as a plain one: steps in the open, the answer under its heading."""

    def __init__(
        self, name: str, model: str, *, api_base: str | None = None, api_key: str | None = None
    ) -> None:
        self._name = name
        self._model = model
        self._address = {"api_base": api_base, "api_key": api_key}

    @property
    def name(self) -> str:
        return self._name

    @property
    def supports_response_format(self) -> bool:
        return False

    @property
    def supports_tools(self) -> bool:
        return False  # how its template marks calls is not known here

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        """Continue the turn; see `decoder.ports.Teacher`."""
        litellm = await anyio.to_thread.run_sync(_litellm)
        import openai

        written = ask.reasoning if ask.answer is None else ask.reasoning + PLAIN.closer + ask.answer
        begins = "\n" not in written  # nothing but the first step's header
        if not begins and not _continues(litellm, self._model):
            raise TeacherError(
                self._name, "refused", "this model cannot continue a half-written turn"
            )
        told = with_tools(tell_heading(ask.messages, PLAIN.stop), ask.tools)
        messages: list[dict[str, Any]] = [
            {"role": message.role, "content": message.content} for message in told
        ]
        if not begins:
            messages.append({"role": "assistant", "content": written, "prefix": True})
        stops = (*ask.stop, PLAIN.stop) if ask.answer is None else ask.stop
        try:
            reply = await litellm.acompletion(
                model=self._model,
                messages=messages,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                stream=True,
                stream_options={"include_usage": True},
                drop_params=True,  # not every provider takes a seed or usage in streams
                num_retries=0,  # the search has other teachers; a retry would only hold its step up
                **self._address,
            )
            return await self._listen(reply, ask, stops, written if begins else "", on_text)
        except openai.OpenAIError as exc:  # the root of litellm's own exceptions
            wait_s = retry_after(_headers(exc))
            raise TeacherError(
                self._name, _kind(exc, litellm), str(exc), retry_after_s=wait_s
            ) from exc
        except wire.BadReply as exc:
            raise TeacherError(self._name, "broken", f"unusable reply: {exc}") from exc

    async def _listen(
        self,
        reply: Any,
        ask: TeacherRequest,
        stops: tuple[str, ...],
        header: str,
        on_text: OnText | None,
    ) -> Continuation:
        """Read the stream up to the first stop text; a header the model has written itself is taken off."""
        scanner = StopScanner(stops)
        bounds = wire.Bounds.of(ask.max_tokens)
        text, finish, usage, received = "", None, None, 0
        async for chunk in reply:
            usage = _usage(getattr(chunk, "usage", None)) or usage
            for choice in chunk.choices[:1]:
                content = wire.text(choice.delta.content, "delta.content")
                received += len(content)
                bounds.check(received, usage)
                piece = scanner.feed(content)
                text += piece
                if piece and on_text is not None:
                    on_text(piece)
                finish = choice.finish_reason or finish
            if scanner.hit is not None:
                await reply.aclose()
                break
        else:
            text += scanner.flush()
        if finish is None and scanner.hit is None:
            raise TeacherError(self._name, "broken", "the stream broke off before its end")
        written, ended = text, _ended(finish, scanner.hit, ask)
        if header:
            text = " " + text.lstrip().removeprefix(header).lstrip()
        if usage is not None:
            return Continuation(text, ended, usage.prompt_tokens, usage.completion_tokens)
        prompt = "".join(message.content for message in ask.messages) + ask.reasoning
        return Continuation(
            text, ended, *await estimated_tokens(prompt, written), tokens_estimated=True
        )


def _litellm() -> ModuleType:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    return litellm


def _continues(litellm: ModuleType, model: str) -> bool:
    """Whether litellm knows this model to go on from a half-written assistant message."""
    try:
        return bool(litellm.get_model_info(model).get("supports_assistant_prefill"))
    except Exception:  # litellm raises a bare one for a model it does not know
        return False


def _ended(finish: str | None, hit: str | None, ask: TeacherRequest) -> Ended:
    if hit is not None:
        return "marker" if hit in ask.stop else "closed"
    return "length" if finish == "length" else "eos"


def _usage(usage: Any) -> wire.Usage | None:
    """litellm's own object, or a mapping of the same names."""
    if usage is None:
        return None
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    return wire.Usage(
        wire.count(prompt, "usage.prompt_tokens"), wire.count(completion, "usage.completion_tokens")
    )


def _headers(exc: Exception) -> Mapping[str, str]:
    """The headers of the reply that an exception is about, if it knows them."""
    return getattr(exc, "litellm_response_headers", None) or getattr(
        getattr(exc, "response", None), "headers", {}
    )


def _kind(exc: Exception, litellm: ModuleType) -> FailureKind:
    """litellm's exception as the typed failure it means; the order matters, some derive from others."""
    kinds: tuple[tuple[str, FailureKind], ...] = (
        ("ContextWindowExceededError", "context_overflow"),
        ("NotFoundError", "unknown_model"),
        ("RateLimitError", "rate_limited"),
        ("Timeout", "timeout"),
        ("APIConnectionError", "unreachable"),
        ("ServiceUnavailableError", "overloaded"),
        ("InternalServerError", "broken"),
        ("APIError", "broken"),
    )
    return next(
        (kind for name, kind in kinds if isinstance(exc, getattr(litellm.exceptions, name))),
        "refused",
    )
