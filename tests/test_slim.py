"""The proxy starts where torch and litellm are not installed, and says what needs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

# As if these were not installed: nothing finds them.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {absent!r} else real(name, package)
sys.meta_path.insert(0, Absent())
from pathlib import Path
from proxy import config
from proxy.app import build_app
from proxy.errors import ConfigError
from proxy.teachers.template import ChatTemplate
from proxy.decoder.types import Message
try:
    build_app(config.parse({raw!r}, Path({folder!r})))
    print("built", ChatTemplate.load(str(Path({folder!r}, "t"))).render((Message("user", "hi"),)))
except ConfigError as exc:
    print(exc)
"""


def start(folder: Path, raw: dict[str, Any], *absent: str) -> str:
    """What a start says where these libraries are absent."""
    (folder / "t").mkdir()
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "t" / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    code = WITHOUT.format(absent=absent, raw=raw, folder=str(folder))
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.strip()


def served(model: str = "hosted_vllm/far", **scorer: Any) -> dict[str, Any]:
    return {
        "model_list": [
            {
                "model_name": "far",
                "litellm_params": {"model": model, "api_base": "http://127.0.0.1:1/v1"},
                "model_info": {"tokenizer": "t"},
            }
        ],
        "scorer": {
            "models": {"meta": "vllm+http://127.0.0.1:1/v1#far"},
            "meta_prover": "meta",
            **scorer,
        },
        "ensembles": {"cord": {"teachers": ["far"]}},
    }


def test_served_models_and_a_scorer_elsewhere_need_neither_torch_nor_litellm(
    tmp_path: Path,
) -> None:
    assert start(tmp_path, served(url="http://127.0.0.1:2"), "torch", "litellm") == "built hi"


@pytest.mark.parametrize(
    ("absent", "raw", "sentence"),
    [
        (
            "torch",
            served(),
            "scorer.models: the scorer runs on torch, which is not installed: pip install torch, or",
        ),
        (
            "torch",
            served("local/t", url="http://127.0.0.1:2"),
            "embedded teachers run on torch, which is not",
        ),
        (
            "litellm",
            served("openrouter/far"),
            "openrouter/ models are called with litellm, which is not installed",
        ),
        (
            "transformers",
            served(),
            "chat templates are rendered with transformers, which is not installed",
        ),
    ],
)
def test_what_needs_an_absent_library_is_one_sentence(
    absent: str, raw: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    said = start(tmp_path, raw, absent)
    assert sentence in said and len(said.splitlines()) == 1
