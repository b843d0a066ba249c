"""Server-sent events, both ways."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sse import Decoder, ServerEvent, comment, encode

STREAM = (
    "\ufeff: hello\r\n\r\n"
    'data: {"a": "ü"}\r\n\r\n'
    "event: delta\nid: 7\nretry: 10\ndata: first\ndata:second\ndata\n\n"
    "event: no data\n\n"
    "data: old mac\r\r"
    "data: [DONE]\n\n"
    "data: cut o"
).encode()
EVENTS = [
    ServerEvent('{"a": "ü"}'),
    ServerEvent("first\nsecond\n", "delta", "7"),
    ServerEvent("old mac", id="7"),
    ServerEvent("[DONE]", id="7"),
]


def decode(*chunks: bytes) -> list[ServerEvent]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_every_form_the_standard_allows_is_read() -> None:
    assert decode(STREAM) == EVENTS


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17])
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    assert decode(*(STREAM[i : i + size] for i in range(0, len(STREAM), size))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_no_way_of_cutting_changes_what_is_read(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[a:b] for a, b in pairwise(edges))) == EVENTS


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_what_is_encoded_is_decoded(data: str) -> None:
    assert decode(encode(data, "delta")) == [ServerEvent(data, "delta")]


def test_an_event_is_complete_only_at_its_blank_line() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: x\n") == []
    assert decoder.feed(b"\n") == [ServerEvent("x")]


def test_a_line_feed_that_comes_late_does_not_end_a_second_line() -> None:
    assert decode(b"data: x\r", b"\n", b"data: y\r", b"\n\r", b"\n") == [ServerEvent("x\ny")]


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert encode("\ud83d") == b"data: ?\n\n"


def test_comments_are_one_line_and_are_not_events() -> None:
    assert comment("keep\nalive") == b": keep alive\n\n"
    assert decode(comment("keep-alive"), encode("x")) == [ServerEvent("x")]
