"""`cord export`: traces in, training rows out, with an account of what was left out and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast, get_args

from rich.console import Console
from rich.progress import Progress

from proxy.errors import ConfigError
from proxy.trace.export.card import Report
from proxy.trace.export.duplicates import Contamination, ExactDuplicates, NearDuplicates, Screen
from proxy.trace.export.filters import Filters
from proxy.trace.export.rows import ANSWERED, FORMATS, Fold, NoRows, Row, RowOptions
from proxy.trace.export.student import NeutralStudent, Student, TemplateStudent
from proxy.trace.export.writing import RowFile, to_line
from proxy.trace.fold import conversation_text, text_hash
from proxy.trace.reader import TraceReader
from proxy.trace.record import TraceRecord
from runtime.markup import MARKUPS, MarkupName

Write = Callable[[str, Row], None]
"""Takes a row for a split, "train" or "validation"."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to export. `validation` is the share of prompts, not of rows, that is set aside."""

    fold: Fold
    options: RowOptions
    filters: Filters
    screens: tuple[Screen, ...] = ()
    validation: float = 0.0


def export(reader: TraceReader, plan: Plan, write: Write) -> Report:
    """Write the rows of all records that are wanted. Every record is counted: by its rows, or by why it has none."""
    report = Report()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for record in progress.track(reader, description="reading traces", total=None):
            report.records += 1
            reason = _reason_against(record, plan)
            if reason is None:
                reason = _write_rows(record, plan, write, report)
            if reason is not None:
                report.left_out[reason] += 1
    if reader.skipped:
        report.records += len(reader.skipped)
        report.left_out["unreadable line"] = len(reader.skipped)
    if isinstance(plan.options.student, TemplateStudent):
        report.ways = plan.options.student.ways
    return report


def _reason_against(record: TraceRecord, plan: Plan) -> str | None:
    reasons = (check.reason_against(record) for check in (plan.filters, *plan.screens))
    return next((reason for reason in reasons if reason is not None), None)


def _write_rows(record: TraceRecord, plan: Plan, write: Write, report: Report) -> str | None:
    """The rows of one record; or why there are none."""
    split = _split(record, plan.validation)
    try:
        rows = list(plan.fold(record, plan.options))
    except NoRows as exc:
        return str(exc)
    for row in rows:
        write(split, row)
        report.add_row(split, row)
    if not rows:
        return "margins too low"
    report.add_record(record)
    return None


def _split(record: TraceRecord, validation: float) -> str:
    """By a hash of the conversation, so that a prompt is never on both sides."""
    place = int(text_hash(conversation_text(record.messages))[:8], 16) / 16**8
    return "validation" if place < validation else "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `cord export`."""
    add = parser.add_argument
    add("--format", choices=list(FORMATS), default="sft", help="default: sft")
    add(
        "--traces", type=Path, default=Path("traces"), help="a folder or one file (default: traces)"
    )
    add(
        "--out",
        type=Path,
        help="a .jsonl or .parquet file, written whole or not at all (default: standard output)",
    )
    add(
        "--template",
        metavar="STUDENT",
        help="render with the chat template of this folder or hub name",
    )
    add(
        "--markup",
        choices=get_args(MarkupName),
        default="auto",
        help="how the student marks its reasoning",
    )
    add(
        "--inline",
        action="store_true",
        help="messages, openai: reasoning in <think> tags inside the content",
    )
    add(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="set this share of the prompts aside",
    )
    filters = parser.add_argument_group("which records")
    add = filters.add_argument
    add("--source", choices=["reference", "consensus", "none"], help="only scores of this source")
    add("--min-value", type=float, metavar="NATS", help="only winners scored at least this good")
    add("--correct", action="store_true", help="only answers that are one of their references")
    add(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="only this ensemble's; may be repeated",
    )
    add(
        "--teacher",
        action="append",
        default=[],
        metavar="NAME",
        help="only what these wrote; may be repeated",
    )
    add(
        "--licence",
        action="append",
        default=[],
        metavar="NAME",
        help="only teachers with it; may be repeated",
    )
    add(
        "--outcome",
        action="append",
        default=[],
        choices=["finished", "failed", "cancelled"],
        help="may be repeated",
    )
    add(
        "--since",
        type=_moment,
        metavar="TIME",
        help="begun at this time or later, such as 2026-01-31",
    )
    add("--until", type=_moment, metavar="TIME", help="begun before this time")
    add("--truncated", action="store_true", help="answers that ran out of tokens too")
    add("--dedupe", action="store_true", help="one record for each conversation and reply")
    add(
        "--near-duplicates",
        type=float,
        metavar="SHARE",
        help="one of those that share this much of their wording",
    )
    add(
        "--decontaminate",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="leave out what is in it",
    )
    add(
        "--ngram",
        type=int,
        default=13,
        metavar="WORDS",
        help="how many words in a row count as in (default: 13)",
    )
    pairs = parser.add_argument_group("pairs and labels")
    add = pairs.add_argument
    add(
        "--min-margin",
        type=float,
        default=0.05,
        metavar="NATS",
        help="least difference in a pair (default: 0.05)",
    )
    add(
        "--labels",
        choices=["outcome", "score"],
        default="outcome",
        help="prm: by the answer, or by score",
    )
    add(
        "--label-at-least",
        type=float,
        default=0.5,
        metavar="P",
        help="prm, score: least exp(score) that is true",
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry `cord export` out; the exit status."""
    student = _student(arguments)
    plan = Plan(
        FORMATS[arguments.format],
        RowOptions(
            student,
            arguments.inline,
            arguments.min_margin,
            arguments.labels,
            arguments.label_at_least,
        ),
        _filters(arguments),
        _screens(arguments),
        arguments.validation,
    )
    reader = TraceReader(arguments.traces)
    if arguments.out is None:
        if arguments.validation:
            raise ConfigError("", "--validation needs --out FILE: the two parts are two files")
        report = export(reader, plan, lambda split, row: print(to_line(row), end=""))
    else:
        report = _to_files(reader, plan, arguments)
    print(report.summary, file=sys.stderr)
    return 0


def _to_files(reader: TraceReader, plan: Plan, arguments: argparse.Namespace) -> Report:
    out: Path = arguments.out
    paths = {"train": out}
    if plan.validation:
        paths["validation"] = out.with_name(f"{out.stem}.validation{out.suffix}")
    files: dict[str, RowFile] = {}
    try:
        for split, path in paths.items():
            files[split] = RowFile(path)
        report = export(reader, plan, lambda split, row: files[split].write(row))
        for file in files.values():
            file.finish()
    except BaseException:
        for file in files.values():
            file.discard()
        raise
    card = report.card(
        f"{out.stem}: {arguments.format} rows", sys.argv[2:], _described(plan.options.student)
    )
    out.with_name(f"{out.stem}.card.md").write_text(card, encoding="utf-8")
    return report


def _student(arguments: argparse.Namespace) -> Student:
    if arguments.template is not None:
        return TemplateStudent.load(arguments.template, arguments.markup)
    return (
        NeutralStudent()
        if arguments.markup == "auto"
        else NeutralStudent(MARKUPS[arguments.markup])
    )


def _described(student: Student) -> dict[str, str]:
    if not isinstance(student, TemplateStudent):
        return {}
    return {"name": student.name, "chat template": student.template_hash}


def _filters(arguments: argparse.Namespace) -> Filters:
    return Filters(
        source=arguments.source,
        min_value=arguments.min_value,
        correct=arguments.correct,
        models=frozenset(arguments.model),
        teachers=frozenset(arguments.teacher),
        licences=frozenset(arguments.licence),
        outcomes=frozenset(arguments.outcome),
        since=arguments.since,
        until=arguments.until,
        truncated=arguments.truncated or arguments.format not in ANSWERED,
    )


def _screens(arguments: argparse.Namespace) -> tuple[Screen, ...]:
    screens: list[Screen] = []
    if arguments.decontaminate:
        screens.append(
            Contamination.load(cast(Sequence[Path], arguments.decontaminate), arguments.ngram)
        )
    if arguments.dedupe or arguments.near_duplicates is not None:
        screens.append(ExactDuplicates())
    if arguments.near_duplicates is not None:
        screens.append(NearDuplicates(arguments.near_duplicates))
    return tuple(screens)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
