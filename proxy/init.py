"""`cord init`: write a configuration for the servers that answer, or for the embedded demo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx

from proxy.errors import ConfigError
from proxy.starter import embedded_config

USUAL = {
    8000: "vLLM",
    8080: "llama.cpp",
    11434: "Ollama",
    30000: "SGLang",
    1234: "LM Studio",
}
"""Who listens where by default."""

_OWNERS = {"vllm": "vLLM", "llamacpp": "llama.cpp", "library": "Ollama", "sglang": "SGLang"}
_PROVIDERS = {"vLLM": "hosted_vllm", "llama.cpp": "llama_cpp", "Ollama": "ollama"}
_SCORES = {"vLLM": "vllm", "SGLang": "sglang"}
_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server has: `api_base` ends in /v1, `server` is one of `USUAL` or "" where nobody can tell."""

    model: str
    api_base: str
    server: str

    @property
    def name(self) -> str:
        """What clients call it."""
        return self.model.rpartition("/")[2].replace(":", "-").lower()

    @property
    def on_hub(self) -> bool:
        """Whether the model's name is one of the hub's, so that its tokenizer can be had there."""
        return self.model.count("/") == 1 and not self.model.startswith(("/", "."))

    @property
    def provider(self) -> str:
        return _PROVIDERS.get(self.server, "openai")


def init(path: Path, teachers: Sequence[str], *, embedded: bool, force: bool) -> int:
    """Write the configuration; the exit status.

    Raises:
        ConfigError: there is one already, or a server that was named does not answer.
    """
    if path.exists() and not force:
        raise ConfigError("", f"{path} is there already; --force writes it anew")
    found = [] if embedded else anyio.run(_discover, tuple(teachers))
    if teachers and not found:
        raise ConfigError("", "the servers that were named have no models")
    path.write_text(server_config(found) if found else embedded_config(), encoding="utf-8")
    for served in found:
        print(f"{served.server or 'a server'} at {served.api_base} has {served.model}")
    if not found and not embedded:
        print(
            f"no server answers on the usual ports ({', '.join(map(str, USUAL))}): this is the embedded demo"
        )
    print(f"wrote {path}; next: cord check --config {path}")
    return 0


async def _discover(urls: Sequence[str]) -> list[Served]:
    """The models of the servers at these URLs, or else of those on the usual ports of this machine."""
    bases = [_based(url) for url in urls] or [f"http://127.0.0.1:{port}/v1" for port in USUAL]
    found: dict[str, list[Served]] = {}
    async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client, anyio.create_task_group() as group:
        for base in bases:
            group.start_soon(_ask, client, base, found)
    for base in bases if urls else ():
        if base not in found:
            raise ConfigError("", f"no OpenAI-compatible server answers at {base}/models")
    return [served for base in bases for served in found.get(base, ())]


async def _ask(client: httpx.AsyncClient, base: str, found: dict[str, list[Served]]) -> None:
    try:
        with anyio.fail_after(2 * _TIMEOUT_S):
            reply = await client.get(f"{base}/models")
        models = reply.raise_for_status().json()["data"]
        usual = USUAL.get(urlsplit(base).port or 0, "")
        found[base] = [
            Served(str(model["id"]), base, _OWNERS.get(str(model.get("owned_by")), usual))
            for model in models
        ]
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):
        return


def _based(url: str) -> str:
    """A server's URL as `api_base`: with a scheme, and /v1 at the end."""
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1"


def server_config(found: Sequence[Served]) -> str:
    """A configuration of these models, with remarks on what has to be decided."""
    names = _names(found)
    teachers, judges = [], []
    for name, served in zip(names, found, strict=True):
        teachers.append(
            f"  - model_name: {json.dumps(name)}                 # {served.server or 'a server'}"
        )
        teachers.append("    litellm_params:")
        teachers.append(f"      model: {json.dumps(f'{served.provider}/{served.model}')}")
        teachers.append(f"      api_base: {json.dumps(served.api_base)}")
        teachers.append("      # api_key: os.environ/API_KEY")
        if not served.on_hub:
            teachers.append("    model_info:")
            teachers.append(
                "      # TODO: the folder or hub name of this model's tokenizer, for its chat template"
            )
            teachers.append(f"      tokenizer: {json.dumps(served.model)}")
        judges.append(f"    {json.dumps(name)}: {json.dumps(_judge(served))}")
    return _SERVERS.format(
        teachers="\n".join(teachers),
        judges="\n".join(judges),
        meta=json.dumps(names[0]),
        names=json.dumps(names),
    )


def _judge(served: Served) -> str:
    """How the scorer has a model: by the server, where that tells log-probabilities of a prompt, else as weights."""
    scheme = _SCORES.get(served.server)
    return f"{scheme}+{served.api_base}#{served.model}" if scheme else served.model


def _names(found: Sequence[Served]) -> list[str]:
    """Names of their own, also where two servers have the same model."""
    names: list[str] = []
    for served in found:
        taken = sum(name == served.name or name.startswith(f"{served.name}-") for name in names)
        names.append(f"{served.name}-{taken + 1}" if taken else served.name)
    return names


_SERVERS = """\
# Written by `cord init`. Every key is described in docs/configuration.md; `cord check` tells what works.

model_list:
{teachers}

scorer:
  # Each judge is a hub name or folder, whose weights the scorer loads, or the address of a vLLM or SGLang server
  # that has the model: vllm+http://HOST/v1#NAME.
  models:
{judges}
  meta_prover: {meta}                   # scores steps against a reference answer
  judges: {names}                       # share the score without one; a teacher that judges alone prefers its own steps

ensembles:
  cord:                                 # the model that clients ask
    teachers: {names}

traces:
  folder: traces

general_settings:
  host: 127.0.0.1
  port: 4000
  # master_key: os.environ/CORD_MASTER_KEY
"""
