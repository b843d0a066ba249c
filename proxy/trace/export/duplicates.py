"""Records that say what another has said: the same to the letter, nearly the same, or what a benchmark asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from proxy.errors import ConfigError
from proxy.trace.fold import conversation_text, text_hash
from proxy.trace.record import TraceRecord, message_text

_WORD = re.compile(r"\w+")
_SHINGLE = 5
_PERMUTATIONS = 128


class Screen(Protocol):
    """Sees every record that would be exported, in order."""

    def reason_against(self, record: TraceRecord) -> str | None:
        """Why it is left out; None if it is kept, and then remembered."""
        ...


@dataclass(slots=True)
class ExactDuplicates:
    """Keeps the first of those with the same conversation and reply."""

    seen: set[str] = field(default_factory=set)

    def reason_against(self, record: TraceRecord) -> str | None:
        key = text_hash(conversation_text(record.messages) + _reply(record))
        if key in self.seen:
            return "duplicate"
        self.seen.add(key)
        return None


class NearDuplicates:
    """Keeps the first of those whose words are shared to `threshold` or more (Jaccard of 5-word shingles, MinHash)."""

    def __init__(self, threshold: float) -> None:
        """Raises `ConfigError` where datasketch is not installed."""
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as exc:
            raise ConfigError(
                "", "near duplicates need datasketch: pip install 'cord-proxy[export]'"
            ) from exc
        self._minhash: Any = MinHash
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._kept = 0

    def reason_against(self, record: TraceRecord) -> str | None:
        words = _words(_said(record))
        shingles = {
            " ".join(words[i : i + _SHINGLE]) for i in range(max(len(words) - _SHINGLE + 1, 1))
        }
        signature = self._minhash(num_perm=_PERMUTATIONS)
        signature.update_batch([shingle.encode("utf-8", "replace") for shingle in sorted(shingles)])
        if self._index.query(signature):
            return "near duplicate"
        self._index.insert(str(self._kept), signature)
        self._kept += 1
        return None


@dataclass(frozen=True, slots=True)
class Contamination:
    """Leaves out what shares a run of `length` words with a benchmark; a shorter benchmark text counts as a whole."""

    runs: dict[int, frozenset[str]]

    @classmethod
    def load(cls, files: Sequence[Path], length: int) -> Contamination:
        """Read benchmark files: JSON lines, of which every text counts, or plain text, of which every line does.

        Raises:
            ConfigError: a file cannot be read.
        """
        found: dict[int, set[str]] = {}
        for file in files:
            try:
                lines = file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as exc:
                raise ConfigError("", f"cannot read the benchmark {file}: {exc}") from exc
            for text in (text for line in lines for text in _texts(line)):
                words = _words(text)
                # One or two words stand everywhere.
                if len(words) >= min(length, 4):
                    size = min(length, len(words))
                    found.setdefault(size, set()).update(_runs(words, size))
        return cls({size: frozenset(runs) for size, runs in found.items()})

    def reason_against(self, record: TraceRecord) -> str | None:
        words = _words(_said(record))
        for size, known in self.runs.items():
            if any(run in known for run in _runs(words, size)):
                return "in a benchmark"
        return None


def _runs(words: Sequence[str], size: int) -> Iterator[str]:
    return (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def _texts(line: str) -> Iterable[str]:
    try:
        value = json.loads(line)
    except ValueError:
        return [line]
    return _strings(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _strings(entry)


def _said(record: TraceRecord) -> str:
    return "\n".join([*(message_text(message) for message in record.messages), _reply(record)])


def _reply(record: TraceRecord) -> str:
    return record.reasoning + (record.winner.answer if record.winner else "")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
