"""What is taken out of a record before it reaches the disk: patterns, and a function of the operator's.

It runs on every text that people, teachers or references have written, before hashes are made of it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxy.errors import ConfigError
from proxy.trace.fold import conversation_text, text_hash
from proxy.trace.record import TraceRecord

Rewrite = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Redaction:
    """Rewrites applied to every text, in order."""

    rewrites: tuple[Rewrite, ...] = ()

    @classmethod
    def load(cls, rules: Sequence[tuple[str, str]], function: str | None) -> Redaction:
        """From patterns with what stands in their place, and a function named `module:function`.

        Raises:
            ConfigError: a pattern is no regular expression, or there is no such function.
        """
        rewrites: list[Rewrite] = []
        for index, (pattern, replacement) in enumerate(rules):
            try:
                compiled = re.compile(pattern)
                # The empty alternative matches, so that a wrong group in the replacement is told now.
                re.compile(f"(?:{pattern})|").sub(replacement, "")
            except (re.error, IndexError) as exc:
                message = f"{pattern!r} with {replacement!r} is no usable rule: {exc}"
                raise ConfigError(f"traces.redact.{index}", message) from exc
            rewrites.append(_replacing(compiled, replacement))
        if function is not None:
            rewrites.append(_named(function))
        return cls(tuple(rewrites))

    def __call__(self, record: TraceRecord) -> TraceRecord:
        """The record as it may be stored. What a rewrite raises is passed on: the record must then not be stored."""
        if not self.rewrites:
            return record
        messages = tuple(self._in(message) for message in record.messages)
        winner = record.winner and replace(record.winner, answer=self.text(record.winner.answer))
        candidates = tuple(
            replace(candidate, text=self.text(candidate.text), error=self._in(candidate.error))
            for candidate in record.candidates
        )
        redacted = replace(
            record,
            messages=messages,
            tools=tuple(self._in(tool) for tool in record.tools),
            references=tuple(self.text(reference) for reference in record.references),
            metadata=self._in(record.metadata),
            candidates=candidates,
            winner=winner,
            error=self._in(record.error),
            answer_failures=tuple(self.text(failure) for failure in record.answer_failures),
        )
        conversation = conversation_text(messages)
        said = redacted.reasoning + (winner.answer if winner else "")
        return replace(
            redacted,
            prompt_hash=text_hash(conversation),
            dedupe_hash=text_hash(conversation + said),
        )

    def text(self, text: str) -> str:
        """A text as it may be stored."""
        for rewrite in self.rewrites:
            text = rewrite(text)
        return text

    def _in(self, value: Any) -> Any:
        """With every text in it rewritten, keys of objects excepted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._in(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._in(entry) for entry in value)
        return value


def _replacing(pattern: re.Pattern[str], replacement: str) -> Rewrite:
    return lambda text: pattern.sub(replacement, text)


def _named(name: str) -> Rewrite:
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(
            "traces.redact_with", f"there is no function {name!r} (module:function): {exc}"
        ) from exc
    if not callable(found):
        raise ConfigError("traces.redact_with", f"{name!r} is no function")

    def rewrite(text: str) -> str:
        after = found(text)
        if not isinstance(after, str):
            raise TypeError(f"{name} returned {type(after).__name__}, not a text")
        return after

    return rewrite
