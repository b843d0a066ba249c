"""A wrong configuration stops the start and names the key."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import config, hub
from proxy.errors import ConfigError
from tests.runtime.gguf_files import METADATA, write_gguf

GOOD: dict[str, Any] = {
    "model_list": [
        {
            "model_name": "a",
            "litellm_params": {"model": "hosted_vllm/org/a", "api_base": "http://127.0.0.1:1/v1"},
        },
        {
            "model_name": "b",
            "litellm_params": {"model": "openai/b", "api_base": "http://127.0.0.1:2/v1"},
        },
    ],
    "scorer": {"models": {"meta": "org/meta"}, "meta_prover": "meta"},
    "ensembles": {"cord": {"teachers": ["a", "b"], "beam_width": 2}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = deepcopy(GOOD)
    *way, last = path.split(".")
    at: Any = raw
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
    at[last] = value
    return raw


def test_cut_adapts_unless_it_or_an_instruction_is_given() -> None:
    for given, adapts, cut, joined in (
        ({}, True, "marker", 0),
        ({"cut": "marker"}, False, "marker", 0),
        ({"cut": "blank-line"}, False, "blank-line", 120),
        ({"cut": "cue-word", "min_step_chars": 7}, False, "cue-word", 7),
        ({"instruction": "Reason."}, False, "marker", 0),
    ):
        found = config.SegmentationConfig.model_validate(given)
        built = found.built()
        assert (found.adapts, built.cut, built.min_step_chars) == (adapts, cut, joined)


def test_the_shipped_configuration_loads() -> None:
    loaded = config.load(Path(__file__).parent.parent / "config.yaml")
    assert [teacher.model_name for teacher in loaded.model_list] == ["alder", "birch", "cedar"]
    assert loaded.traces.folder == Path(__file__).parent.parent / "traces"


def test_relative_folders_start_at_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    raw = changed("model_list.0.litellm_params", {"model": "local/m"})
    loaded = config.parse(raw, tmp_path)
    assert loaded.model_list[0].litellm_params.name == str(tmp_path / "m")
    assert loaded.model_list[1].model_info.tokenizer == "b"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("model_list.0.litellm_params.modle", "x", "model_list.0.litellm_params.modle"),
        ("model_list.0.litellm_params.model", "no-provider", "model_list.0.litellm_params.model"),
        ("model_list.0.litellm_params.model", "local/nowhere", "model_list.0.litellm_params.model"),
        ("model_list.0.litellm_params.api_base", None, "model_list.0"),
        ("model_list.1.model_name", "a", "model_list"),
        ("scorer.meta_prover", "other", "scorer"),
        ("scorer.judges", ["other"], "scorer"),
        ("ensembles.cord.teachers", ["a", "c"], "ensembles.cord"),
        ("ensembles.cord.teachers", [], "ensembles.cord.teachers"),
        ("ensembles.cord.beam_width", 0, "ensembles.cord.beam_width"),
        ("ensembles.cord.strategy", "astrology", "ensembles.cord.strategy"),
        ("ensembles.cord.temperature", 3, "ensembles.cord.temperature"),
        ("ensembles.cord.plateau", 2, "ensembles.cord.plateau: 'plateau' was removed"),
        ("ensembles.a", {"teachers": ["a"]}, "ensembles.a"),
        ("general_settings.port", "many", "general_settings.port"),
        ("unknown", 1, "unknown"),
        ("traces.folder", "os.environ/CORD_NOT_SET", "traces.folder"),
    ],
)
def test_a_wrong_key_is_named(path: str, value: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(changed(path, value), tmp_path)
    assert where in str(caught.value)


def test_values_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORD_TEST_KEY", "secret")
    loaded = config.parse(
        changed("general_settings.master_key", "os.environ/CORD_TEST_KEY"), tmp_path
    )
    assert loaded.general_settings.master_key == "secret"


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "model_list: 3\n"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        config.load(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        config.load(tmp_path / "nowhere.yaml")


GGUF_PLACES = [
    ("model_list.0.litellm_params", {"model": "local/m.gguf"}, "model_list.0.litellm_params.model"),
    ("scorer.models.meta", "m.gguf", "scorer.models.meta"),
]


@pytest.mark.parametrize(("path", "value", "where"), GGUF_PLACES)
def test_a_gguf_file_is_a_teacher_and_a_judge(
    tmp_path: Path, path: str, value: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda module: object())
    file = str(write_gguf(tmp_path / "m.gguf"))
    loaded = config.parse(changed(path, value), tmp_path)
    teacher, judge = loaded.model_list[0], loaded.scorer.models["meta"]
    assert judge == file if path.startswith("scorer") else teacher.model_info.tokenizer == file


@pytest.mark.parametrize(("path", "value", "where"), GGUF_PLACES)
@pytest.mark.parametrize("case", ["missing", "base model", "extra"])
def test_a_gguf_file_that_cannot_be_used_is_told_of_in_one_sentence(
    tmp_path: Path, path: str, value: Any, where: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "find_spec", lambda module: None)
    if case != "missing":
        write_gguf(
            tmp_path / "m.gguf", METADATA if case == "extra" else {"general.architecture": "llama"}
        )
    wanted = {
        "missing": "No such file or directory",
        "base model": "has no chat template",
        "extra": r"pip install 'cord-proxy\[real\]'",
    }
    with pytest.raises(ConfigError, match=wanted[case]) as raised:
        config.parse(changed(path, value), tmp_path)
    assert raised.value.path == where and "\n" not in str(raised.value)


def test_an_old_name_of_a_setting_works_and_warns_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = config.parse(changed("ensembles.cord.read_ahead", True), tmp_path)
    assert loaded.ensembles["cord"].settings.prefill_partial_steps
    [line] = caplog.messages
    assert "ensembles.cord" in line and "prefill_partial_steps" in line


def test_every_setting_can_be_configured(tmp_path: Path) -> None:
    raw = changed("ensembles.cord.temperature", 0.3)
    raw["ensembles"]["cord"] |= {"top_p": 0.5, "max_steps": 3, "speculate": "off", "plateau": None}
    settings = config.parse(raw, tmp_path).ensembles["cord"].settings
    assert (settings.sampling.temperature, settings.sampling.top_p, settings.budget.steps) == (
        0.3,
        0.5,
        3,
    )
    assert (settings.beam_width, settings.speculate) == (2, "off")


WRONG = """\
model_list:
  - model_name: a
    litellm_params: {model: gpt-4o}
  - model_name: b
    litellm_params:
      model: openai/b
      api_base: 127.0.0.1:8000/v1
scorer:
  models: {meta: org/meta}
  meta_provr: meta
ensembles:
  cord:
    teachers: [a, b]
    beam_widht: 2
"""


def test_all_that_is_wrong_is_told_at_once_with_lines_and_nearest_keys(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(WRONG)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    first, *lines = str(caught.value).splitlines()
    assert first == "5 problems:"
    told = {line.split(": ")[0].strip(): line for line in lines}
    assert set(told) == {f"config.yaml:{line}" for line in (3, 7, 8, 10, 14)}
    assert "beam_widht: unknown key; did you mean beam_width?" in told["config.yaml:14"]
    assert "meta_provr: unknown key; did you mean meta_prover?" in told["config.yaml:10"]
    assert "scorer.meta_prover: this key is needed" in told["config.yaml:8"]
    assert "'gpt-4o' does not say who serves it: write PROVIDER/NAME" in told["config.yaml:3"]
    assert "has no scheme: write http://127.0.0.1:8000/v1" in told["config.yaml:7"]


def test_all_missing_checkpoints_are_told_at_once(tmp_path: Path) -> None:
    raw = changed("scorer.models", {"meta": "./nowhere"})
    raw["model_list"][0]["litellm_params"] = {"model": "local/gone"}
    with pytest.raises(ConfigError) as caught:
        config.parse(raw, tmp_path)
    assert str(caught.value).count("there is no model folder at") == 2


@pytest.mark.parametrize("judge", ["org/a", "org/other"])
def test_a_teacher_that_judges_alone_is_warned_of(
    judge: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.parse(changed("scorer.models.meta", judge), tmp_path)
    assert any("is the only judge" in message for message in caplog.messages) == (judge == "org/a")


def test_the_master_key_may_come_from_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORD_MASTER_KEY", "secret")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    assert config.load(file).general_settings.master_key == "secret"


def test_an_unreachable_hub_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    hub.use_cache_if_unreachable(())
    assert hub.hint() == ""
    hub.use_cache_if_unreachable(("org/a",))
    assert "name a folder instead" in hub.hint()
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_keys_caps_and_limits_are_read(tmp_path: Path) -> None:
    raw = changed("general_settings.master_key", "m")
    raw["admission"] = {"calls": 100, "per_key": {"requests": 2}, "options": {"beam_width": 8}}
    raw["keys"] = [{"name": "app", "sha256": "0" * 64, "expires": "2027-01-01T00:00:00Z"}]
    loaded = config.parse(raw, tmp_path)
    app, master = loaded.api_keys
    assert (app.scopes, app.limits.requests, master.scopes) == ({"chat"}, 2, {"admin"})
    assert app.expires is not None and app.expires.year == 2027


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("admission", {"options": {"beam_widht": 8}}, "admission.options"),
        ("admission", {"options": {"strategy": 8}}, "admission.options"),
        ("keys", [{"name": "a", "sha256": "secret"}], "keys.0.sha256"),
        ("keys", [{"name": "a", "sha256": "0" * 64, "scopes": ["all"]}], "keys.0.scopes.0"),
    ],
)
def test_a_wrong_key_or_cap_is_named(path: str, value: Any, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=where):
        config.parse(changed(path, value), tmp_path)
