"""Models that are served elsewhere: real log-probabilities over HTTP, and what another server's
reply looks like."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvicorn

from scoring.engine import ScoringEngine
from scoring.errors import BadScoreRequest, ScorerUnavailable
from scoring.remote import Address
from scoring.types import Message, ScoreRequest, Tree
from serving.app import build_app
from serving.engine import GenerationEngine
from tests import tiny

TREE = Tree(
    (Message("user", "hi"),),
    "### Step 1. We add.\n\n",
    ("### Step 2. Four.\n\n", "### Step 2. Ten\n\n"),
    ("42",),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("m"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """The checkpoint behind a server that gives log-probabilities of prompts as vLLM does."""
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(GenerationEngine.load(folder), "tiny"), port=0, log_level="warning"
        )
    )
    ready = threading.Event()
    startup = server.startup

    async def started(sockets: Any = None) -> None:
        await startup(sockets)
        ready.set()

    server.startup = started  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    ready.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"vllm+http://127.0.0.1:{port}/v1?tokenizer={folder}#tiny"
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize("objective", ["step", "chunks", "predictive"])
def test_scores_by_a_served_model_equal_those_of_the_same_model_here(
    objective: str, served: str, folder: Path
) -> None:
    here = ScoringEngine.load({"m": str(folder)}, device="cpu")
    [wanted] = here.score([ScoreRequest(TREE, objective, ("m",))])
    with closing(ScoringEngine.load({"m": served})) as there:
        [found] = there.score([ScoreRequest(TREE, objective, ("m",))])
    assert found.error is None
    assert [score.nats for score in found.scores] == pytest.approx(
        [score.nats for score in wanted.scores], abs=1e-3
    )
    assert found.forwarded > wanted.forwarded


def test_a_panel_may_be_partly_here_and_partly_served(served: str, folder: Path) -> None:
    with closing(ScoringEngine.load({"here": str(folder), "there": served}, device="cpu")) as mixed:
        [task] = mixed.score([ScoreRequest(TREE, "cross", ("here", "there"))])
    here, there = task.scores[0].per_model
    assert here.nats == pytest.approx(there.nats, abs=1e-3)


def test_what_the_server_refuses_is_a_bad_request(served: str) -> None:
    long = Tree(TREE.messages, "", ("### Step 1. We add.\n\n" * 100,))
    asked = [(long, "step"), (TREE, "step"), (TREE, "confidence")]
    with closing(ScoringEngine.load({"m": served})) as there:
        bad, good, elicited = there.score(
            [ScoreRequest(tree, objective, ("m",)) for tree, objective in asked]
        )
    assert isinstance(bad.error, BadScoreRequest) and bad.error.code == "context_length_exceeded"
    assert good.scores
    assert isinstance(elicited.error, BadScoreRequest) and elicited.error.param == "objective"


class Scripted(BaseHTTPRequestHandler):
    """SGLang's /generate on the wire: log p of input token i is -i/8, the first asked one has
    none."""

    asked: ClassVar[list[dict[str, Any]]] = []
    spoil: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        first = body["logprob_start_len"]
        logs = [[-at / 8, token, None] for at, token in enumerate(body["input_ids"])][first:]
        logs[0][0] = None
        if self.spoil:
            logs[-1][1] += 1
        reply = json.dumps({"text": "", "meta_info": {"input_token_logprobs": logs}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def sglang(folder: Path) -> Iterator[ScoringEngine]:
    Scripted.asked, Scripted.spoil = [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with closing(
            ScoringEngine.load(
                {"m": f"sglang+http://127.0.0.1:{server.server_port}?tokenizer={folder}#tiny"}
            )
        ) as engine:
            yield engine
        server.shutdown()
        thread.join()


def test_sglang_is_asked_from_one_token_before_the_scored_ones(sglang: ScoringEngine) -> None:
    [task] = sglang.score(
        [ScoreRequest(Tree(TREE.messages, "", TREE.candidates[:1]), "step", ("m",))]
    )
    [sequence] = task.sequences["m"]
    row = sequence.row
    assert sequence.logs == tuple(-at / 8 for at in range(row.start, row.end))
    [asked] = Scripted.asked
    assert (asked["logprob_start_len"], asked["input_ids"]) == (row.start - 1, list(row.ids))


def test_a_reply_about_other_tokens_is_no_reply(sglang: ScoringEngine) -> None:
    Scripted.spoil = True
    [task] = sglang.score([ScoreRequest(TREE, "step", ("m",))])
    assert isinstance(task.error, ScorerUnavailable)


def test_nobody_there_is_unavailable(folder: Path) -> None:
    with closing(
        ScoringEngine.load({"m": f"vllm+http://127.0.0.1:9/v1?tokenizer={folder}#tiny"})
    ) as lost:
        [task] = lost.score([ScoreRequest(TREE, "step", ("m",))])
    assert isinstance(task.error, ScorerUnavailable)


@pytest.mark.parametrize("location", ["oracle+http://x/v1#m", "vllm+http://x/v1"])
def test_a_wrong_address_says_what_is_wrong(location: str) -> None:
    with pytest.raises(ValueError, match=r"oracle|MODEL"):
        Address.parse(location)


@pytest.mark.parametrize("location", ["Qwen/QwQ-32B", "./folder", "/a/b+c"])
def test_a_checkpoint_is_no_address(location: str) -> None:
    assert Address.parse(location) is None
