"""Turns a parsed chat request into a job for the service: ensemble, settings and problem.

It combines the ensemble's defaults with the request's settings and checks what depends on both.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.api.auth import Key
from proxy.api.limits import RequestLimits, check_caps
from proxy.api.options import resolve_score, source_of
from proxy.api.schema import RECORDED, ChatRequest, CordOptions
from proxy.decoder.settings import Sampling, Settings, fitting
from proxy.decoder.strategies import STRATEGIES
from proxy.decoder.types import Message, Problem
from proxy.errors import RequestError
from proxy.service import Ensemble, Job

DEFAULT_LIMITS = RequestLimits(requests=64)


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """How the API behaves.

    Attributes:
        scores: the names of the scores the scorer knows, without "auto".
        reference_free: the score "auto" stands for when a request brings no reference.
        keys: the keys that clients send; without any, nobody is asked for one.
        open_metrics: whether `/metrics` asks for no key.
        keepalive_s: seconds of silence after which a stream carries a comment.
        write_timeout_s: how long a client may take nothing before its request is cancelled.
        limits: what may run at once. What does not fit waits, if fewer than `queue` do, for `queue_wait_s` at most.
        caps: the most that a request may set a search setting to, by its name.
        max_body_bytes: the longest request body that is read.
        inline_reasoning: put the reasoning into `content`, in think tags, unless the request says otherwise.
        relay_unsupported: hand what a panel cannot decode to one of its teachers, unless the request says otherwise.
        created: when the models came to be, in seconds since the epoch.
    """

    scores: frozenset[str]
    reference_free: str
    keys: tuple[Key, ...] = ()
    open_metrics: bool = True
    keepalive_s: float = 10.0
    write_timeout_s: float = 60.0
    limits: RequestLimits = DEFAULT_LIMITS
    queue: int = 0
    queue_wait_s: float = 0.0
    retry_after_s: int = 2
    caps: Mapping[str, float] = field(default_factory=dict)
    max_body_bytes: int = 4 * 1024 * 1024
    inline_reasoning: bool = False
    relay_unsupported: bool = False
    created: int = field(default_factory=lambda: int(time.time()))


def make_job(
    request: ChatRequest, ensemble: Ensemble, options: ApiOptions, request_id: str, received: float
) -> Job:
    """The job that these teachers are asked to do; that they can was decided by `proxy.api.plan`.

    Raises:
        RequestError: a setting does not fit the ensemble.
    """
    cord = request.cord or CordOptions()
    problem = Problem(
        id=f"chatcmpl-{secrets.token_hex(16)}",
        messages=_conversation(request),
        references=tuple(cord.reference or ()),
        stop=tuple(request.stop or ()),
        format=_format(request),
        tools=_tools(request),
    )
    metadata = {
        name: getattr(request, name) for name in RECORDED if getattr(request, name) is not None
    }
    if problem.format is not None:
        metadata["response_format"] = problem.format
    if problem.tools:
        metadata["tools"] = list(problem.tools)
    check_caps(cord.given, options.caps)
    settings = _settings(request, cord, ensemble, options)
    recorded = {**metadata, "request_id": request_id}
    conversation = tuple(message.recorded() for message in request.messages)
    return Job(problem, ensemble, settings, received, recorded, conversation)


def _conversation(request: ChatRequest) -> tuple[Message, ...]:
    """The messages as text; results of calls that were made together are one turn, as templates have it."""
    messages: list[Message] = []
    before = ""
    for wire in request.messages:
        message = wire.message()
        if wire.role == before == "tool":
            message = replace(message, content=f"{messages.pop().content}\n{message.content}")
        messages.append(message)
        before = wire.role
    return tuple(messages)


def _tools(request: ChatRequest) -> tuple[Mapping[str, Any], ...]:
    """What the answer may call."""
    if not request.tools or request.tool_choice == "none":
        return ()
    return tuple(tool.model_dump(exclude_none=True) for tool in request.tools)


def _format(request: ChatRequest) -> dict[str, Any] | None:
    """What the answer is held to."""
    asked = request.response_format
    if asked is None or asked.type == "text":
        return None
    return asked.model_dump(by_alias=True, exclude_none=True)


def _settings(
    request: ChatRequest, cord: CordOptions, ensemble: Ensemble, options: ApiOptions
) -> Settings:
    settings = cord.apply(ensemble.settings)
    names = [teacher.name for teacher in ensemble.panel]
    if "answerer" in cord.given and settings.answerer not in (None, *names):
        message = f"{settings.answerer!r} is not a teacher of {ensemble.name!r}; these are {', '.join(names)}"
        raise RequestError(message, param="cord.answerer", code="invalid_value")
    _check_strategy(cord, settings, ensemble.name)
    asked = cord.given.get("score")
    if asked is not None or STRATEGIES[settings.strategy].rank == "score":
        score = resolve_score(
            asked,
            ensemble.settings.score,
            referenced=bool(cord.reference),
            known=options.scores,
            reference_free=options.reference_free,
        )
        unset = ensemble.unset - cord.model_fields_set
        fits = {name: value for name, value in fitting(source_of(score)).items() if name in unset}
        settings = replace(settings, score=score, **fits)
    total = request.max_completion_tokens or request.max_tokens or settings.budget.total_tokens
    return replace(
        settings,
        sampling=_sampling(request, settings.sampling),
        budget=replace(settings.budget, total_tokens=total),
    )


def _check_strategy(cord: CordOptions, settings: Settings, name: str) -> None:
    """That the strategy heeds what the request sets.

    Raises:
        RequestError: a setting would be ignored.
    """
    strategy, given = STRATEGIES[settings.strategy], cord.given
    ignored = {
        "beam_width": strategy.width is not None and given.get("beam_width", 1) > 1,
        "score": strategy.rank != "score" and given.get("score", "auto") != "auto",
        "adaptive": strategy.teachers == 1 and given.get("adaptive", False),
    }
    for key in filter(ignored.__getitem__, ignored):
        message = (
            f"{name!r} would search by the strategy {settings.strategy!r}, which ignores {key}"
        )
        hint = "; give cord.strategy as well, as 'beam'"
        raise RequestError(f"{message}{hint}", param=f"cord.{key}", code="invalid_value")


def _sampling(request: ChatRequest, configured: Sampling) -> Sampling:
    """The client's sampling; without a seed a new one is drawn, as the same request twice is two samples."""
    return Sampling(
        temperature=configured.temperature if request.temperature is None else request.temperature,
        top_p=configured.top_p if request.top_p is None else request.top_p,
        seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
    )
