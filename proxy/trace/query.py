"""What can be asked about stored traces, and what a list of them shows. Values; `proxy.trace.finder` reads files."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LIMIT = 200


@dataclass(frozen=True, slots=True)
class TraceQuery:
    """Which traces to list; a field that is None asks for nothing.

    Attributes:
        since, until: seconds since the epoch.
        model: the ensemble or teacher that was asked.
        outcome: finished, failed or cancelled.
        teacher: wrote a step of the winner.
        source: where the score's knowledge came from.
        min_value, max_value: bounds of the winner's value, exp(nats per unit of length).
        text: occurs, in any case, in the messages, the references, a candidate or the answer.
        limit: entries a page.
        cursor: where the page before this one stopped.
    """

    since: float | None = None
    until: float | None = None
    model: str | None = None
    outcome: str | None = None
    teacher: str | None = None
    source: str | None = None
    min_value: float | None = None
    max_value: float | None = None
    text: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One line of the list. `teachers` wrote the winner's steps, in order; `value` is None where nothing scored."""

    id: str
    time: str
    model: str
    outcome: str
    error: str | None
    strategy: str
    objective: str | None
    source: str
    value: float | None
    teachers: tuple[str, ...]
    steps: int
    candidates: int
    generated_tokens: int
    duration_s: float
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class TracePage:
    """Entries, newest first. `next` is the cursor of the next page, None at the end.

    A page may hold fewer entries than were asked for, even none, and still have a next one: how much is read for one
    page is bounded. `skipped` counts the lines among them that could not be read.
    """

    entries: tuple[TraceEntry, ...]
    next: str | None
    skipped: int = 0
