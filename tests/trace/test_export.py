"""`cord export`: what becomes a row, what is left out, and that every record is accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.__main__ import main
from proxy.trace.codec import to_json
from proxy.trace.export.checker import final_answer
from proxy.trace.export.rows import FORMATS, RowOptions, preference, sft
from proxy.trace.export.student import TemplateStudent
from proxy.trace.fold import record
from proxy.trace.record import Provenance, TeacherProvenance, TraceRecord
from tests.trace.searches import SECRET, Kept, cancelled, failed, finished

pytestmark = pytest.mark.anyio

PROVENANCE = Provenance(
    (TeacherProvenance("ada", "hosted_vllm/org/ada", "r1", "abc", "apache-2.0"),)
)
CHECKPOINTS = Path("miniature/checkpoints").resolve()
STUDENTS = ["alder", "birch", "cedar", "meta"]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
}


async def kept_record(search: Any = finished) -> TraceRecord:
    kept = Kept()
    await search(kept)
    return record(kept.jobs[0], kept.journals[0], PROVENANCE)


def store(folder: Path, records: Sequence[TraceRecord]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text(
        "".join(to_json(found) + "\n" for found in records), errors="replace"
    )
    return folder


def export(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[Any], str]:
    """The rows and what was said of them."""
    capsys.readouterr()
    assert main(["export", *arguments]) == 0
    shown = capsys.readouterr()
    return [json.loads(line) for line in shown.out.splitlines()], shown.err


async def test_sft_rows_hold_the_reasoning_in_their_completion() -> None:
    found = await kept_record()
    [row] = sft(found, RowOptions())
    assert row["prompt"] == "User:\nWhat is it?\n\nAssistant:\n<think>\n"
    assert row["completion"] == f"{found.reasoning}</think>\n\nanswer by a\n"
    assert SECRET not in json.dumps(row)
    assert row["step_teachers"] == ["ada"] * 3 and row["source"] == "none"
    assert json.loads(row["metadata"]) == {"user": "u-1"} and row["id"] == "chatcmpl-1"


@pytest.mark.parametrize("name", STUDENTS)
async def test_sft_rows_are_the_students_own_rendering_with_the_reasoning_in_it(name: str) -> None:
    found = await kept_record()
    student = TemplateStudent.load(str(CHECKPOINTS / name))
    [row] = sft(found, RowOptions(student))
    whole = row["prompt"] + row["completion"]
    assert (
        found.reasoning.strip() in row["completion"]
        and found.reasoning.strip() not in row["prompt"]
    )
    assert whole.count("<think>") == (0 if name == "cedar" else 1)
    tokenizer = student.tokenizer
    assert row["completion"].endswith(tokenizer.eos_token) and whole.count(tokenizer.eos_token) <= 2
    ids = tokenizer(whole)["input_ids"]
    assert ids[: row["prompt_tokens"]] == tokenizer(row["prompt"])["input_ids"]
    assert len(ids) == row["prompt_tokens"] + row["completion_tokens"]
    assert tokenizer.bos_token is None or ids.count(tokenizer.bos_token_id) <= 1


async def test_the_reasoning_a_template_drops_is_no_message_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = store(tmp_path / "traces", [await kept_record()])
    rows, said = export(
        capsys,
        "--traces",
        str(traces),
        "--format",
        "messages",
        "--template",
        str(CHECKPOINTS / "alder"),
    )
    assert rows == [] and "1 the student's template drops the reasoning" in said
    [row], _ = export(capsys, "--traces", str(traces), "--format", "messages")
    assert row["messages"][-1]["reasoning_content"].startswith("### Step 1.")


async def test_step_pairs_part_where_their_prompt_ends() -> None:
    found = await kept_record()
    for student in (RowOptions().student, TemplateStudent.load(str(CHECKPOINTS / "birch"))):
        rows = list(preference(found, RowOptions(student)))
        assert rows
        for row in rows:
            [prompt], [chosen], [rejected] = row["prompt"], row["chosen"], row["rejected"]
            assert prompt["content"].count("<think>") == 1 and "<think>" not in chosen["content"]
            assert chosen["content"].startswith("### Step") and rejected["content"].startswith(
                "### Step"
            )
            assert (row["chosen_teacher"], row["rejected_teacher"]) == ("ada", "bob") and row[
                "margin"
            ] > 0.05
    assert list(preference(found, RowOptions(min_margin=10.0))) == []


async def test_tools_calls_and_results_reach_the_rows() -> None:
    found = await kept_record()
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = (
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "a door", "tool_call_id": "c1"},
    )
    assert found.winner is not None
    answer = '<tool_call>\n{"name": "look", "arguments": {"at": "door"}}\n</tool_call>'
    found = replace(
        found, messages=history, tools=(TOOL,), winner=replace(found.winner, answer=answer)
    )
    [row] = FORMATS["messages"](found, RowOptions())
    assert row["messages"][1:3] == list(history[1:]) and json.loads(row["tools"]) == [TOOL]
    assert json.loads(row["messages"][3]["tool_calls"][0]["function"]["arguments"]) == {
        "at": "door"
    }
    [row] = sft(found, RowOptions(TemplateStudent.load(str(CHECKPOINTS / "birch"))))
    assert '"name": "look"' in row["prompt"] and "<tool_response>\na door" in row["prompt"]
    assert answer in row["completion"]
    [row] = FORMATS["openai"](found, RowOptions())
    assert set(row) == {"messages", "tools"} and set(row["messages"][-1]) == {
        "role",
        "content",
        "tool_calls",
    }


async def test_every_record_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = await kept_record()
    assert good.winner is not None
    cut = replace(good, id="cut", winner=replace(good.winner, finish_reason="length"))
    bare = replace(good, candidates=tuple(replace(c, score=None) for c in good.candidates))
    others = [await kept_record(failed), await kept_record(cancelled), cut, bare]
    traces = store(tmp_path / "traces", [good, *others])
    with (traces / "a.jsonl").open("a") as torn:
        torn.write('{"schema": "cord.tr')
    rows, said = export(capsys, "--traces", str(traces), "--min-value", "-9")
    assert len(rows) == 1
    assert "1 rows of 6 records; left out: 3 not scored, 1 truncated, 1 unreadable line" in said
    rows, said = export(capsys, "--traces", str(traces))
    assert "2 rows of 6 records; left out: 1 no answer (cancelled), 1 no answer (failed)" in said
    rows, _ = export(capsys, "--traces", str(traces), "--truncated")
    assert len(rows) == 3


async def test_filters_name_what_they_leave_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = await kept_record()
    assert good.winner is not None
    right = replace(
        good,
        winner=replace(good.winner, answer="So it is \\boxed{4\\text{2}}."),
        references=("4\\text{2}",),
    )
    traces = str(store(tmp_path / "traces", [good, right]))
    for arguments, reason in (
        (["--source", "reference"], "2 other source"),
        (["--correct"], "1 not correct"),
        (["--model", "other"], "2 other model"),
        (["--teacher", "bob"], "2 other teacher"),
        (["--licence", "mit"], "2 other licence"),
        (["--outcome", "failed"], "2 other outcome"),
        (["--since", "2040-01-01"], "2 other time"),
        (["--until", "1990-01-01"], "2 other time"),
        (["--min-value", "5"], "2 value too low"),
    ):
        assert reason in export(capsys, "--traces", traces, *arguments)[1], arguments
    assert (
        len(export(capsys, "--traces", traces, "--licence", "apache-2.0", "--teacher", "ada")[0])
        == 2
    )


async def test_duplicates_and_benchmarks_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"word{i}" for i in range(200))
    good = await kept_record()
    first, second, third = (
        replace(good, messages=({"role": "user", "content": text},), id=text)
        for text in (words, f"{words} more", "a question that is asked nowhere else at all")
    )
    traces = str(store(tmp_path / "traces", [first, first, second, third]))
    assert "1 duplicate" in export(capsys, "--traces", traces, "--dedupe")[1]
    rows, said = export(capsys, "--traces", traces, "--near-duplicates", "0.8")
    assert [row["id"] for row in rows] == [
        words,
        third.id,
    ] and "1 duplicate, 1 near duplicate" in said
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"question": "Word5 word6, word7 word8 word9 word10!"}) + "\n")
    rows, said = export(capsys, "--traces", traces, "--decontaminate", str(benchmark))
    assert [row["id"] for row in rows] == [third.id] and "3 in a benchmark" in said


async def test_a_prompt_is_on_one_side_of_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = await kept_record()
    records = [
        replace(good, messages=({"role": "user", "content": f"question {i % 30}"},))
        for i in range(60)
    ]
    traces = str(store(tmp_path / "traces", records))
    out = tmp_path / "rows.jsonl"
    assert main(["export", "--traces", traces, "--out", str(out), "--validation", "0.3"]) == 0
    train, validation = (
        {json.loads(line)["prompt"] for line in path.read_text().splitlines()}
        for path in (out, tmp_path / "rows.validation.jsonl")
    )
    assert (
        len(train) + len(validation) == 30 and not train & validation and 3 <= len(validation) <= 15
    )
    card = (tmp_path / "rows.card.md").read_text()
    assert "apache-2.0" in card and "| train |" in card and "| validation |" in card
    assert main(["export", "--traces", traces, "--validation", "0.3"]) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"prm", "prompts"}))
async def test_every_export_loads_in_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    records = [await kept_record(search) for search in (finished, failed, cancelled)]
    traces = store(tmp_path / "traces", records)
    out = tmp_path / f"rows.{suffix}"
    assert main(["export", "--format", kind, "--traces", str(traces), "--out", str(out)]) == 0
    loader = "json" if suffix == "jsonl" else "parquet"
    loaded = datasets.load_dataset(
        loader, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) >= 1


def test_exporting_nothing_from_nowhere_is_a_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--traces", str(tmp_path / "none")]) == 2
    assert "there are no traces" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "answer"),
    [("so \\boxed{a{b}c} it is", "a{b}c"), ("\\boxed{1} \\boxed{2}", "2"), ("42", "42")],
)
def test_the_final_answer_is_what_is_boxed_last(text: str, answer: str) -> None:
    assert final_answer(text) == answer
