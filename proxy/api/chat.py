"""`/v1/chat/completions`, and what other paths' replies share with it. Pure folds, no I/O.

The texts of a stream, put together, are the texts of the whole reply to the same request and seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy import sse
from proxy.api.body import to_json
from proxy.api.dialect import Asked, Dialect
from proxy.api.errors import ErrorReply
from proxy.api.fields import CHAT, drop_neutral
from proxy.api.schema import ChatRequest, parse
from proxy.decoder import tool_calls
from proxy.decoder.events import AnswerDelta, Committed, Scored
from proxy.decoder.journal import Stamped
from proxy.decoder.search import STRATEGIES
from proxy.decoder.settings import Settings
from proxy.decoder.summary import Summary, Usage
from proxy.decoder.types import Candidate, Result, Score
from proxy.errors import RequestError
from proxy.service import Ensemble, Job
from runtime.stopping import StopScanner

THINK, THOUGHT = "<think>\n", "</think>\n\n"


@dataclass(slots=True)
class ChunkStream:
    """Turns events into `chat.completion.chunk`s as they come; `finish` adds the last ones.

    `inline` puts the reasoning into `content`, between think tags.
    """

    job: Job
    inline: bool
    include_usage: bool
    push: Callable[[bytes], None]
    scores: dict[int, Score] = field(default_factory=dict)
    committed: int = 0
    answering: bool = False
    said: str = ""
    held: StopScanner = field(default_factory=lambda: StopScanner((tool_calls.OPENING,)))

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

    def finish(self, result: Result, summary: Summary, request_id: str) -> None:
        """The chunk with the finish reason and the summary, and the one with the usage if it was asked for."""
        self._open_answer()
        content, called, finish = _answer(self.job, result)
        self._say(content[len(self.said) :])
        if called:
            self._delta({"tool_calls": [{"index": i, **call} for i, call in enumerate(called)]})
        self._delta({}, finish_reason=finish, cord=cord_object(self.job, result, summary, request_id))
        if self.include_usage:
            self._push({"choices": [], "usage": usage_object(summary.usage)})

    def failure(self, reply: ErrorReply) -> bytes:
        """An error in the middle of a stream."""
        return reply.frame

    def _step(self, candidate: Candidate) -> None:
        text = candidate.text
        delta = {"reasoning_content": text, "reasoning": text}
        if self.inline:
            delta = {"content": text if self.committed else THINK + text}
        if not self.committed:
            self._delta({"role": "assistant", "content": ""})
        self.committed += 1
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
        if self.inline and not self.answering:
            self._delta({"content": THOUGHT})
        self.answering = True

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        usage = {"usage": None} if self.include_usage else {}
        self._push({"choices": [choice], **usage, **extra})

    def _push(self, body: dict[str, Any]) -> None:
        head = _head(self.job, "chat.completion.chunk")
        self.push(sse.encode(to_json({**head, **body})))


def completion(job: Job, result: Result, summary: Summary, request_id: str, *, inline: bool) -> dict[str, Any]:
    """The whole reply as a `chat.completion`."""
    reasoning = result.winner.text
    content, called, finish = _answer(job, result)
    said: str | None = f"{THINK}{reasoning}{THOUGHT}{content}" if inline else content
    message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None, "annotations": []}
    if called:
        message |= {"content": said or None, "tool_calls": called}
    if not inline:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {
        **_head(job, "chat.completion"),
        "choices": [choice],
        "usage": usage_object(summary.usage),
        "cord": cord_object(job, result, summary, request_id),
    }


def _answer(job: Job, result: Result) -> tuple[str, list[dict[str, Any]], str]:
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


def cord_object(job: Job, result: Result, summary: Summary, request_id: str) -> dict[str, Any]:
    """How the reply came about: the search, its value, who wrote which step, and what it cost."""
    settings, cost = job.settings, summary.cost
    return {
        "request_id": request_id,
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
    return {"id": job.problem.id, "object": object, "created": int(job.received), "model": job.ensemble.name}


def _needs_one(asked: Mapping[str, Any], ensemble: Ensemble) -> str | None:
    """The first field that these teachers cannot honour together; None if there is none."""
    try:
        drop_neutral(asked)
    except RequestError as exc:
        return exc.param
    if asked.get("tools") not in (None, []):
        if not ensemble.supports_tools:
            return "tools"
        if asked.get("tool_choice") not in (None, "auto", "none"):
            return "tool_choice"  # nobody here is held to calling
    if asked.get("response_format") not in (None, {"type": "text"}) and not ensemble.supports_response_format:
        return "response_format"
    messages = asked.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        parts = message.get("content") if isinstance(message.get("content"), list) else ()
        other = any(isinstance(part, dict) and part.get("type") != "text" for part in parts or ())
        if other or message.get("role") == "function":
            return "messages"
    return None


def _stream(job: Job, asked: Asked, inline: bool, push: Callable[[bytes], None]) -> ChunkStream:
    options = asked.chat.stream_options
    return ChunkStream(job, inline, bool(options and options.include_usage), push)


DIALECT = Dialect(
    path="chat/completions",
    read=lambda body: Asked(parse(body, ChatRequest, CHAT)),
    needs_one=_needs_one,
    whole=lambda job, asked, result, summary, id, inline: completion(job, result, summary, id, inline=inline),
    stream=_stream,
)
