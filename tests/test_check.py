"""`cord check` tells per component how it is and what to do."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from proxy.api.health import ComponentState
from proxy.check import Finding, check, show


def shown(*findings: Finding) -> str:
    console = Console(file=StringIO(), width=200)
    show(findings, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_crashed_child_is_shown_with_its_own_last_words() -> None:
    state = ComponentState("scorer", False, True, "ended with status 1", "crashed")
    text = shown(Finding(state, ("Traceback", "RuntimeError: [no] memory")))
    assert "crashed" in text and "scorer said last:" in text and "RuntimeError: [no] memory" in text


def test_what_is_well_needs_no_advice() -> None:
    text = shown(Finding(ComponentState("anna", True, False, "", "ok")))
    assert "ok" in text and "said last" not in text


@pytest.mark.timeout(100)
def test_a_missing_server_and_a_broken_checkpoint_are_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer's process is real: it finds out that its model is none."""
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    (tmp_path / "none" / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}"})
    )
    raw = {
        "model_list": [
            {
                "model_name": "far",
                "litellm_params": {"model": "openai/far", "api_base": "http://127.0.0.1:1/v1"},
                "model_info": {"tokenizer": "none"},
            }
        ],
        "scorer": {"models": {"meta": "none"}, "meta_prover": "meta"},
        "ensembles": {"cord": {"teachers": ["far"]}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    assert check(tmp_path / "config.yaml", wait_s=90) == 1
    text = capsys.readouterr().out
    assert "unreachable" in text and "start it, or correct its address" in text
    assert (
        "crashed" in text
        and f"scoring: cannot load {tmp_path / 'none'}" in text
        and "Traceback" not in text
    )
