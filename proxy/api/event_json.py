"""A search's events as the JSON of `cord.events/1`, which docs/live.md describes.

The one place that knows how an event looks outside. Keys are only ever added to this schema. An event that is not
known here becomes its type alone, so that a new kind of event never breaks a reader.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

from proxy.decoder.events import (
    AnswerDelta,
    AnswerRequested,
    Cancelled,
    Committed,
    Failed,
    Finished,
    ProposalCancelled,
    ProposalRequested,
    Proposed,
    Pruned,
    Scored,
    ScoreRequested,
    Started,
    StepDecided,
    TeacherFailed,
    TeacherSkipped,
)
from proxy.decoder.journal import Stamped
from proxy.decoder.types import Candidate, Result, Score

SCHEMA = "cord.events/1"

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def event_json(stamped: Stamped) -> dict[str, Any]:
    """One event as JSON values: its `type`, when it happened, and what it says."""
    kind, fields = _told(stamped.event)
    return {"type": kind, "at_s": round(stamped.at_s, 6), **fields}


def _told(event: object) -> tuple[str, dict[str, Any]]:
    match event:
        case Started(problem, settings, teachers, objective):
            messages = [asdict(message) for message in problem.messages]
            asked = {
                "messages": messages,
                "references": list(problem.references),
                "settings": asdict(settings),
            }
            return "started", {
                "schema": SCHEMA,
                "id": problem.id,
                "teachers": list(teachers),
                "objective": objective,
                **asked,
            }
        case ProposalRequested(id, parent, depth, teacher):
            return "proposal_requested", {
                "id": id,
                "parent": parent,
                "depth": depth,
                "teacher": teacher,
            }
        case TeacherSkipped(depth, teacher):
            return "teacher_skipped", {"depth": depth, "teacher": teacher}
        case Proposed(candidate):
            return "proposed", _candidate(candidate)
        case ProposalCancelled(id, teacher, tokens):
            return "proposal_cancelled", {"id": id, "teacher": teacher, "tokens": tokens}
        case TeacherFailed(id, teacher, kind, message):
            return "teacher_failed", {
                "id": id,
                "teacher": teacher,
                "kind": kind,
                "message": message,
            }
        case ScoreRequested(id):
            return "score_requested", {"id": id}
        case Scored(id, score):
            return "scored", {"id": id, "score": _score(score)}
        case Pruned(id, reason, kept):
            return "pruned", {"id": id, "reason": reason, "kept": kept}
        case StepDecided(depth, beam, finished):
            return "step_decided", {"depth": depth, "beam": list(beam), "finished": list(finished)}
        case Committed(candidate):
            return "committed", _candidate(candidate)
        case AnswerRequested(teacher):
            return "answer_requested", {"teacher": teacher}
        case AnswerDelta(text):
            return "answer_delta", {"text": text}
        case Finished(result):
            return "finished", _result(result)
        case Failed(kind, message):
            return "failed", {"kind": kind, "message": message}
        case Cancelled():
            return "cancelled", {}
    return _WORD_START.sub("_", type(event).__name__).lower(), {}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "id": candidate.id,
        "parent": candidate.parent,
        "depth": candidate.depth,
        "teacher": candidate.teacher,
        "text": candidate.text,
        "ended": candidate.ended,
        "prompt_tokens": candidate.prompt_tokens,
        "completion_tokens": candidate.completion_tokens,
    }


def _score(score: Score) -> dict[str, Any]:
    per_model = [
        {"model": part.model, "nats": _finite(part.nats), "tokens": part.tokens}
        for part in score.per_model
    ]
    return {
        "objective": score.objective,
        "source": score.source.value,
        "nats": _finite(score.nats),
        "length": score.length,
        "additive": score.additive,
        "per_model": per_model,
        "queue_s": score.queue_s,
        "batch_size": score.batch_size,
        "tokens_forwarded": score.tokens_forwarded,
        "blended": [_score(other) for other in score.blended],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "path": list(result.winner.path),
        "value": _finite(result.value),
        "stopped": result.stopped,
        "answer": result.answer,
        "answerer": result.answerer,
        "answer_tokens": result.answer_tokens,
        "finish_reason": result.finish_reason,
    }


def _finite(number: float) -> float | None:
    """JSON has no infinities."""
    return number if math.isfinite(number) else None
