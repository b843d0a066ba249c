"""The generation engine by itself: what a cancelled sequence still costs, and what is never read
twice."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from runtime.sampling import Sampler
from serving.engine import GenerationEngine
from serving.sequence import Delta, Sequence, Sink
from tests import tiny

ROOM = 100_000
RNG = random.Random(0)


def tokens(count: int) -> tuple[int, ...]:
    return tuple(RNG.randrange(5, 300) for _ in range(count))


class Stage:
    """An engine whose forwards are counted and can be waited for."""

    def __init__(self, **options: Any) -> None:
        words = tiny.tokenizer()
        model = tiny.model("llama", len(words))
        model.config.max_position_embeddings = ROOM
        self.forwards: list[int] = []  # how many tokens each one was given
        self.before_forward: list[Any] = []  # calls made before the next forwards, one each
        self._forward = model.forward
        model.forward = self._counted
        self.engine = GenerationEngine(model, words, **options)

    def _counted(self, **inputs: Any) -> Any:
        self.forwards.append(inputs["input_ids"].shape[1])
        if self.before_forward:
            self.before_forward.pop(0)()
        return self._forward(**inputs)

    def sequence(self, prompt: tuple[int, ...], count: int, sink: Sink) -> Sequence:
        return Sequence(prompt, count, 0, Sampler.seeded(0.0, 1.0, 0, 1), (), False, True, sink)

    def write(self, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
        """Prompt and what is written after it, to the end."""
        deltas: queue.Queue[Delta] = queue.Queue()
        sequence = self.sequence(prompt, count, deltas.put)
        self.engine.submit(sequence)
        while deltas.get().finish is None:
            pass
        return sequence.tokens


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(prefill_tokens=64)
    yield made
    made.engine.close()


def test_what_was_just_written_is_not_read_again_when_it_is_expanded(stage: Stage) -> None:
    written = stage.write(tokens(100), 20)
    before = stage.engine.counters.prefilled
    stage.write((*written, *tokens(7)), 1)
    # The last written token has been drawn, but nothing was written after it yet.
    assert stage.engine.counters.prefilled - before == 1 + 7
    assert stage.engine.counters.reused == len(written) - 1


def test_what_a_cancelled_sequence_has_written_is_not_read_again(stage: Stage) -> None:
    prompt, deltas = tokens(100), queue.Queue[Delta]()
    leaving = stage.sequence(prompt, ROOM - 200, deltas.put)
    stage.engine.submit(leaving)
    while deltas.get().tokens < 30:
        pass
    leaving.cancelled = True
    while deltas.get().finish != "cancelled":
        pass
    before = stage.engine.counters.prefilled
    stage.write((*leaving.tokens, *tokens(7)), 1)
    assert stage.engine.counters.prefilled - before == 1 + 7


def test_what_a_running_sequence_has_written_is_not_read_again(stage: Stage) -> None:
    """A search expands a step whose author is still writing on."""
    deltas: queue.Queue[Delta] = queue.Queue()
    running = stage.sequence(tokens(100), ROOM - 200, deltas.put)
    stage.engine.submit(running)
    while deltas.get().tokens < 30:
        pass
    before = stage.engine.counters.prefilled
    beginning = running.tokens[:125]
    stage.write((*beginning, *tokens(7)), 1)
    assert stage.engine.counters.prefilled - before == 7
    running.cancelled = True


def test_a_cancelled_sequence_gets_no_token_more_than_the_one_in_progress(stage: Stage) -> None:
    prompts = [tokens(5) for _ in range(20)]
    for prompt in prompts:
        deltas: queue.Queue[Delta] = queue.Queue()
        sequence = stage.sequence(prompt, ROOM - 200, deltas.put)
        stage.engine.submit(sequence)
        deltas.get()
        sequence.cancelled = True
        known = len(sequence.written)
        while (last := deltas.get()).finish is None:
            pass
        assert last.finish == "cancelled" and len(sequence.written) <= known + 1
    assert stage.engine.counters.cancelled == 20


def test_a_prompt_whose_client_leaves_is_read_no_further(stage: Stage) -> None:
    prompt, deltas = tokens(1000), queue.Queue[Delta]()
    leaving = stage.sequence(prompt, 5, deltas.put)
    stage.before_forward = [lambda: None, lambda: setattr(leaving, "cancelled", True)]
    stage.engine.submit(leaving)
    assert deltas.get().finish == "cancelled"
    assert stage.forwards == [64, 64]
    stage.write(prompt[:200], 1)
    assert stage.engine.counters.prefilled == 200, "what had been read is kept"


def test_a_sequence_that_is_cancelled_in_the_queue_is_never_read() -> None:
    stage = Stage(max_batch=1)
    deltas, others = queue.Queue[Delta](), queue.Queue[Delta]()
    running = stage.sequence(tokens(5), ROOM - 200, deltas.put)
    stage.engine.submit(running)
    deltas.get()
    queued = stage.sequence(tokens(50), 5, others.put)
    queued.cancelled = True
    stage.engine.submit(queued)
    assert others.get().finish == "cancelled"
    running.cancelled = True
    stage.write(tokens(4), 1)
    assert stage.engine.counters.prefilled == 5 + 4
    stage.engine.close()


@pytest.mark.parametrize("lengths", [[300], [300, 290, 310], [5, 300], [64, 65, 128, 1]])
def test_a_prompt_read_in_pieces_says_what_it_says_in_one(lengths: list[int]) -> None:
    prompts = [tokens(length) for length in lengths]
    texts = []
    for pieces in (16, 10_000):
        stage = Stage(prefill_tokens=pieces, prefix_cache_mb=0)
        begun: queue.Queue[None] = queue.Queue()
        ended: queue.Queue[Delta] = queue.Queue()
        # The first forward waits until all others have been submitted, so that they are read
        # together.
        stage.before_forward = [begun.get]
        stage.engine.submit(stage.sequence((9,), 1, lambda _: None))
        sequences = [stage.sequence(prompt, 10, ended.put) for prompt in prompts]
        for sequence in sequences:
            sequence.wants_logs = len(prompts) == 3
            stage.engine.submit(sequence)
        begun.put(None)
        finished = 0
        while finished < len(sequences):
            finished += ended.get().finish is not None
        texts.append([sequence.written for sequence in sequences])
        logs = [torch.tensor(sequence.prompt_logs) for sequence in sequences]
        texts[-1] += [[len(each) for each in logs]]
        if pieces == 16:
            first = logs
        stage.engine.close()
    assert texts[0] == texts[1]
    for some, same in zip(first, logs, strict=True):
        torch.testing.assert_close(some, same, atol=1e-4, rtol=0)


def test_a_failing_model_fails_its_sequences_and_not_the_next_ones(stage: Stage) -> None:
    deltas: queue.Queue[Delta] = queue.Queue()
    stage.before_forward = [lambda: 1 / 0]
    stage.engine.submit(stage.sequence(tokens(9), 3, deltas.put))
    assert deltas.get().finish == "error"
    assert len(stage.write(tokens(9), 3)) == 12
    stage.engine.close()
    stage.engine.pool.shrink(0)
    assert stage.engine.pool.bytes == 0


def test_sequences_go_on_when_the_one_between_them_is_cancelled(stage: Stage) -> None:
    """The keys and values of the last one move into the place that becomes free."""
    deltas: queue.Queue[Delta] = queue.Queue()
    cancelled = stage.sequence(tokens(10), 10_000, lambda delta: None)

    def sink(delta: Delta) -> None:
        cancelled.cancelled = cancelled.cancelled or delta.tokens > 3
        if delta.finish is not None:
            deltas.put(delta)

    for sequence in (
        stage.sequence(tokens(10), 20, sink),
        cancelled,
        stage.sequence(tokens(10), 20, sink),
    ):
        stage.engine.submit(sequence)
    ends = [deltas.get(), deltas.get()]
    assert [(end.finish, end.tokens) for end in ends] == [("length", 20)] * 2
