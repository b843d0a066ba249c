"""`/v1/chat/completions`, and what other paths' replies share with it. Pure folds, no I/O.

The texts of a stream, put together, are the texts of the whole reply to the same request and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy import sse
from proxy.api.body import to_json
from proxy.api.endpoint import Exchange, ReplyStream
from proxy.api.errors import ErrorReply
from proxy.api.fields import CHAT, supported, wishes
from proxy.api.plan import Wish
from proxy.api.schema import ChatRequest, StreamOptions, check
from proxy.api.stream import DONE, Push
from proxy.decoder import tool_calls
from proxy.decoder.events import AnswerDelta, Committed, Scored
from proxy.decoder.journal import Stamped
from proxy.decoder.settings import Settings
from proxy.decoder.strategies import STRATEGIES
from proxy.decoder.summary import Summary, Usage
from proxy.decoder.types import Candidate, Result, Score
from proxy.service import Job
from runtime.stopping import StopScanner

THINK, THOUGHT = "<think>\n", "</think>\n\n"


@dataclass(slots=True)
class ChunkStream:
    """Turns events into `chat.completion.chunk`s as they come; `finish` adds the last ones.

    Inlined reasoning goes into `content`, between think tags.
    """

    exchange: Exchange
    push: Push
    options: StreamOptions
    scores: dict[int, Score] = field(default_factory=dict)
    committed: int = 0
    answering: bool = False
    said: str = ""
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    held: StopScanner = field(default_factory=lambda: StopScanner((tool_calls.OPENING,)))

    @property
    def job(self) -> Job:
        return self.exchange.job

    def hear(self, stamped: Stamped) -> None:
        """A listener to the search's journal."""
        match stamped.event:
            case Scored(id, score):
                self.scores[id] = score
            case Committed(candidate):
                self._step(candidate)
            case AnswerDelta(text):
                self._open_answer()
                # What may become a call is held back until it is known whether it is one.
                self._say(self.held.feed(text) if self.job.problem.tools else text)

    def finish(self, result: Result, summary: Summary) -> None:
        """The chunk with the finish reason and the summary, and the one with the usage if it was asked for."""
        self._open_answer()
        content, called, finish = answer_of(self.job, result)
        self._say(content[len(self.said) :])
        if called:
            self._delta({"tool_calls": [{"index": i, **call} for i, call in enumerate(called)]})
        self._delta({}, finish_reason=finish, cord=cord_object(self.exchange, result, summary))
        if self.options.include_usage:
            self._push({"choices": [], "usage": usage_object(summary.usage)})

    def failure(self, reply: ErrorReply) -> bytes:
        """An error in the middle of a stream."""
        return reply.frame

    def _step(self, candidate: Candidate) -> None:
        text = candidate.text
        delta = {"reasoning_content": text, "reasoning": text}
        if self.exchange.inline:
            delta = {"content": text if self.committed else THINK + text}
        if not self.committed:
            self._delta({"role": "assistant", "content": ""})
        self.committed += 1
        tokens = self.usage.completion_tokens + candidate.completion_tokens
        self.usage = Usage(self.usage.prompt_tokens or candidate.prompt_tokens, tokens, tokens)
        score = self.scores.get(candidate.id)
        value = step_value(score, self.job.settings)
        self._delta(
            delta,
            cord={
                "step": candidate.depth,
                "teacher": candidate.teacher,
                "tokens": candidate.completion_tokens,
                "value": value,
                "source": score.source.value if score else None,
            },
        )

    def _say(self, text: str) -> None:
        self.said += text
        if text:
            self._delta({"content": text})

    def _open_answer(self) -> None:
        """Close the inlined reasoning, once, before the answer."""
        if self.exchange.inline and not self.answering:
            self._delta({"content": THOUGHT})
        self.answering = True

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        self._push({"choices": [choice], **self._usage_so_far(), **extra})

    def _usage_so_far(self) -> dict[str, Any]:
        """What every chunk says of the usage; the answer is counted once it is whole."""
        if self.options.continuous_usage_stats:
            return {"usage": usage_object(self.usage)}
        return {"usage": None} if self.options.include_usage else {}

    def _push(self, body: dict[str, Any]) -> None:
        head = _head(self.job, "chat.completion.chunk")
        self.push(sse.encode(to_json({**head, **body})))


def completion(exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
    """The whole reply as a `chat.completion`."""
    job, inline = exchange.job, exchange.inline
    reasoning = result.winner.text
    content, called, finish = answer_of(job, result)
    said: str | None = f"{THINK}{reasoning}{THOUGHT}{content}" if inline else content
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said,
        "refusal": None,
        "annotations": [],
    }
    if called:
        message |= {"content": said or None, "tool_calls": called}
    if not inline:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {
        **_head(job, "chat.completion"),
        "choices": [choice],
        "usage": usage_object(summary.usage),
        "cord": cord_object(exchange, result, summary),
    }


def answer_of(job: Job, result: Result) -> tuple[str, list[dict[str, Any]], str]:
    """What the answer says, the calls it makes in OpenAI's form, and why it ended."""
    if not job.problem.tools:
        return result.answer, [], result.finish_reason
    content, found = tool_calls.find(result.answer)
    called = [
        {
            "id": f"call_{suffix(job)}_{i}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(found)
    ]
    return content, called, "tool_calls" if called else result.finish_reason


def suffix(job: Job) -> str:
    """The job's id without its kind: every path puts another in front."""
    return job.problem.id.removeprefix("chatcmpl-")


def usage_object(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's form. The teachers' prompt caches are not known here, so none are said to be cached."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def cord_object(exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
    """How the reply came about: the search, its value, who wrote which step, and what it cost."""
    settings, cost = exchange.job.settings, summary.cost
    return {
        "request_id": exchange.request_id,
        "strategy": settings.strategy,
        "score": settings.score if STRATEGIES[settings.strategy].rank == "score" else None,
        "source": summary.source.value,
        "value": result_value(result, summary),
        "seed": settings.sampling.seed,
        "steps": [
            {
                "teacher": step.candidate.teacher,
                "tokens": step.candidate.completion_tokens,
                "value": step_value(step.score, settings),
            }
            for step in summary.steps
        ],
        "answerer": result.answerer,
        "stopped": result.stopped,
        "cost": {
            "candidates": cost.candidates,
            "failures": cost.failures,
            "skipped": cost.skipped,
            "generated_tokens": cost.generated_tokens,
            "cancelled": cost.cancelled,
            "cancelled_tokens": cost.cancelled_tokens,
            "prompt_tokens": cost.prompt_tokens,
            "score_calls": cost.score_calls,
            "scored_tokens": cost.scored_tokens,
        },
    }


def step_value(score: Score | None, settings: Settings) -> float | None:
    """exp(nats / length^α): for predictive perplexity the S(τ ⊕ s) of arXiv 2605.02290. None where nothing scored."""
    if score is None or not score.length:
        return None
    return _exp(score.nats / score.length**settings.length_penalty)


def result_value(result: Result, summary: Summary) -> float | None:
    """The winner's value, on the scale of its steps; None where nothing scored."""
    return _exp(result.value) if any(step.score for step in summary.steps) else None


def _exp(nats: float) -> float | None:
    """exp, but None where JSON has no number for it."""
    try:
        value = math.exp(nats)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _head(job: Job, object: str) -> dict[str, Any]:
    return {
        "id": job.problem.id,
        "object": object,
        "created": int(job.received),
        "model": job.ensemble.name,
    }


@dataclass(frozen=True, slots=True)
class ParsedChat:
    """A chat request."""

    chat: ChatRequest

    def reply(self, exchange: Exchange, result: Result, summary: Summary) -> dict[str, Any]:
        return completion(exchange, result, summary)

    def stream(self, exchange: Exchange, push: Push) -> ReplyStream:
        return ChunkStream(exchange, push, self.chat.stream_options or StreamOptions())


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """`/v1/chat/completions`."""

    path: str = "chat/completions"
    tail: bytes = DONE

    def wishes(self, fields: Mapping[str, Any]) -> list[Wish]:
        """Fields that a panel cannot honour, tools, a format, and content that is not text."""
        found = [*wishes(fields, CHAT), *tool_wishes(fields)]
        format = fields.get("response_format")
        if format is not None and not (isinstance(format, dict) and format.get("type") == "text"):
            message = (
                "no teacher here can hold an answer to a format; only {'type': 'text'} is accepted"
            )
            found.append(Wish("response_format", "format", message))
        messages = fields.get("messages")
        for i, message in enumerate(messages if isinstance(messages, list) else ()):
            if isinstance(message, dict) and (key := _not_text(message)) is not None:
                wish = Wish(
                    f"messages[{i}].{key}",
                    "single",
                    f"messages[{i}].{key}: only text is decoded together",
                )
                return [*found, wish]
        return found

    def parse(self, fields: Mapping[str, Any]) -> ParsedChat:
        return ParsedChat(check(supported(fields, CHAT), ChatRequest))


def tool_wishes(fields: Mapping[str, Any]) -> list[Wish]:
    """Tools need a teacher that calls them; that one is called cannot be promised."""
    found = []
    if fields.get("tools") not in (None, []) and fields.get("tool_choice") != "none":
        message = "no teacher here knows how to call tools; only [] is accepted"
        found.append(Wish("tools", "tools", message))
    if fields.get("tool_choice") not in (None, "auto", "none"):
        message = 'a panel cannot be made to call a tool; only "auto" or "none" is accepted'
        found.append(Wish("tool_choice", "single", message))
    return found


def _not_text(message: Mapping[str, Any]) -> str | None:
    """The key of a message that holds something else than text."""
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    if any(
        isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] != "text"
        for part in parts
    ):
        return "content"
    return "role" if message.get("role") == "function" else None
