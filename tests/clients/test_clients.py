"""Clients from their registries, unmodified, against a real server; `make test-clients` installs and runs them.

openai-python, sync, async and with its streaming helpers, is a development dependency and always tested
(tests/api/test_clients.py).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.api.auth import master_key
from tests.api.panel import OPTIONS, Panel
from tests.api.test_clients import ANSWER, KEY, REASONING, serving
from tests.api.test_tools import panel as calling_panel

HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / ".backends" / "clients"
TOKENS = 14  # two steps of four, an answer of six


@pytest.fixture(autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--clients"):
        pytest.skip("run by `make test-clients`")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Panel(options=replace(OPTIONS, keys=(master_key(KEY),)))) as port:
        yield f"http://127.0.0.1:{port}/v1"


def run(command: Sequence[str], **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(command: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(command).splitlines()[-1])
    return found


def test_langchain(url: str) -> None:
    found = told([str(INSTALLED / "bin/python"), str(HERE / "with_langchain.py"), url, KEY])
    assert found == {"whole": ANSWER, "streamed": ANSWER, "tokens": TOKENS}


def test_litellm(url: str) -> None:
    found = told([str(INSTALLED / "bin/python"), str(HERE / "with_litellm.py"), url, KEY])
    assert found == {"whole": ANSWER, "reasoning": REASONING, "streamed": ANSWER, "tokens": TOKENS}


def test_openai_node(url: str) -> None:
    found = told(["node", str(HERE / "with_openai.mjs"), str(INSTALLED / "node"), url, KEY])
    assert found == {
        "whole": ANSWER,
        "streamed": ANSWER,
        "reasoning": REASONING,
        "tokens": TOKENS,
        "refused": ["NotFoundError", "model_not_found", "model"],
        "models": ["cord", "anna", "ben"],
    }


def test_the_ai_sdk_shows_reasoning_of_responses_and_calls_functions(url: str) -> None:
    thought = REASONING.strip().replace("\n\n", "")
    with serving(calling_panel()) as port:
        other = f"http://127.0.0.1:{port}/v1"
        found = told(
            ["node", str(HERE / "with_ai_sdk.mjs"), str(INSTALLED / "node"), url, KEY, other]
        )
    assert found == {
        "whole": ANSWER,
        "thought": thought,
        "streamed": ANSWER,
        "reasoning": thought,
        "calls": [["weigh", {"what": "it"}], ["weigh", {}]],
        "tokens": TOKENS,
    }


def test_the_description_fuzzed_by_schemathesis_finds_no_server_error(url: str) -> None:
    command = [
        str(INSTALLED / "bin/schemathesis"),
        "run",
        f"{url.removesuffix('/v1')}/openapi.json",
    ]
    checks = "not_a_server_error,status_code_conformance,response_schema_conformance"
    run(
        [
            *command,
            "--checks",
            checks,
            "--max-examples",
            "60",
            "--seed",
            "1",
            "-H",
            f"Authorization: Bearer {KEY}",
        ]
    )


@pytest.mark.parametrize("how", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_the_llm_command(url: str, how: list[str], tmp_path: Path) -> None:
    entry = f"- model_id: cord\n  model_name: cord\n  api_base: {url}\n  api_key_name: cord\n"
    (tmp_path / "extra-openai-models.yaml").write_text(entry)
    said = run(
        [str(INSTALLED / "bin/llm"), "-m", "cord", "--key", KEY, *how, "What is 6 × 7?"],
        LLM_USER_PATH=str(tmp_path),
    )
    assert said.strip() == ANSWER
