"""`cord init` writes a configuration that loads, for whatever it finds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from proxy import config, init
from proxy.errors import ConfigError
from proxy.starter import embedded_config

ROOT = Path(__file__).parent.parent


@contextmanager
def server(*models: str, owner: str) -> Iterator[int]:
    """An OpenAI-compatible server with these models; its port."""

    async def listed(_: object) -> JSONResponse:
        return JSONResponse({"data": [{"id": model, "owned_by": owner} for model in models]})

    running = uvicorn.Server(
        uvicorn.Config(
            Starlette(routes=[Route("/v1/models", listed)]), port=0, log_config=None, lifespan="off"
        )
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        threading.Event().wait(0.01)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join()


def test_the_servers_that_are_named_become_teachers_and_judges(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    with (
        server("Qwen/QwQ-32B", owner="vllm") as vllm,
        server("qwen3:8b", "qwen3:8b", owner="library") as ollama,
    ):
        urls = [f"127.0.0.1:{vllm}", f"http://127.0.0.1:{ollama}/v1/"]
        assert init.init(file, urls, embedded=False, force=False) == 0
    loaded = config.load(file)
    assert [
        (teacher.model_name, teacher.litellm_params.model) for teacher in loaded.model_list
    ] == [
        ("qwq-32b", "hosted_vllm/Qwen/QwQ-32B"),
        ("qwen3-8b", "ollama/qwen3:8b"),
        ("qwen3-8b-2", "ollama/qwen3:8b"),
    ]
    assert loaded.scorer.models["qwq-32b"] == f"vllm+http://127.0.0.1:{vllm}/v1#Qwen/QwQ-32B"
    assert loaded.ensembles["cord"].teachers == ["qwq-32b", "qwen3-8b", "qwen3-8b-2"]


def test_the_usual_ports_are_asked_when_no_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server("org/model", owner="me") as port:
        monkeypatch.setattr(init, "USUAL", {port: "LM Studio", 1: "vLLM"})
        init.init(tmp_path / "config.yaml", [], embedded=False, force=False)
    [teacher] = config.load(tmp_path / "config.yaml").model_list
    assert teacher.litellm_params.model == "openai/org/model"


def test_where_nobody_answers_it_is_the_embedded_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "USUAL", {1: "vLLM"})
    init.init(tmp_path / "config.yaml", [], embedded=False, force=False)
    assert (
        next(teacher.model_name for teacher in config.load(tmp_path / "config.yaml").model_list)
        == "alder"
    )


def test_a_named_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no OpenAI-compatible server answers at http://127\.0\.0\.1:1/v1/models"
    ):
        init.init(tmp_path / "config.yaml", ["127.0.0.1:1"], embedded=False, force=False)
    assert not (tmp_path / "config.yaml").exists()


def test_a_configuration_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        init.init(file, [], embedded=True, force=False)
    init.init(file, [], embedded=True, force=True)
    assert file.read_text() == embedded_config()


def test_the_demo_and_the_shipped_example_are_one_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(embedded_config())
    ours, shipped = config.load(file), config.load(ROOT / "config.yaml")
    assert ours.model_copy(update={"traces": shipped.traces}) == shipped
