"""Finding stop texts in streams cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.stopping import StopScanner


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    text = "".join([scanner.feed(piece) for piece in pieces])
    return text + scanner.flush(), scanner.hit


@pytest.mark.parametrize(
    ("pieces", "text", "hit"),
    [
        (["one\n### St", "ep 2."], "one", "\n### Step"),
        (["one\n### Sta", "rt"], "one\n### Start", None),
        (["one</thi", "nk>\n\nanswer"], "one", "</think>"),
        (["a\n##", "# Step</think>"], "a", "\n### Step"),
        ([], "", None),
    ],
)
def test_text_passes_up_to_the_first_stop(pieces: list[str], text: str, hit: str | None) -> None:
    assert run(["\n### Step", "</think>"], pieces) == (text, hit)


@given(
    st.text("ab<", max_size=30),
    st.lists(st.integers(0, 30), max_size=6),
    st.lists(st.text("ab<", min_size=1), max_size=3),
)
def test_how_a_stream_is_cut_changes_nothing(text: str, cuts: list[int], stops: list[str]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    passed, hit = run(stops, pieces)
    # Piecewise reading ends at the stop that is complete first; only then may a longer one starting
    # earlier lose.
    assert passed == text if hit is None else text.startswith(passed + hit)
    assert (hit is None) == all(stop not in text for stop in stops)
