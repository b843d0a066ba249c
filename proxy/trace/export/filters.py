"""Which records become rows, and the reason for each that does not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from proxy.trace.export.checker import is_correct
from proxy.trace.record import TraceRecord


@dataclass(frozen=True, slots=True)
class Filters:
    """What a record must be to be exported. None or empty asks for nothing.

    Attributes:
        source: where the knowledge in its scores came from.
        min_value: the least value of its winner, in nats; a winner that nothing scored has none.
        correct: its answer must be one of its references.
        models: the ensembles or models that may have answered.
        teachers: the teachers that may have written steps and answer; all must be among them.
        licences: the licences those teachers may have.
        outcomes: how the search may have ended.
        since, until: when it may have begun.
        truncated: an answer that ran out of tokens will do.
    """

    source: str | None = None
    min_value: float | None = None
    correct: bool = False
    models: frozenset[str] = frozenset()
    teachers: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    truncated: bool = True

    def reason_against(self, record: TraceRecord) -> str | None:
        """Why a record is left out; None if it is not."""
        began = datetime.fromisoformat(record.time)
        value = record.value
        licences = {teacher.name: teacher.licence for teacher in record.teachers}
        checks = (
            ("other source", self.source is not None and record.source != self.source),
            ("other model", bool(self.models) and record.model not in self.models),
            ("other outcome", bool(self.outcomes) and record.outcome not in self.outcomes),
            ("other time", self.since is not None and began < self.since),
            ("other time", self.until is not None and began >= self.until),
            ("other teacher", bool(self.teachers) and not record.writers <= self.teachers),
            (
                "other licence",
                bool(self.licences)
                and not all(licences.get(name) in self.licences for name in record.writers),
            ),
            ("not scored", self.min_value is not None and value is None),
            (
                "value too low",
                self.min_value is not None and value is not None and value < self.min_value,
            ),
            ("no reference", self.correct and not record.references),
            ("not correct", self.correct and bool(record.references) and not is_correct(record)),
            (
                "truncated",
                not self.truncated
                and record.winner is not None
                and record.winner.finish_reason == "length",
            ),
        )
        return next((reason for reason, holds in checks if holds), None)
