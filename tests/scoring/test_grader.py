"""Reward models: checkpoints for sequence classification, here and behind a server."""

from __future__ import annotations

import json
import math
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from scoring.engine import ScoringEngine
from scoring.errors import BadScoreRequest
from scoring.types import Message, ScoreRequest, Tree
from tests import tiny

STEPS = ("### Step 2. Four.\n\n", "### Step 2. Then we double it: eight.\n\n")
TREE = Tree((Message("user", "hi"),), "### Step 1. We add.\n\n", STEPS)


def reward_model(folder: Path, classes: int) -> Path:
    words = tiny.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_labels=classes, pad_token_id=words.pad_token_id, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("classes", [1, 2])
def test_a_trajectory_is_graded_whole(classes: int, tmp_path: Path) -> None:
    folder = reward_model(tmp_path, classes)
    [task] = ScoringEngine.load({"r": str(folder)}, device="cpu").score(
        [ScoreRequest(TREE, "reward", ("r",))]
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    prompt = words.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    for step, score in zip(STEPS, task.scores, strict=True):
        ids = torch.tensor(
            [words(prompt + TREE.prefix + step, add_special_tokens=False)["input_ids"]]
        )
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0].double()
        wanted = (
            logits.log_softmax(-1)[-1] if classes > 1 else torch.nn.functional.logsigmoid(logits[0])
        )
        assert score.nats == pytest.approx(float(wanted), abs=1e-5)
        assert score.length == 1.0
    assert task.forwarded > 0


def test_a_reward_model_tells_no_likelihood_and_a_language_model_no_grade(tmp_path: Path) -> None:
    models = {"r": str(reward_model(tmp_path / "r", 1)), "m": str(tiny.checkpoint(tmp_path / "m"))}
    engine = ScoringEngine.load(models, device="cpu")
    asked = [
        ScoreRequest(TREE, "step", ("r",)),
        ScoreRequest(TREE, "reward", ("m",)),
        ScoreRequest(TREE, "step", ("m",)),
    ]
    wrong, other, good = engine.score(asked)
    assert isinstance(wrong.error, BadScoreRequest) and "reward model" in str(wrong.error)
    assert isinstance(other.error, BadScoreRequest) and other.error.param == "models"
    assert good.scores


def test_what_a_reward_model_cannot_read_is_refused(tmp_path: Path) -> None:
    long = Tree(TREE.messages, "", ("### Step 1. We add.\n\n" * 60,))
    engine = ScoringEngine.load({"r": str(reward_model(tmp_path, 1))}, device="cpu")
    [task] = engine.score([ScoreRequest(long, "reward", ("r",))])
    assert isinstance(task.error, BadScoreRequest) and task.error.code == "context_length_exceeded"


class Classifier(BaseHTTPRequestHandler):
    """vLLM's /classify on the wire."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append({**body, "path": self.path})
        reply = json.dumps(
            {"object": "list", "data": [{"index": 0, "label": "good", "probs": [0.2, 0.8]}]}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_a_served_reward_model_is_asked_for_its_classes(tmp_path: Path) -> None:
    Classifier.asked = []
    folder = reward_model(tmp_path, 2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Classifier) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"classify+http://127.0.0.1:{server.server_port}?tokenizer={folder}#rm"
        with closing(ScoringEngine.load({"r": address})) as engine:
            [task] = engine.score([ScoreRequest(TREE, "reward", ("r",))])
        server.shutdown()
        thread.join()
    assert [score.nats for score in task.scores] == [pytest.approx(math.log(0.8))] * 2
    assert [(asked["path"], asked["model"]) for asked in Classifier.asked] == [
        ("/classify", "rm")
    ] * 2
    assert sorted(asked["input"] for asked in Classifier.asked) == sorted(
        list(sequence.row.ids) for sequence in task.sequences["r"]
    )
