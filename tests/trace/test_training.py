"""Exported rows in TRL's own trainers: one real step on an embedded model, and where the reasoning's tokens are."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.trace.record import TraceRecord
from tests.trace.test_export import CHECKPOINTS, kept_record, store

pytestmark = [
    pytest.mark.anyio,
    # TRL's and PyTorch's own, about their own calls.
    pytest.mark.filterwarnings("ignore"),
]

UNDER_TEST = ["alder", "birch", "cedar"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        yield


async def rows(tmp_path: Path, *arguments: str, record: TraceRecord | None = None) -> Any:
    """A data set of exported rows."""
    import datasets

    datasets.disable_progress_bars()
    traces, out = (
        store(tmp_path / "traces", [record or await kept_record()]),
        tmp_path / "rows.jsonl",
    )
    assert main(["export", "--traces", str(traces), "--out", str(out), *arguments]) == 0
    return datasets.load_dataset(
        "json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )


def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "student"),
        "max_steps": 1,
        "per_device_train_batch_size": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": 1024,
        "disable_tqdm": True,
    }


@pytest.mark.parametrize("name", UNDER_TEST)
@pytest.mark.parametrize("with_template", [True, False])
async def test_the_reasonings_tokens_are_in_the_loss(
    tmp_path: Path, name: str, with_template: bool
) -> None:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    student = str(CHECKPOINTS / name)
    data = await rows(tmp_path, *(["--template", student] if with_template else []))
    tokenizer = AutoTokenizer.from_pretrained(student)
    trainer = SFTTrainer(
        model=student,
        processing_class=tokenizer,
        train_dataset=data,
        args=SFTConfig(**settings(tmp_path)),
    )
    [batch] = list(trainer.get_train_dataloader())
    learnt = tokenizer.decode([token for token in batch["labels"][0].tolist() if token != -100])
    reasoning = (await kept_record()).reasoning.strip()
    assert reasoning in learnt and "answer by a" in learnt and "What is it?" not in learnt
    assert learnt.count(tokenizer.eos_token) == 1
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize("name", UNDER_TEST)
async def test_pairs_are_steps_in_the_open_thinking(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    student = str(CHECKPOINTS / name)
    data = await rows(tmp_path, "--format", "preference", "--template", student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    logging.getLogger("trl").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer = DPOTrainer(
            model=student,
            processing_class=tokenizer,
            train_dataset=data,
            args=DPOConfig(**settings(tmp_path)),
        )
    assert "not a prefix" not in caplog.text
    for row, exported in zip(trainer.train_dataset, data, strict=True):
        for side in ("chosen", "rejected"):
            assert tokenizer.decode(row["prompt_ids"] + row[f"{side}_ids"]).endswith(
                exported[side][0]["content"]
            )
            assert tokenizer.eos_token_id not in row[f"{side}_ids"]
        prompt = tokenizer.decode(row["prompt_ids"])
        assert name == "cedar" or prompt.count("<think>") == 1
    assert trainer.train().training_loss > 0


async def test_step_labels_are_booleans_beside_their_steps(tmp_path: Path) -> None:
    record = await kept_record()
    assert record.winner is not None
    right = replace(record, winner=replace(record.winner, answer="\\boxed{42}"))
    for answered, label in ((record, False), (right, True)):
        folder = tmp_path / str(label)
        folder.mkdir()
        [row] = await rows(folder, "--format", "prm", record=answered)
        assert row["labels"] == [label] * 3 and len(row["completions"]) == 3
        assert row["prompt"] == "What is it?" and row["label_from"] == "outcome"
    (tmp_path / "scored").mkdir()
    scored = await rows(
        tmp_path / "scored", "--format", "prm", "--labels", "score", "--label-at-least", "0.45"
    )
    for row in scored:
        assert len(row["labels"]) == len(row["completions"]) == len(row["step_scores"])
    assert {label for row in scored for label in row["labels"]} == {True, False}


async def test_prompts_bring_their_references_to_an_on_policy_trainer(tmp_path: Path) -> None:
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    record = replace(await kept_record(), references=("42", "forty-two"))
    [row] = await rows(tmp_path, "--format", "prompts", record=record)
    assert (row["reference"], row["references"]) == ("42", ["42", "forty-two"])
    assert is_conversational({"prompt": row["prompt"]})
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(CHECKPOINTS / "alder"))
    rendered = maybe_apply_chat_template({"prompt": row["prompt"]}, tokenizer)["prompt"]
    assert rendered.endswith("<think>\n") and "What is it?" in rendered


async def test_openai_rows_are_what_its_documentation_asks_for(tmp_path: Path) -> None:
    await rows(tmp_path, "--format", "openai")
    for line in (tmp_path / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert set(row) <= {"messages", "tools", "parallel_tool_calls"}
        assert all(
            message["role"] in ("system", "developer", "user", "assistant", "tool")
            for message in row["messages"]
        )
        assert row["messages"][-1]["role"] == "assistant" and row["messages"][-1]["content"]
        assert set(row["messages"][-1]) <= {"role", "content", "tool_calls", "name", "weight"}
