"""The composition root: from a configuration to a running application. Nothing else knows all the parts.

Importing this loads neither torch nor litellm; models live in child processes.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import anyio
import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from proxy import hub
from proxy.api.admission_metrics import AdmissionCollector
from proxy.api.cors import cors
from proxy.api.job import ApiOptions
from proxy.api.limits import RequestLimits
from proxy.api.live import LiveSearches
from proxy.api.options import check_score, needs_reference
from proxy.api.relay import RELAYED, Upstream
from proxy.api.routes import make_admission, on_error, routes
from proxy.background import Background
from proxy.config import Config, EnsembleConfig, TeacherConfig
from proxy.decoder.ports import Teacher
from proxy.decoder.settings import FITTED, Settings
from proxy.decoder.steps import Segmentation, shared_cut
from proxy.errors import ConfigError
from proxy.logs import log_relayed, log_search
from proxy.needs import need
from proxy.probe import Probes, Target
from proxy.processes import Child
from proxy.scorer import RemoteScorer
from proxy.service import Ensemble, Recorder, Service
from proxy.teachers.compatible import PROVIDERS, CompatibleTeacher
from proxy.teachers.guard import GuardedTeacher, Limits
from proxy.teachers.ollama import OllamaTeacher
from proxy.teachers.template import ChatTemplate
from proxy.trace.feedback import FeedbackLog
from proxy.trace.finder import TraceFinder
from proxy.trace.log import TraceLog
from proxy.trace.metrics import Metrics
from proxy.trace.record import Provenance, TeacherProvenance
from proxy.ui.page import page_routes
from runtime.gguf import is_gguf
from runtime.transport import PooledTransport
from scoring.client import ScorerClient
from scoring.scores import available_scores

_LOADING_S = 900.0
"""How long a scorer that is started for one command may take to load its models."""


@dataclass(slots=True)
class Parts:
    """What a running proxy consists of, built but not started."""

    service: Service
    options: ApiOptions
    metrics: Metrics
    background: Background
    clients: list[httpx.AsyncClient | ScorerClient]
    upstreams: list[Upstream]
    log: TraceLog | None
    live: LiveSearches
    finder: TraceFinder | None

    def on_relay(self, teacher: str, path: str, outcome: str, seconds: float) -> None:
        """Count and log a request that went straight to one teacher."""
        self.metrics.on_relay(teacher, path, outcome, seconds)
        log_relayed(teacher, path, outcome, seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Children up (not necessarily loaded yet) and probed; on leaving, everything is ended and flushed."""
        async with AsyncExitStack() as stack:
            if self.log is not None:
                stack.callback(self.log.close)
            for client in self.clients:
                await stack.enter_async_context(client)
            await stack.enter_async_context(self.background.running())
            yield


@dataclass(slots=True)
class _Builder:
    """Collects what must be started and closed while the parts are built."""

    config: Config
    sockets: Path
    segmentation: Segmentation
    clients: list[httpx.AsyncClient | ScorerClient] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    upstreams: list[Upstream] = field(default_factory=list)
    provenance: list[TeacherProvenance] = field(default_factory=list)

    def client(
        self, base_url: str, socket: Path | None, api_key: str | None = None
    ) -> httpx.AsyncClient:
        """A client of one backend. Calls are bounded by the guard, so the read timeout is not httpx's.

        Credentials in the URL become a header at once, so that no message or log line that names the URL has them.
        """
        transport = PooledTransport(str(socket) if socket else None)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=5.0)
        url = httpx.URL(base_url)
        auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        client = httpx.AsyncClient(
            transport=transport,
            base_url=url.copy_with(userinfo=b""),
            headers=headers,
            timeout=timeout,
            auth=auth,
        )
        self.clients.append(client)
        return client

    def teacher(self, index: int, entry: TeacherConfig) -> GuardedTeacher:
        params, info = entry.litellm_params, entry.model_info
        limits = Limits(timeout_s=info.timeout_s, concurrency=info.max_concurrency)
        if params.provider not in PROVIDERS:
            need(
                "litellm",
                f"model_list.{index}.litellm_params.model",
                f"{params.provider}/ models are called with",
            )
            from proxy.teachers.litellm import LitellmTeacher

            self.provenance.append(
                TeacherProvenance(entry.model_name, params.model, info.revision, None, info.licence)
            )
            hosted = LitellmTeacher(
                entry.model_name, params.model, api_base=params.api_base, api_key=params.api_key
            )
            return GuardedTeacher(hosted, limits)
        need(
            "transformers",
            f"model_list.{index}.model_info.tokenizer",
            "chat templates are rendered with",
        )
        if params.provider == "local" and not is_gguf(params.name):
            served = "serve it by another server"
            need(
                "torch",
                f"model_list.{index}.litellm_params.model",
                "embedded teachers run on",
                served,
            )
        try:
            template = ChatTemplate.load(info.tokenizer or params.name, info.markup)
        except ConfigError as exc:
            raise ConfigError(
                f"model_list.{index}.model_info.tokenizer", f"{exc}{hub.hint()}"
            ) from exc
        upstream = self.upstream(entry)
        self.provenance.append(
            TeacherProvenance(
                entry.model_name, params.model, info.revision, template.hash, info.licence
            )
        )
        served_by_llama = params.provider == "local" and is_gguf(params.name)
        provider = PROVIDERS["llama_cpp" if served_by_llama else params.provider]
        kind = OllamaTeacher if params.provider == "ollama" else CompatibleTeacher
        guarded = GuardedTeacher(
            kind(entry.model_name, upstream.model, upstream.client, template, provider), limits
        )
        learn_cuts = self.config.segmentation.adapts
        examine = (
            partial(guarded.examine, self.segmentation, learn_cuts=learn_cuts)
            if info.examine
            else None
        )
        target = self.target(entry.model_name, upstream, examine)
        self.targets.append(replace(target, note=lambda: guarded.note))
        return guarded

    def upstream(self, entry: TeacherConfig) -> Upstream:
        """The server of an entry, our own child or somebody else's, which can also be asked directly."""
        params, name = entry.litellm_params, entry.model_name
        if params.provider == "local":
            socket = self.sockets / f"{name.replace('/', '-')}.sock"
            module = "serving.llama" if is_gguf(params.name) else "serving"
            self.children.append(Child(name, module, [params.name, "--name", name], socket))
            upstream = Upstream(
                name, name, self.client("http://teacher/v1/", socket), frozenset({"completions"})
            )
        else:
            client = self.client(f"{(params.api_base or '').rstrip('/')}/", None, params.api_key)
            embeds = entry.model_info.mode == "embedding"
            # What a server does not know after all, it says itself.
            paths = frozenset(
                {"embeddings"}
                if embeds
                else {"chat/completions", "completions", "responses", *RELAYED}
            )
            upstream = Upstream(name, params.name, client, paths)
        self.upstreams.append(upstream)
        return upstream

    def embedder(self, entry: TeacherConfig) -> None:
        """A model that writes nothing: asked directly or not at all."""
        upstream = self.upstream(entry)
        self.targets.append(self.target(entry.model_name, upstream))

    def target(
        self,
        name: str,
        upstream: Upstream,
        examine: Callable[[], Awaitable[str | None]] | None = None,
    ) -> Target:
        """What is probed of a teacher or an embedder."""
        child = next((child for child in self.children if child.name == name), None)
        return Target(name, upstream.client, "models", required=False, examine=examine, child=child)

    def scorer(self) -> tuple[RemoteScorer, Target]:
        scorer = self.config.scorer
        socket = child = None
        if scorer.url is None:
            need(
                "torch",
                "scorer.models",
                "the scorer runs on",
                "run it elsewhere and set scorer.url",
            )
            socket = self.sockets / "scorer.sock"
            child = Child("scorer", "scoring", scorer.command, socket)
            self.children.append(child)
        address = str(socket) if socket else str(scorer.url)
        client = ScorerClient(address, timeout_s=scorer.timeout_s, retry_s=scorer.retry_s)
        self.clients.append(client)
        probe = self.client("http://scorer/" if socket else f"{scorer.url}/", socket)
        remote = RemoteScorer(client, scorer.meta_prover, scorer.panel, scorer.reward_models)
        return remote, Target("scorer", probe, "health", required=True, child=child)


def _feedback(config: Config) -> FeedbackLog | None:
    traces = config.traces
    return (
        FeedbackLog(traces.folder, traces.log_settings.redaction)
        if traces.folder is not None
        else None
    )


@asynccontextmanager
async def running_scorer(config: Config) -> AsyncIterator[RemoteScorer]:
    """The scorer alone, started if it is ours; the first call waits for its models."""
    patient = config.scorer.model_copy(update={"retry_s": max(config.scorer.retry_s, _LOADING_S)})
    config = config.model_copy(update={"scorer": patient})
    async with AsyncExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cord-")))
        builder = _Builder(config, sockets, config.segmentation.built())
        scorer, _ = builder.scorer()
        for client in builder.clients:
            await stack.enter_async_context(client)
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        for child in builder.children:
            group.start_soon(child.supervise)
        yield scorer


def build_parts(config: Config, sockets: Path) -> Parts:
    """Everything a proxy needs, wired but not started; children will listen in the folder `sockets`.

    Raises:
        ConfigError: a teacher has no usable chat template, or a score that is named cannot be had.
    """
    hub.use_cache_if_unreachable(config.hub_names)
    segmentation = config.segmentation.built()
    builder = _Builder(config, sockets, segmentation)
    teachers = {
        entry.model_name: builder.teacher(i, entry)
        for i, entry in enumerate(config.model_list)
        if entry.model_info.mode == "chat"
    }
    for entry in config.model_list:
        if entry.model_info.mode == "embedding":
            builder.embedder(entry)
    scorer, scorer_target = builder.scorer()
    ensembles = {name: _ensemble(name, entry, teachers) for name, entry in config.ensembles.items()}
    for name, teacher in teachers.items():
        ensembles[name] = Ensemble(name, (teacher,), Settings(strategy="single"))
    if config.segmentation.adapts:
        ensembles = {
            name: _adapting(ensemble, config, teachers) for name, ensemble in ensembles.items()
        }
    scores = available_scores(
        teachers=teachers,
        models=config.scorer.models,
        judges=scorer.judges,
        reward_models=scorer.reward_models,
    )
    _check_scores(config, scores)
    provenance = Provenance(teachers=tuple(builder.provenance))
    log = None
    if config.traces.folder is not None:
        log = TraceLog(config.traces.folder, config.traces.log_settings, provenance=provenance)
    metrics = Metrics(trace_log=log)
    live = LiveSearches()
    finder = TraceFinder(config.traces.folder) if config.traces.folder is not None else None
    recorders: dict[str, Recorder] = {"metrics": metrics.record, "log": log_search}
    if log is not None:
        recorders["traces"] = log.record
    service = Service(
        ensembles,
        scorer,
        segmentation,
        recorders=recorders,
        listeners={"metrics": metrics.listen, "live": live.watch},
        on_recorder_failure=metrics.on_recorder_failure,
    )
    general = config.general_settings
    options = ApiOptions(
        scores=scores,
        reference_free=config.scorer.reference_free,
        keys=config.api_keys,
        open_metrics=general.open_metrics,
        keepalive_s=general.keepalive_s,
        limits=RequestLimits(
            general.max_in_flight, config.admission.calls, config.admission.tokens
        ),
        queue=config.admission.queue,
        queue_wait_s=config.admission.queue_wait_s,
        caps=config.admission.options,
        inline_reasoning=general.inline_reasoning,
        relay_unsupported=general.relay_unsupported,
    )
    background = Background(builder.children, Probes(builder.targets, scorer_target))
    return Parts(
        service, options, metrics, background, builder.clients, builder.upstreams, log, live, finder
    )


def build_app(config: Config) -> Starlette:
    """The ASGI application of a configuration; its lifespan starts and ends the children.

    `app.state.background` is its `Background`, by which a server learns that the proxy cannot go on.
    """
    sockets = tempfile.TemporaryDirectory(prefix="cord-")
    try:
        parts = build_parts(config, Path(sockets.name))
    except ConfigError:
        sockets.cleanup()
        raise

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with sockets:
            async with parts.running():
                yield

    admission = make_admission(parts.options)
    parts.metrics.registry.register(AdmissionCollector(admission))
    app = Starlette(
        routes=routes(
            parts.service,
            parts.options,
            parts.background.probes.states,
            parts.metrics.render,
            parts.upstreams,
            parts.on_relay,
            parts.live,
            parts.finder,
            healthy=lambda: parts.background.healthy,
            admission=admission,
            feedback=_feedback(config),
        ),
        exception_handlers={HTTPException: on_error, Exception: on_error},
        lifespan=lifespan,
        middleware=cors(config.general_settings.cors_origins),
    )
    if config.general_settings.ui:
        app.router.routes.extend(page_routes())
    app.state.background = parts.background
    return app


def _check_scores(config: Config, known: frozenset[str]) -> None:
    """That every score the configuration names can be had."""
    named = {
        f"ensembles.{name}.score": entry.settings.score for name, entry in config.ensembles.items()
    }
    free = config.scorer.reference_free
    for path, score in {**named, "scorer.reference_free": free}.items():
        try:
            check_score(score, known)
        except ValueError as exc:
            raise ConfigError(path, str(exc)) from exc
    if needs_reference(free) or free == "auto":
        raise ConfigError("scorer.reference_free", f"{free!r} is no score without a reference")


def _adapting(
    ensemble: Ensemble, config: Config, teachers: Mapping[str, GuardedTeacher]
) -> Ensemble:
    """An ensemble that cuts as its teachers do, by what is known of them when a search begins."""
    panel = [teachers[teacher.name] for teacher in ensemble.panel]
    built, joined = config.segmentation.built(), config.segmentation.min_step_chars

    def segmentation() -> Segmentation:
        return built.by(shared_cut(teacher.kept_cuts for teacher in panel), joined)

    return replace(ensemble, segmentation=segmentation)


def _ensemble(name: str, entry: EnsembleConfig, teachers: Mapping[str, Teacher]) -> Ensemble:
    unset = FITTED - entry.model_fields_set
    return Ensemble(
        name, tuple(teachers[teacher] for teacher in entry.teachers), entry.settings, unset
    )
