"""What is taken out before a record reaches the disk."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import TraceConfig
from proxy.errors import ConfigError
from proxy.trace.fold import conversation_text, text_hash
from proxy.trace.log import LogSettings, TraceLog
from proxy.trace.reader import TraceReader
from proxy.trace.record import Provenance
from proxy.trace.redact import Redaction
from tests.trace.searches import Kept, finished
from tests.trace.test_export import kept_record

pytestmark = pytest.mark.anyio


def shout(text: str) -> str:
    return text.replace("answer", "ANSWER")


def fails(text: str) -> str:
    raise RuntimeError("no such thing")


async def test_every_text_is_redacted_and_hashed_after() -> None:
    record = await kept_record()
    record = replace(
        record,
        messages=(
            {
                "role": "user",
                "content": "I am Ada, a1@b.org",
                "tool_calls": [{"arguments": "a1@b.org"}],
            },
        ),
        metadata={"user": "a1@b.org", "nested": ["a1@b.org"]},
        references=("a1@b.org",),
        error="broken: a1@b.org",
    )
    redaction = Redaction.load(
        [(r"(\w+)@b\.org", r"<\1>"), ("### Step", "Step")], "tests.trace.test_redact:shout"
    )
    found = redaction(record)
    assert "@" not in str(found) and "<a1>" in str(found)
    assert found.candidates[0].text.startswith("Step 1.") and found.winner is not None
    assert found.winner.answer == "ANSWER by a\n" and found.messages[0]["role"] == "user"
    assert found.prompt_hash == text_hash(conversation_text(found.messages)) != record.prompt_hash
    assert found.dedupe_hash != record.dedupe_hash


async def test_nothing_of_a_record_that_cannot_be_redacted_is_written(tmp_path: Path) -> None:
    kept = Kept()
    await finished(kept)
    settings = LogSettings(redaction=Redaction.load([], "tests.trace.test_redact:fails"))
    log = TraceLog(tmp_path, settings, provenance=Provenance())
    log.record(kept.jobs[0], kept.journals[0])
    log.close()
    assert log.failures == 1 and list(TraceReader(tmp_path)) == []


async def test_store_false_leaves_nothing_on_disk(tmp_path: Path) -> None:
    kept = Kept()
    await finished(kept)
    log = TraceLog(tmp_path, LogSettings(rotate_bytes=1), provenance=Provenance())
    log.record(replace(kept.jobs[0], metadata={"store": False}), kept.journals[0])
    log.record(replace(kept.jobs[0], metadata={"store": True}), kept.journals[0])
    log.close()
    assert [record.metadata for record in TraceReader(tmp_path)] == [
        {"store": True}
    ] and log.failures == 0
    assert not any(
        b'"store":false' in gzip.decompress(file.read_bytes()) for file in tmp_path.glob("*.gz")
    )


@pytest.mark.parametrize(
    "section",
    [
        {"redact": [{"pattern": "("}]},
        {"redact": [{"pattern": "a", "replacement": "\\2"}]},
        {"redact_with": "nowhere:redact"},
        {"redact_with": "proxy.errors:nothing"},
    ],
)
def test_a_rule_that_cannot_be_used_stops_the_start(section: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"traces\.redact"):
        TraceConfig.model_validate(section).log_settings  # noqa: B018
