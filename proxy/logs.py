"""What the proxy writes to its log: the form of a line, text or JSON, and one line for every request.

A line is one line whatever a client or a server put into it, and fields are kept apart for JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from proxy.decoder.events import Cancelled, Failed, Finished
from proxy.decoder.journal import Stamped
from proxy.decoder.summary import summarise
from proxy.service import Job

log = logging.getLogger(__name__)

Form = Literal["text", "json"]
_CHATTY = (
    "httpx",
    "httpcore",
    "aiohttp",
    "asyncio",
    "openai",
    "LiteLLM",
    "huggingface_hub",
    "transformers",
    "filelock",
)


def configure(level: str, form: Form = "text") -> None:
    """Set up the process's log on standard error; libraries speak only when something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


class TextLines(logging.Formatter):
    """Time, level and message. A message keeps to its line; only tracebacks take more."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields that came with it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def say(text: str, fields: Mapping[str, Any], *, level: int = logging.INFO) -> None:
    """Log a text whose facts are also given as fields."""
    log.log(level, "%s", text, extra={"fields": dict(fields)})


def log_search(job: Job, journal: Sequence[Stamped]) -> None:
    """One line for one search, however it ended; a `proxy.service.Recorder`."""
    if not journal:
        return
    summary = summarise(stamped.event for stamped in journal)
    fields: dict[str, Any] = {
        "id": job.problem.id,
        "model": job.ensemble.name,
        "outcome": _outcome(journal),
        "steps": len(summary.steps),
        "tokens": summary.cost.generated_tokens,
        "seconds": round(journal[-1].at_s, 3),
    }
    say(
        "{id} {model} {outcome}: {steps} steps, {tokens} tokens, {seconds:.2f} s".format(**fields),
        fields,
    )


def log_relayed(teacher: str, path: str, outcome: str, seconds: float) -> None:
    """One line for a request that went straight to one teacher."""
    fields: dict[str, Any] = {
        "model": teacher,
        "path": path,
        "outcome": outcome,
        "seconds": round(seconds, 3),
    }
    say("relayed to {model} {path} {outcome}: {seconds:.2f} s".format(**fields), fields)


def _outcome(journal: Sequence[Stamped]) -> str:
    for stamped in reversed(journal):
        match stamped.event:
            case Finished():
                return "finished"
            case Failed(kind):
                return f"failed ({kind})"
            case Cancelled():
                return "cancelled"
    return "unfinished"
