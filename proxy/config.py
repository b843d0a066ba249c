"""The configuration as frozen values, read from YAML in the shape LiteLLM's users know.

Fails at the start with the path of the key at fault; an unknown key is an error. `os.environ/NAME` as a value is
read from the environment. Builds nothing: `proxy.app` does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from proxy.api.auth import Key, Scope, master_key
from proxy.api.limits import RequestLimits
from proxy.api.options import SearchOptions, with_all_settings
from proxy.complaints import Source, explained, refusal
from proxy.decoder.settings import SETTINGS, Settings
from proxy.decoder.steps import CUES, INSTRUCTIONS, Cut, Segmentation
from proxy.errors import ConfigError
from proxy.teachers.compatible import PROVIDERS
from proxy.trace.log import LogSettings
from proxy.trace.redact import Redaction
from proxy.trace.store import Retention
from runtime.gguf import NotGguf, is_gguf, read_metadata
from runtime.markup import MarkupName

log = logging.getLogger(__name__)

_NO_SOURCE = Source()

Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\s/]+(/[^\s/]+)*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _with_provider(model: str) -> str:
    provider, _, name = model.partition("/")
    if not provider or not name:
        raise ValueError(
            f"{model!r} does not say who serves it: write PROVIDER/NAME, e.g. hosted_vllm/{model}, openai/{model} "
            f"(any OpenAI-compatible completions endpoint at api_base) or local/FOLDER"
        )
    return model


def _with_scheme(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} has no scheme: write http://{url.rpartition('://')[2]}")
    return url


class LitellmParams(_Section):
    """Where a teacher is served. `model` is `provider/name`, as for LiteLLM.

    The proxy itself serves `local/FOLDER` (a transformers checkpoint) and `local/FILE.gguf` (by llama.cpp).
    """

    model: Annotated[str, AfterValidator(_with_provider)]
    api_base: Annotated[str, AfterValidator(_with_scheme)] | None = None
    api_key: str | None = None

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    @property
    def name(self) -> str:
        return self.model.partition("/")[2]


class ModelInfo(_Section):
    """What the proxy must know of a teacher beyond its address.

    `tokenizer` is a folder or hub name that holds the chat template; by default the model's own name. With `examine` it
    has to show that it goes on with a half-written turn. A model whose `mode` is "embedding" is no teacher:
    /v1/embeddings goes straight to it.
    """

    mode: Literal["chat", "embedding"] = "chat"
    examine: bool = True
    tokenizer: str | None = None
    markup: MarkupName = "auto"
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_concurrency: Annotated[int, Field(ge=1)] = 64
    licence: str | None = None
    revision: str | None = None


class TeacherConfig(_Section):
    """One entry of `model_list`."""

    model_name: Name
    litellm_params: LitellmParams
    model_info: ModelInfo = ModelInfo()

    @model_validator(mode="after")
    def _has_an_address(self) -> Self:
        served_elsewhere = (
            self.litellm_params.provider in PROVIDERS and self.litellm_params.provider != "local"
        )
        if served_elsewhere and self.litellm_params.api_base is None:
            raise ValueError(
                f"litellm_params.api_base is needed for {self.litellm_params.provider}/ models"
            )
        if self.model_info.mode == "embedding" and not served_elsewhere:
            raise ValueError(
                f"model_info.mode: {self.litellm_params.provider}/ models are not relayed for embeddings"
            )
        return self


class ScorerConfig(_Section):
    """The scoring service: started by the proxy from `models`, or reached at `url`.

    `meta_prover` scores against references; `judges` share the cross-perplexity (default: all that are no reward
    models); `reward_models` grade. How a model is asked for its answer, and how its thinking is closed before that,
    may be said by its name.
    """

    models: dict[Name, str]
    meta_prover: Name
    judges: tuple[Name, ...] = ()
    reward_models: tuple[Name, ...] = ()
    reference_free: Annotated[str, Field(min_length=1, max_length=256)] = "cross"
    url: Annotated[str, AfterValidator(_with_scheme)] | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_budget_mb: Annotated[int, Field(ge=1)] = 1024
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    elicitation: dict[Name, Annotated[str, Field(pattern=r"\{answer\}")]] = Field(
        default_factory=dict
    )
    closing: dict[Name, str] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    retry_s: Annotated[float, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _names_its_models(self) -> Self:
        for name in (
            self.meta_prover,
            *self.judges,
            *self.reward_models,
            *self.elicitation,
            *self.closing,
        ):
            if name not in self.models:
                raise ValueError(f"{name!r} is not one of scorer.models ({', '.join(self.models)})")
        return self

    @property
    def command(self) -> list[str]:
        """Arguments of the scoring service that this section describes."""
        named = (
            ("--model", self.models),
            ("--elicitation", self.elicitation),
            ("--closing", self.closing),
        )
        return [
            "serve",
            *(
                f"{option}={name}={value}"
                for option, values in named
                for name, value in values.items()
            ),
            f"--device={self.device}",
            f"--dtype={self.dtype}",
            f"--kv-budget-mb={self.kv_budget_mb}",
            f"--batch-tokens={self.batch_tokens}",
        ]

    @property
    def panel(self) -> tuple[str, ...]:
        return self.judges or tuple(name for name in self.models if name not in self.reward_models)


@with_all_settings
class EnsembleConfig(SearchOptions):
    """A virtual model: the teachers it asks and how it searches."""

    teachers: Annotated[list[Name], Field(min_length=1)]

    @property
    def settings(self) -> Settings:
        """The ensemble's settings; what is not given is the default."""
        return self.apply(Settings())


class SegmentationConfig(_Section):
    """How reasoning is cut, and the instruction that is added to what teachers read (and to nothing else).

    `auto` cuts by markers until teachers have been examined, then each ensemble by the best cut that all of its
    teachers keep. With an `instruction` of one's own it stays with markers.
    """

    cut: Cut | Literal["auto"] = "auto"
    marker: Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")] = "### Step"
    cues: Annotated[list[Annotated[str, Field(pattern=r"^\S(.*\S)?$")]], Field(min_length=1)] = (
        list(CUES)
    )
    instruction: str | None = None
    min_step_chars: Annotated[int, Field(ge=0)] = 120

    @property
    def adapts(self) -> bool:
        """Whether the cut follows what teachers keep."""
        return self.cut == "auto" and self.instruction is None

    def built(self) -> Segmentation:
        """With the instruction that fits the cut, unless one is given."""
        cut: Cut = "marker" if self.cut == "auto" else self.cut
        told = INSTRUCTIONS[cut] if self.instruction is None else self.instruction
        joined = 0 if cut == "marker" else self.min_step_chars
        return Segmentation(self.marker, told, cut, tuple(self.cues), joined)


class RedactionRule(_Section):
    """A regular expression, and what stands in the place of what it matches (`\\1` for its first group)."""

    pattern: Annotated[str, Field(min_length=1)]
    replacement: str = "[redacted]"


class TraceConfig(_Section):
    """Where traces go; null turns them off.

    A segment is closed when it has grown past `rotate_mb` or is older than `rotate_hours`, and then compressed. Closed
    segments older than `keep_days` are deleted, and the oldest while all come to more than `keep_mb`. `redact` are
    patterns to be replaced in every text before it is written, `redact_with` is a function (`module:function`).
    """

    folder: Path | None = Path("traces")
    rotate_mb: Annotated[int, Field(ge=1)] = 256
    rotate_hours: Annotated[float, Field(gt=0)] = 24.0
    compress: bool = True
    keep_days: Annotated[float, Field(gt=0)] | None = None
    keep_mb: Annotated[int, Field(ge=1)] | None = None
    redact: tuple[RedactionRule, ...] = ()
    redact_with: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None

    @property
    def log_settings(self) -> LogSettings:
        """Raises `ConfigError` if a pattern or the function is not usable."""
        keep_bytes = None if self.keep_mb is None else self.keep_mb << 20
        retention = Retention(self.keep_days, keep_bytes)
        redaction = Redaction.load(
            [(rule.pattern, rule.replacement) for rule in self.redact], self.redact_with
        )
        return LogSettings(
            self.rotate_mb << 20, self.rotate_hours * 3600, self.compress, retention, redaction
        )


class GeneralSettings(_Section):
    """The server itself.

    Without a `master_key` it listens on this machine only, unless `allow_unauthenticated` says that anybody may ask.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 4000
    master_key: str | None = None
    allow_unauthenticated: bool = False
    open_metrics: bool = True
    max_in_flight: Annotated[int, Field(ge=1)] = 64
    keepalive_s: Annotated[float, Field(gt=0)] = 10.0
    inline_reasoning: bool = False
    ui: bool = True
    relay_unsupported: bool = False
    cors_origins: list[str] = Field(default_factory=list)
    shutdown_s: Annotated[int, Field(ge=0)] = 30


class LimitsConfig(_Section):
    """What requests may cost at once, upper bounds reserved at the door."""

    requests: Annotated[int, Field(ge=1)] | None = None
    calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits(self.requests, self.calls, self.tokens)


class AdmissionConfig(_Section):
    """Who waits and what is too much. `options` are the most that a request may set search settings to."""

    calls: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    per_key: LimitsConfig = LimitsConfig()
    queue: Annotated[int, Field(ge=0)] = 64
    queue_wait_s: Annotated[float, Field(ge=0)] = 30.0
    options: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _are_numbers(cls, options: dict[str, float]) -> dict[str, float]:
        capped = [
            name
            for name, one in SETTINGS.items()
            if one.type in (int, float) and not one.about.top_level
        ]
        for name in options:
            if name not in capped:
                raise ValueError(
                    f"{name!r} is no search setting with a number; these are: {', '.join(capped)}"
                )
        return options


class KeyConfig(_Section):
    """A key of one client. Only its hash stands in the file: `printf %s KEY | sha256sum`."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[list[Scope], Field(min_length=1)] = ["chat"]
    expires: AwareDatetime | None = None
    limits: LimitsConfig | None = None


class Config(_Section):
    """Everything a proxy is built from. Relative folders are relative to the configuration file."""

    model_list: Annotated[list[TeacherConfig], Field(min_length=1)]
    scorer: ScorerConfig
    ensembles: Annotated[dict[Name, EnsembleConfig], Field(min_length=1)]
    segmentation: SegmentationConfig = SegmentationConfig()
    traces: TraceConfig = TraceConfig()
    general_settings: GeneralSettings = GeneralSettings()
    admission: AdmissionConfig = AdmissionConfig()
    keys: list[KeyConfig] = Field(default_factory=list)

    @property
    def api_keys(self) -> tuple[Key, ...]:
        """All keys, the master key among them."""
        per_key = self.admission.per_key
        made = [
            Key(
                key.name,
                key.sha256,
                frozenset(key.scopes),
                key.expires,
                (key.limits or per_key).limits,
            )
            for key in self.keys
        ]
        master = self.general_settings.master_key
        return tuple(made) if master is None else (*made, master_key(master))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._name_problems(), *self._panel_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_problems(self) -> Iterator[str]:
        names = [teacher.model_name for teacher in self.model_list]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield f"model_list: {name!r} stands there twice"
            if name in self.ensembles:
                yield f"ensembles.{name}: the name is also a teacher's in model_list"
            if name in ("scorer", "teachers"):
                yield f"model_list: {name!r} is what /ready calls something else; choose another name"

    def _panel_problems(self) -> Iterator[str]:
        teachers = [
            entry.model_name for entry in self.model_list if entry.model_info.mode == "chat"
        ]
        for name, ensemble in self.ensembles.items():
            for teacher in (*ensemble.teachers, *filter(None, [ensemble.settings.answerer])):
                if teacher not in teachers:
                    yield f"ensembles.{name}: {teacher!r} is no teacher of model_list ({', '.join(teachers)})"

    @property
    def hub_names(self) -> tuple[str, ...]:
        """The models and tokenizers that are no folders or files here, and so come from the hub or its cache."""
        templates = [
            entry.model_info.tokenizer or entry.litellm_params.name
            for entry in self.model_list
            if entry.litellm_params.provider in PROVIDERS and entry.model_info.mode == "chat"
        ]
        judges = [] if self.scorer.url else [*self.scorer.models.values()]
        named = dict.fromkeys([*templates, *judges])
        return tuple(name for name in named if "://" not in name and not Path(name).exists())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but is probably not wanted."""
        told = [
            f"ensembles.{name}: {text}"
            for name, entry in self.ensembles.items()
            for text in entry.warnings
        ]
        judges = self.scorer.panel
        served = {entry.litellm_params.name: entry.model_name for entry in self.model_list}
        if len(judges) == 1 and (teacher := served.get(self.scorer.models[judges[0]])) is not None:
            told.append(
                f"scorer.judges: {judges[0]} is the only judge, and it is the same model as the teacher {teacher}. "
                "Without a reference it prefers that teacher's steps to better ones; add a judge of other origin or "
                "all teachers (docs/quality.md)"
            )
        return tuple(told)


def load(path: Path) -> Config:
    """Read a configuration file.

    Without a master key in the file, the environment's CORD_MASTER_KEY is the master key.

    Raises:
        ConfigError: the file is missing, is not YAML, or keys in it are wrong; the message names all of them.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
    except FileNotFoundError as exc:
        raise ConfigError("", f"there is no {path}; `cord init` writes one") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError("", f"cannot read {path}: {exc}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError("", f"{path} is not YAML: {exc}") from exc
    config = parse(raw, path.parent, Source(path.name, node))
    general, key = config.general_settings, os.environ.get("CORD_MASTER_KEY")
    if general.master_key is None and key:
        return config.model_copy(
            update={"general_settings": general.model_copy(update={"master_key": key})}
        )
    return config


def parse(raw: Any, folder: Path, source: Source = _NO_SOURCE) -> Config:
    """Check a configuration given as plain values, and log what about it is probably not wanted.

    `folder` is where its relative paths start; `source` tells the lines of what is wrong.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("", "the configuration is not a mapping of keys")
    try:
        config = Config.model_validate(_from_environment(raw, ""))
    except ValidationError as exc:
        raise refusal(explained(exc, Config), source) from exc
    for warning in config.warnings:
        log.warning("%s", warning)
    return _anchored(config, folder, source)


def _from_environment(value: Any, path: str) -> Any:
    """Replace every `os.environ/NAME` by the variable's value."""
    if isinstance(value, Mapping):
        return {
            key: _from_environment(entry, f"{path}.{key}".lstrip("."))
            for key, entry in value.items()
        }
    if isinstance(value, list):
        return [_from_environment(entry, f"{path}.{i}") for i, entry in enumerate(value)]
    if isinstance(value, str) and value.startswith("os.environ/"):
        name = value.removeprefix("os.environ/")
        if name not in os.environ:
            raise ConfigError(path, f"the environment variable {name} is not set")
        return os.environ[name]
    return value


def _anchored(config: Config, folder: Path, source: Source) -> Config:
    """The configuration with its folders made independent of where the proxy is started."""
    complaints: list[tuple[tuple[str | int, ...], str]] = []
    teachers: list[TeacherConfig] = []
    models: dict[str, str] = {}
    for i, teacher in enumerate(config.model_list):
        try:
            teachers.append(_anchored_teacher(i, teacher, folder))
        except ConfigError as exc:
            complaints.append((("model_list", i, "litellm_params", "model"), exc.message))
    for name, location in config.scorer.models.items():
        try:
            models[name] = _anchored_judge(name, location, folder)
        except ConfigError as exc:
            complaints.append((("scorer", "models", name), exc.message))
    if complaints:
        raise refusal(complaints, source)
    scorer = config.scorer.model_copy(update={"models": models})
    traces = config.traces
    if traces.folder is not None:
        traces = traces.model_copy(update={"folder": folder / traces.folder})
    return config.model_copy(update={"model_list": teachers, "scorer": scorer, "traces": traces})


def _anchored_teacher(index: int, teacher: TeacherConfig, folder: Path) -> TeacherConfig:
    params = teacher.litellm_params
    if params.provider == "local":
        location = folder / Path(params.name).expanduser()
        path = f"model_list.{index}.litellm_params.model"
        if is_gguf(location):
            _check_gguf(path, location, {"xllamacpp": "llama.cpp"})
        elif not location.is_dir():
            raise ConfigError(path, f"there is no model folder at {location}")
        params = params.model_copy(update={"model": f"local/{location}"})
    tokenizer = _anchored_name(teacher.model_info.tokenizer or params.name, folder)
    info = teacher.model_info.model_copy(update={"tokenizer": tokenizer})
    return teacher.model_copy(update={"litellm_params": params, "model_info": info})


def _anchored_judge(name: str, location: str, folder: Path) -> str:
    """As `_anchored_name`, for a model of the scorer, which may also be a GGUF file."""
    if is_gguf(location):
        file = folder / Path(location).expanduser()
        _check_gguf(f"scorer.models.{name}", file, {"gguf": "gguf", "accelerate": "accelerate"})
        return str(file)
    anchored = _anchored_name(location, folder)
    if not Path(anchored).is_dir() and "://" not in location and _is_path(location):
        raise ConfigError(
            f"scorer.models.{name}", f"there is no model folder at {folder / location}"
        )
    return anchored


def _is_path(location: str) -> bool:
    """Whether it can only be a place on disk: a hub name is one name, or two around a slash."""
    return location.startswith((".", "/", "~")) or location.count("/") > 1


def _check_gguf(path: str, file: Path, needed: Mapping[str, str]) -> None:
    """That a GGUF file can be read, and that the modules it needs, by their packages' names, are installed."""
    try:
        metadata = read_metadata(file)
    except NotGguf as exc:
        raise ConfigError(path, str(exc)) from exc
    if metadata.chat_template is None:
        raise ConfigError(
            path, f"{file} has no chat template: it is a base model, or was converted without one"
        )
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            path, f"GGUF files need {' and '.join(missing)}: pip install 'cord-proxy[real]'"
        )


def _anchored_name(location: str, folder: Path) -> str:
    """A folder or GGUF file beside the configuration, or else a hub name, left as it is."""
    anchored = folder / Path(location).expanduser()
    return str(anchored) if anchored.is_dir() or is_gguf(location) else location
