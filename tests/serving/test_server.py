"""The embedded server over a real socket, against transformers' own generation."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import torch
import uvicorn
from transformers import AutoModelForCausalLM, AutoTokenizer

from runtime.sampling import Sampler
from serving.app import build_app
from serving.engine import GenerationEngine, UnsupportedModel
from serving.sequence import Delta, Sequence, Sink
from tests import tiny

pytestmark = pytest.mark.anyio

PROMPTS = [
    "### Step 1. We add two",
    "The final answer is",
    "abc",
    "What is the label? Reason in steps, then answer.",
]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp(request.param), request.param, seed=3)


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    path = str(tmp_path_factory.mktemp("s") / "model.sock")
    engine = GenerationEngine.load(folder, device="cpu", max_batch=4)
    server = uvicorn.Server(
        uvicorn.Config(build_app(engine, "tiny"), uds=path, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    transport = httpx.HTTPTransport(uds=path, retries=20)
    with httpx.Client(transport=transport, base_url="http://model", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()


def complete(
    client: httpx.Client, prompt: str | list[int] = PROMPTS[0], **options: Any
) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0, **options}
    reply = client.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def stream(client: httpx.Client, **options: Any) -> list[dict[str, Any]]:
    body = {
        "model": "tiny",
        "prompt": PROMPTS[0],
        "max_tokens": 24,
        "temperature": 0,
        "stream": True,
        **options,
    }
    with client.stream("POST", "/v1/completions", json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_log_probabilities_of_a_prompt_equal_a_plain_forward(
    client: httpx.Client, folder: Path
) -> None:
    model, words = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = words(PROMPTS[3])["input_ids"]
    first, *rest = complete(client, ids, max_tokens=1, prompt_logprobs=0)["choices"][0][
        "prompt_logprobs"
    ]
    with torch.inference_mode():
        logs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    assert first is None
    for at, entry in enumerate(rest, 1):
        assert entry == {
            str(ids[at]): {"logprob": pytest.approx(float(logs[at - 1, ids[at]]), abs=1e-4)}
        }


def test_greedy_text_equals_transformers_generate_also_in_a_changing_batch(
    client: httpx.Client, folder: Path
) -> None:
    model, words = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    lengths = [5, 24, 11, 17]
    replies: dict[int, str] = {}

    def ask(i: int) -> None:
        replies[i] = complete(client, PROMPTS[i], max_tokens=lengths[i])["choices"][0]["text"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([words(prompt)["input_ids"]])
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=lengths[i],
            do_sample=False,
            pad_token_id=0,
        )
        wanted = words.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        assert replies[i].rstrip("�") == wanted.rstrip("�")


def greedy(prompt: tuple[int, ...], tokens: int, sink: Sink) -> Sequence:
    """A sequence of so many tokens, whatever they are."""
    return Sequence(prompt, tokens, 0, Sampler.seeded(0.0, 1.0, 0, 1), (), False, True, sink)


def written(engine: GenerationEngine, prompt: tuple[int, ...], tokens: int = 12) -> str:
    """What the engine writes greedily after a prompt."""
    text: list[str] = []
    ended = threading.Event()

    def sink(delta: Delta) -> None:
        text.append(delta.text)
        if delta.finish is not None:
            ended.set()

    engine.submit(greedy(prompt, tokens, sink))
    ended.wait()
    return "".join(text)


@pytest.mark.parametrize(("budget_mb", "times"), [(256, 1), (0, 5)])
def test_a_prompt_that_several_ask_at_once_is_read_once(
    budget_mb: int, times: int, folder: Path
) -> None:
    prompts = [
        tuple(AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
        for text in (PROMPTS[3] * 2, PROMPTS[1])
    ]
    fresh = GenerationEngine.load(folder, device="cpu")
    wanted = [written(fresh, prompt) for prompt in prompts]
    engine = GenerationEngine.load(folder, device="cpu", prefix_cache_mb=budget_mb)
    told, begun, ended = [""] * 6, threading.Event(), threading.Semaphore(0)

    def hear(at: int, delta: Delta) -> None:
        told[at] += delta.text
        if delta.finish is not None:
            ended.release()

    # The first holds the engine's thread until all others wait to join.
    engine.submit(greedy((5,), 1, lambda _: begun.wait() and None))
    for at in range(6):
        engine.submit(greedy(prompts[at == 5], 12, partial(hear, at)))
    begun.set()
    for _ in range(6):
        ended.acquire()
    assert told == [*[wanted[0]] * 5, wanted[1]]
    assert engine.counters.prefilled == 1 + times * len(prompts[0]) + (5 - times) + len(prompts[1])
    for one in (fresh, engine):
        one.close()


@pytest.mark.parametrize("budget_mb", [256, 0])
def test_a_beginning_that_was_read_before_is_not_read_again(budget_mb: int, folder: Path) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    whole = tuple(words(PROMPTS[3] * 2)["input_ids"])
    parting = (*whole[:-4], *words(" and two")["input_ids"])
    fresh = [GenerationEngine.load(folder, device="cpu") for _ in range(3)]
    short = whole[:20]
    wanted = [
        written(engine, prompt)
        for engine, prompt in zip(fresh, (whole, parting, short), strict=True)
    ]
    engine = GenerationEngine.load(folder, device="cpu", prefix_cache_mb=budget_mb)
    assert [written(engine, prompt) for prompt in (whole, parting, short)] == wanted
    assert engine.counters.reused == (len(whole) - 4 + 19 if budget_mb else 0)
    assert engine.counters.prefilled + engine.counters.reused == len(whole) + len(parting) + 20
    for one in (*fresh, engine):
        one.close()


def test_a_seed_gives_the_same_text_alone_and_in_company(client: httpx.Client) -> None:
    alone = complete(client, seed=7, temperature=1.0)["choices"][0]["text"]
    many: list[str] = []

    def ask(seed: int) -> None:
        text = complete(client, seed=seed, temperature=1.0)["choices"][0]["text"]
        if seed == 7:
            many.append(text)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert many == [alone]
    assert complete(client, seed=8, temperature=1.0)["choices"][0]["text"] != alone


def test_n_gives_that_many_different_samples(client: httpx.Client) -> None:
    reply = complete(client, n=3, temperature=1.0, seed=1, ignore_eos=True)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert len({choice["text"] for choice in reply["choices"]}) == 3
    assert reply["usage"]["completion_tokens"] == 72


@pytest.mark.parametrize("keep", [False, True])
def test_a_stop_text_ends_the_completion_and_is_named(client: httpx.Client, keep: bool) -> None:
    whole = complete(client)["choices"][0]["text"]
    stop = whole[len(whole) // 2 :][:2]
    reply = complete(client, stop=["never there", stop], include_stop_str_in_output=keep)
    [choice] = reply["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["text"] == whole[: whole.index(stop)] + (stop if keep else "")
    assert reply["usage"]["completion_tokens"] < 24


def test_a_stop_text_before_min_tokens_is_text_like_any_other(client: httpx.Client) -> None:
    whole = complete(client, min_tokens=24)["choices"][0]["text"]
    [choice] = complete(client, stop=whole[:2], min_tokens=24)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole, "length")


def test_a_stream_says_what_the_whole_reply_says(client: httpx.Client) -> None:
    whole = complete(client, stop="\n\n")
    chunks = stream(client, stop="\n\n", stream_options={"include_usage": True})
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(texts) == whole["choices"][0]["text"]
    assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_length_ends_a_completion_at_max_tokens_and_at_the_context(client: httpx.Client) -> None:
    assert complete(client, max_tokens=3)["choices"][0]["finish_reason"] == "length"
    reply = complete(client, max_tokens=None, ignore_eos=True)
    assert reply["usage"]["total_tokens"] == 512


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"prompt": "x " * 3000}, 400, "prompt", "context_length_exceeded"),
        ({"prompt": ""}, 400, "prompt", None),
        ({"prompt": [10**6]}, 400, "prompt", None),
        ({"temperature": -1}, 400, "temperature", None),
        ({"max_tokens": "many"}, 400, "max_tokens", None),
        ({"logprobs": 1}, 400, "logprobs", None),
    ],
)
def test_a_bad_request_names_its_field(
    client: httpx.Client, change: dict[str, Any], status: int, param: str, code: str | None
) -> None:
    reply = client.post("/v1/completions", json={"model": "tiny", "prompt": "x", **change})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (status, param, code)


def test_models_and_health_answer(client: httpx.Client) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", 512)
    assert client.get("/health").status_code == 200


async def test_a_client_that_leaves_stops_its_sequence(tmp_path: Path) -> None:
    """The reply is abandoned after its first piece; the engine runs dry instead of writing 400
    tokens."""
    engine = GenerationEngine.load(tiny.checkpoint(tmp_path), device="cpu")
    first, counts = threading.Event(), []

    def sink(delta: Delta) -> None:
        counts.append(delta.tokens)
        first.set()

    def sequence() -> Sequence:
        return greedy((5, 6, 7), 400, sink)

    leaving = sequence()
    engine.submit(leaving)
    await anyio.to_thread.run_sync(first.wait)
    leaving.cancelled = True
    done = threading.Event()
    engine.submit(greedy((5,), 1, lambda delta: done.set()))
    await anyio.to_thread.run_sync(done.wait)
    engine.close()
    assert len(leaving.written) < 400


def test_a_sliding_window_model_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    with pytest.raises(UnsupportedModel):
        GenerationEngine(MistralForCausalLM(config), tiny.tokenizer())
