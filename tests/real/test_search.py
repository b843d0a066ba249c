"""Searches by a real language model: SmolLM2-135M behind llama.cpp's own server, and read by the scorer.

What the embedded models hide shows here: a server that closes connections it announced to keep, GGUF templates and
tokenizers, a model that was never taught the step format. Run by `make test-real`, which installs the extra `real`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from rich.console import Console

from bench.models import SMOLLM, fetch
from proxy import config as configuration
from proxy.app import build_app
from proxy.trace.reader import TraceReader

pytestmark = pytest.mark.timeout(600)

SEARCHES = 3
QUESTION = [
    {"role": "user", "content": "Anna has 3 apples and buys 4 more. How many apples has she now?"}
]


@pytest.fixture(scope="module")
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of a proxy around the real model, once all of it answers, and its traces."""
    if not request.config.getoption("--real"):
        pytest.skip("fetches a model; make test-real runs it")
    folder = tmp_path_factory.mktemp("real")
    file = fetch(SMOLLM, Console(stderr=True))
    raw = {
        "model_list": [{"model_name": "smollm", "litellm_params": {"model": f"local/{file}"}}],
        "scorer": {
            "models": {"smollm": str(file)},
            "meta_prover": "smollm",
            "reference_free": "step",
        },
        "ensembles": {
            "cord": {
                "teachers": ["smollm"],
                "samples": 2,
                "max_steps": 3,
                "step_tokens": 48,
                "answer_tokens": 32,
            }
        },
    }
    server = uvicorn.Server(
        uvicorn.Config(build_app(configuration.parse(raw, folder)), port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.05)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        while not all(
            state["ok"] for state in httpx.get(f"{url}/ready").json()["components"].values()
        ):
            threading.Event().wait(0.2)  # the test's own timeout ends this
        yield url, folder / "traces"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(real: tuple[str, Path]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{real[0]}/v1", api_key="none", max_retries=0, timeout=120
    ) as found:
        yield found


def test_searches_one_after_another_and_at_once_fail_in_nothing(
    client: openai.OpenAI, real: tuple[str, Path]
) -> None:
    """Each step is a call over a connection that the server may have closed since the last."""
    failures: list[BaseException] = []

    def ask(seed: int) -> None:
        try:
            reply = client.chat.completions.create(
                model="cord", messages=QUESTION, seed=seed, extra_body={"cord": {"reference": "7"}}
            )
            message = reply.choices[0].message
            assert message.content and message.model_extra["reasoning_content"].startswith(
                "### Step 1."
            )
            assert reply.usage.completion_tokens > 0
        except BaseException as exc:  # whatever it is, the test tells it
            failures.append(exc)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(SEARCHES)]
    for thread in threads[:1]:
        thread.start()
        thread.join()
    for thread in threads[1:]:
        thread.start()
    for thread in threads[1:]:
        thread.join()
    assert failures == []
    records = list(TraceReader(real[1]))
    assert len(records) == SEARCHES
    candidates = [candidate for record in records for candidate in record.candidates]
    assert [candidate.error for candidate in candidates if candidate.error is not None] == []
    assert {record.outcome for record in records} == {"finished"}


def test_the_meta_prover_looks_ahead(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="cord",
        messages=QUESTION,
        extra_body={
            "cord": {"reference": "7", "score": "lookahead + step", "max_steps": 1, "beam_width": 1}
        },
    )
    about = reply.model_extra["cord"]
    assert about["score"] == "lookahead + step" and about["source"] == "reference"
    assert reply.choices[0].message.content


def test_a_search_streams_without_a_reference(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="cord", messages=QUESTION, stream=True)
    reasoning = content = ""
    for chunk in stream:
        for choice in chunk.choices:
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            content += choice.delta.content or ""
    assert reasoning.startswith("### Step 1.") and content.strip()
