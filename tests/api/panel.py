"""A scripted panel behind the real API app, and what a test needs to talk to it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.lowlevel
import httpx
from starlette.applications import Starlette

from proxy.api.feedback import FeedbackStore
from proxy.api.health import ComponentState
from proxy.api.job import ApiOptions
from proxy.api.live import LiveSearches
from proxy.api.relay import Upstream
from proxy.api.routes import create
from proxy.api.traces import TraceStore
from proxy.decoder.events import Event
from proxy.decoder.journal import Stamped
from proxy.decoder.ports import OnText
from proxy.decoder.settings import Settings
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import Continuation, Problem, Score, ScorePart, Source, TeacherRequest
from proxy.errors import ScorerError, TeacherError
from proxy.service import Ensemble, Job, Recorder, Service
from proxy.sse import Decoder
from proxy.trace.log import TraceLog

Gate = Callable[[TeacherRequest], Awaitable[None]]


@dataclass
class Teacher:
    """Writes two short steps and an answer of two pieces, each with its mark; `gate` may hold it or make it fail.

    `aside` is added to every step; `answer` replaces the pieces of its own.
    """

    name: str
    gate: Gate | None = None
    aside: str = ""
    history: list[TeacherRequest] = field(default_factory=list)
    supports_response_format: bool = False
    supports_tools: bool = False
    answer: tuple[str, ...] = ()

    async def write(self, ask: TeacherRequest, on_text: OnText | None = None) -> Continuation:
        self.history.append(ask)
        if self.gate is not None:
            await self.gate(ask)
        await anyio.lowlevel.checkpoint()
        if ask.answer is None:
            depth = ask.reasoning.count("### Step")
            return Continuation(
                f" {self.name} thinks {depth}{self.aside}",
                "closed" if depth == 2 else "marker",
                11,
                4,
            )
        pieces = self.answer or ("it is ", f"42 — {self.name}")
        for piece in pieces:
            assert on_text is not None
            on_text(piece)
        return Continuation("".join(pieces), "eos", 19, 6)


@dataclass
class Scorer:
    """Prefers what the teacher `likes` writes; `error` makes it fail."""

    likes: str
    error: ScorerError | None = None

    async def score(
        self,
        problem: Problem,
        prefix: str,
        step: str,
        objective: str,
        proposer: str = "",
        pool: Mapping[str, float] | None = None,
        *,
        ahead: bool = False,
    ) -> Score:
        if self.error is not None:
            raise self.error
        nats = -2.0 if self.likes in step else -4.0
        source = Source.REFERENCE if problem.references else Source.NONE
        return Score(
            nats, 4.0, False, objective, source, (ScorePart("meta", nats, 4),), tokens_forwarded=9
        )

    async def elicit(self, problem: Problem, prefix: str, step: str) -> tuple[tuple[str, ...], int]:
        return ("42",), 9

    async def read(self, problem: Problem, prefix: str, begun: str, objective: str) -> None:
        """Nothing to make ready."""


OPTIONS = ApiOptions(
    scores=frozenset({"predictive", "predictive-arithmetic", "step", "contrastive"}),
    reference_free="step",
    created=1_700_000_000,
)


@dataclass
class Panel:
    """The service under test, with everything it was asked and everything it told its recorders."""

    teachers: Sequence[Teacher] = field(default_factory=lambda: (Teacher("anna"), Teacher("ben")))
    scorer: Scorer = field(default_factory=lambda: Scorer("ben"))
    settings: Settings = field(default_factory=lambda: Settings(beam_width=2))
    options: ApiOptions = OPTIONS
    components: Mapping[str, ComponentState] = field(default_factory=dict)
    kept: list[tuple[Job, list[Event]]] = field(default_factory=list)
    upstreams: Sequence[Upstream] = ()
    relayed: list[tuple[str, str, str]] = field(default_factory=list)
    store: TraceStore | None = None
    feedback: FeedbackStore | None = None
    log: TraceLog | None = None
    live: LiveSearches = field(default_factory=LiveSearches)

    @property
    def app(self) -> Starlette:
        ensembles = {"cord": Ensemble("cord", tuple(self.teachers), self.settings)}
        for teacher in self.teachers:
            ensembles[teacher.name] = Ensemble(
                teacher.name, (teacher,), Settings(strategy="single")
            )
        recorders: dict[str, Recorder] = {"test": self._record}
        if self.log:
            recorders["traces"] = self.log.record
        service = Service(
            ensembles,
            self.scorer,
            Segmentation(),
            recorders=recorders,
            listeners={"live": self.live.watch},
        )
        page = (b"cord_up 1\n", "text/plain; version=1.0.0")
        return create(
            service,
            self.options,
            lambda: self.components,
            lambda: page,
            self.upstreams,
            self._told,
            self.live,
            self.store,
            self.feedback,
        )

    @property
    def asks(self) -> list[TeacherRequest]:
        return [ask for teacher in self.teachers for ask in teacher.history]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://cord")

    def _told(self, teacher: str, path: str, outcome: str, seconds: float) -> None:
        self.relayed.append((teacher, path, outcome))

    def _record(self, job: Job, events: Sequence[Stamped]) -> None:
        self.kept.append((job, [stamped.event for stamped in events]))


def fails_with(kind: Any, when: Callable[[TeacherRequest], bool] = lambda ask: True) -> Gate:
    async def gate(ask: TeacherRequest) -> None:
        if when(ask):
            raise TeacherError("anna", kind, "scripted failure")

    return gate


CHAT = "/v1/chat/completions"


def ask(**fields: Any) -> dict[str, Any]:
    """A minimal request body, with these fields put in or replaced."""
    return {
        "model": "cord",
        "messages": [{"role": "user", "content": "What is 6 × 7?"}],
        "seed": 7,
        **fields,
    }


def events_of(stream: bytes) -> list[Any]:
    """The JSON of a finished stream's events; asserts that `[DONE]` is the last."""
    *events, done = [event.data for event in Decoder().feed(stream)]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def stitched(chunks: Sequence[Any], key: str) -> str:
    """What a client puts together from the deltas."""
    return "".join(
        chunk["choices"][0]["delta"].get(key) or "" for chunk in chunks if chunk["choices"]
    )
