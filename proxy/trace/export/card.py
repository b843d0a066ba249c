"""What an export did, and the card that says so beside the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from proxy.trace.export.rows import Row
from proxy.trace.record import TraceRecord


@dataclass(slots=True)
class Report:
    """Counts of an export. `rows` are by split; `left_out` counts records by reason; `ways`, see `TemplateStudent`."""

    rows: Counter[str] = field(default_factory=Counter)
    records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    teachers: Counter[str] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first: str = ""
    last: str = ""

    def add_record(self, record: TraceRecord) -> None:
        """Count a record that became rows."""
        self.sources[record.source] += 1
        self.models[record.model] += 1
        for teacher in record.teachers:
            licence = teacher.licence or "not stated"
            self.teachers[
                f"{teacher.name}: {teacher.model}, revision {teacher.revision or 'not stated'}, licence {licence}"
            ] += 1
        for candidate in record.won:
            self.steps[candidate.teacher] += 1
        settings = record.settings
        self.settings[
            f"{settings.strategy}, score {record.objective or 'none'}, beam width {settings.beam_width}"
        ] += 1
        self.first, self.last = (
            min(self.first or record.time, record.time),
            max(self.last, record.time),
        )

    def add_row(self, split: str, row: Row) -> None:
        self.rows[split] += 1
        self.prompt_tokens += row.get("prompt_tokens", 0)
        self.completion_tokens += row.get("completion_tokens", 0)

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        splits = (
            ", ".join(f"{count} {split}" for split, count in self.rows.items())
            if len(self.rows) > 1
            else ""
        )
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        rows = f"{self.rows.total()} rows" + (f" ({splits})" if splits else "")
        return f"{rows} of {self.records} records; left out: {left_out or 'nothing'}{self._trained}"

    @property
    def _trained(self) -> str:
        total = self.prompt_tokens + self.completion_tokens
        return (
            f"; trained on: {self.completion_tokens} of {total} tokens (the completions)"
            if total
            else ""
        )

    def card(self, title: str, command: Sequence[str], student: Mapping[str, str]) -> str:
        """A data card in Markdown."""
        made = datetime.now(UTC).strftime("%Y-%m-%d")
        parts = [
            f"# {title}",
            f"Made on {made} from {self.records} records of searches"
            + (f" between {self.first[:19]} and {self.last[:19]} UTC" if self.first else "")
            + ".",
            f"    cord export {' '.join(command)}".rstrip(),
            _table("rows", self.rows),
            _table("records left out", self.left_out),
            _table("source of scores", self.sources),
            _table("model", self.models),
            _table("teacher (records)", self.teachers),
            _table("wrote steps of winners", self.steps),
            _table("settings", self.settings),
        ]
        if student:
            told = "\n".join(f"- {key}: {value}" for key, value in student.items())
            parts.append(f"## Student\n\n{told}")
            parts.append(_table("how the reasoning came into the text", self.ways))
            if self.prompt_tokens + self.completion_tokens:
                parts.append(
                    f"Trained on are the completions: {self.completion_tokens} tokens. "
                    f"The prompts' {self.prompt_tokens} tokens are context."
                )
        parts.append(
            "A score tells how predictable an answer is. It is no proof that the answer is right."
        )
        return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, counts: Counter[str]) -> str:
    if not counts:
        return ""
    lines = [f"| {key.replace('|', '/')} | {count} |" for key, count in counts.most_common()]
    return "\n".join([f"| {title} | |", "|---|---|", *lines])
