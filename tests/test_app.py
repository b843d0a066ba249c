"""The whole proxy as a user runs it: child processes, real (tiny, random) models, the official client, failures."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn

from proxy import config as configuration
from proxy.app import build_app, build_parts
from proxy.errors import ConfigError
from proxy.processes import Child
from proxy.teachers.guard import GuardedTeacher
from proxy.trace.reader import TraceReader
from tests import tiny

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Running:
    """A served proxy, and the children it runs."""

    url: str
    traces: Path
    children: dict[str, Child]
    client: openai.OpenAI

    def ready(self) -> dict[str, bool]:
        states = httpx.get(f"{self.url}/ready").json()["components"]
        return {name: state["ok"] for name, state in states.items()}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("proxy")
    for seed, name in enumerate(["ada", "bob"]):
        tiny.checkpoint(
            folder / name, template=tiny.PLAIN if name == "bob" else tiny.THINKING, seed=seed
        )
    raw = {
        # Models with random weights write tokens that no tokenizer would: their own text, cut, reads differently.
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {"model": f"local/{name}"},
                "model_info": {"examine": False},
            }
            for name in ("ada", "bob")
        ],
        "scorer": {"models": {"meta": "ada", "ada": "ada", "bob": "bob"}, "meta_prover": "meta"},
        "ensembles": {
            "cord": {
                "teachers": ["ada", "bob"],
                "beam_width": 2,
                "max_steps": 3,
                "step_tokens": 12,
                "answer_tokens": 8,
            }
        },
    }
    children: list[Child] = []
    with pytest.MonkeyPatch.context() as patch:
        # The children are looked at, not replaced: the test ends some of them.
        patch.setattr(
            "proxy.app.Child", lambda *args: children.append(Child(*args)) or children[-1]
        )
        app = build_app(configuration.parse(raw, folder))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.05)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        found = Running(url, folder / "traces", {child.name: child for child in children}, client)
        _until(lambda: all(found.ready().values()))
        yield found
    server.should_exit = True
    thread.join()
    assert all(child.process is None or child.process.returncode is not None for child in children)


def _until(holds: object, seconds: float = 120) -> None:
    """Wait for another process to get somewhere."""
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def ask(running: Running, **options: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": "What is the label?"}]
    return running.client.chat.completions.create(model="cord", messages=messages, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("reference", [None, "42"])
def test_a_request_is_decoded_by_all_teachers_and_leaves_a_trace(
    running: Running, reference: str | None
) -> None:
    extra = {"cord": {"reference": reference}} if reference else None
    reply = ask(running, seed=1, extra_body=extra)
    about = reply.model_extra["cord"]  # type: ignore[index]
    assert reply.choices[0].message.model_extra["reasoning_content"].count("### Step") >= 3  # type: ignore[index]
    assert about["source"] == ("reference" if reference else "none")
    assert reply.usage.completion_tokens > 0  # type: ignore[union-attr]
    [record] = [record for record in TraceReader(running.traces) if record.id == reply.id]
    assert {candidate.teacher for candidate in record.candidates} == {"ada", "bob"}
    assert record.objective == ("predictive" if reference else "cross")
    assert record.references == ((reference,) if reference else ())
    assert {candidate.fate.partition(":")[0] for candidate in record.candidates} <= {
        "won", "rank", "duplicate", "empty", "outranked", "unscored", "speculative",
    }  # fmt: skip


def test_a_stream_and_a_whole_reply_of_one_seed_are_the_same(running: Running) -> None:
    whole = ask(running, seed=5)
    reasoning, content = "", ""
    for chunk in ask(running, seed=5, stream=True):  # type: ignore[attr-defined]
        for choice in chunk.choices:
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            content += choice.delta.content or ""
    assert reasoning == whole.choices[0].message.model_extra["reasoning_content"]  # type: ignore[index]
    assert content == whole.choices[0].message.content


def test_a_contrastive_score_asks_the_teacher_that_wrote_the_step(running: Running) -> None:
    """Known only where the scorer holds every teacher by its name, as here."""
    ask(running, extra_body={"cord": {"score": "contrastive"}})
    *_, last = sorted(running.traces.glob("*.jsonl"))
    record = json.loads(last.read_text().splitlines()[-1])
    scored = [candidate for candidate in record["candidates"] if candidate["score"]]
    assert record["objective"] == "contrastive" and scored
    for candidate in scored:
        meta, proposer = candidate["score"]["per_model"]
        assert (meta["model"], proposer["model"]) == ("meta", candidate["teacher"])
        assert candidate["score"]["nats"] == pytest.approx(meta["nats"] - proposer["nats"])


def test_a_single_teacher_answers_by_its_own_name(running: Running) -> None:
    reply = running.client.chat.completions.create(
        model="bob", messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=40
    )
    assert reply.model_extra["cord"]["answerer"] == "bob"  # type: ignore[index]
    assert reply.usage.completion_tokens <= 40  # type: ignore[union-attr]


def test_fifty_requests_at_once_are_all_answered(running: Running) -> None:
    with ThreadPoolExecutor(50) as pool:
        replies = list(
            pool.map(
                lambda seed: ask(running, seed=seed, extra_body={"cord": {"max_steps": 1}}),
                range(50),
            )
        )
    assert len({reply.id for reply in replies}) == 50


def test_metrics_are_served(running: Running) -> None:
    ask(running, seed=1)
    page = httpx.get(f"{running.url}/metrics").text
    for name in (
        "cord_request_duration_seconds",
        "cord_step_wins_total",
        "cord_scorer_batch_requests",
    ):
        assert name in page


def test_the_search_goes_on_without_a_dead_teacher_which_comes_back(running: Running) -> None:
    child = running.children["bob"]
    assert child.process is not None
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    reply = ask(running, seed=2)
    assert reply.model_extra["cord"]["cost"]["failures"] >= 0  # type: ignore[index]
    _until(
        lambda: child.process is not None and child.process.pid != first and running.ready()["bob"]
    )


def test_a_killed_scorer_is_started_again_and_no_request_is_lost(running: Running) -> None:
    child = running.children["scorer"]
    assert child.process is not None
    os.kill(child.process.pid, signal.SIGKILL)
    assert ask(running, seed=3).choices[0].finish_reason in ("stop", "length")


def test_bad_input_starts_no_teacher(running: Running) -> None:
    before = sum(1 for _ in TraceReader(running.traces))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(running, extra_body={"cord": {"beam_width": "wide"}})
    assert caught.value.param == "cord.beam_width"
    with pytest.raises(openai.NotFoundError):
        running.client.chat.completions.create(
            model="nobody", messages=[{"role": "user", "content": "Hi"}]
        )
    assert sum(1 for _ in TraceReader(running.traces)) == before


def test_traces_are_plain_json_lines(running: Running) -> None:
    ask(running, seed=1)
    for file in running.traces.iterdir():
        assert all(
            json.loads(line)["schema"] == "cord.trace/2" for line in file.read_text().splitlines()
        )


@pytest.mark.parametrize(
    ("score", "source"),
    [
        ("cross-others", "none"), ("contrastive", "none"), ("verdict", "none"), ("consensus", "consensus"),
        ("cross + 0.5*consensus", "consensus"),
    ],
)  # fmt: skip
def test_every_kind_of_score_ranks_real_steps(running: Running, score: str, source: str) -> None:
    reply = ask(running, extra_body={"cord": {"score": score, "max_steps": 2}})
    cord = reply.model_extra["cord"]  # type: ignore[index]
    assert (cord["score"], cord["source"]) == (score, source)
    assert all(step["value"] is not None for step in cord["steps"])


def test_an_adaptive_search_and_a_response_leave_their_traces(running: Running) -> None:
    response = running.client.responses.create(
        model="cord",
        input="What is the label?",
        extra_body={"cord": {"adaptive": True, "max_steps": 2}, "seed": 3},
    )
    assert response.status in ("completed", "incomplete") and response.output_text is not None
    kept = [
        record
        for record in TraceReader(running.traces)
        if response.id.removeprefix("resp_") in record.id
    ]
    assert kept[0].settings.adaptive


@pytest.mark.parametrize(
    ("section", "changes", "path"),
    [
        ("scorer", {"reference_free": "astrology"}, "scorer.reference_free"),
        ("scorer", {"reference_free": "predictive"}, "scorer.reference_free"),
        ("scorer", {"reference_free": "reward"}, "scorer.reference_free"),
        (
            "ensembles",
            {"cord": {"teachers": ["ada"], "score": "cross + astrology"}},
            "ensembles.cord.score",
        ),
    ],
)
def test_a_score_that_cannot_be_had_stops_the_start(
    section: str, changes: dict[str, object], path: str, tmp_path: Path
) -> None:
    tiny.checkpoint(tmp_path / "ada")
    raw = {
        "model_list": [{"model_name": "ada", "litellm_params": {"model": "local/ada"}}],
        "scorer": {"models": {"meta": "ada"}, "meta_prover": "meta"},
        "ensembles": {"cord": {"teachers": ["ada"]}},
    }
    raw[section] |= changes  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        build_app(configuration.parse(raw, tmp_path))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("section", "cut"),
    [({}, "blank-line"), ({"cut": "marker"}, None), ({"instruction": "x"}, None)],
)
def test_an_ensemble_is_cut_as_its_teachers_write(
    section: dict[str, str], cut: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ada", "bob"):
        tiny.checkpoint(tmp_path / name)
    raw = {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"local/{name}"}}
            for name in ("ada", "bob")
        ],
        "scorer": {"models": {"meta": "ada"}, "meta_prover": "meta"},
        "ensembles": {"cord": {"teachers": ["ada", "bob"]}},
        "segmentation": section,
    }
    kept = {"ada": frozenset({"marker", "blank-line"}), "bob": frozenset({"blank-line"})}
    monkeypatch.setattr(GuardedTeacher, "kept_cuts", property(lambda teacher: kept[teacher.name]))
    ensembles = build_parts(configuration.parse(raw, tmp_path), tmp_path).service.ensembles
    found = {
        name: ensemble.segmentation and ensemble.segmentation()
        for name, ensemble in ensembles.items()
    }
    assert {name: segmentation and segmentation.cut for name, segmentation in found.items()} == {
        "cord": cut, "ada": cut and "marker", "bob": cut,
    }  # fmt: skip
    assert all(
        s is None or s.min_step_chars == (120 if s.cut == "blank-line" else 0)
        for s in found.values()
    )
