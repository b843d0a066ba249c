"""One model on its device: it reads rows of tokens and returns their log-probabilities.

A row is read in as many forwards as the token budget requires. Each forward reads the next tokens
of many rows, as one packed tree (`scoring.attention`) on top of the prefix cache, so no token of a
cached prefix runs twice. The vocabulary is projected only where something is scored, a few
positions at a time.
"""

from __future__ import annotations

from collections import abc
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from runtime.checkpoints import attention_obstacle, kv_bytes_per_token, load_checkpoint
from runtime.prefix_cache import MemoryPool, Node, PrefixCache
from runtime.shapes import rounded
from scoring.attention import NAME, Plan
from scoring.errors import BadScoreRequest, UnsupportedModel
from scoring.sequence import FollowUp, Sequence
from scoring.tokens import Elicitation, Encoder, Row

_LOGIT_BYTES = 1 << 26
"""How much of the logits, tokens x vocabulary in fp32, exists at a time."""

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.3}
"""How far, in nats a token, a model may be from its plain forward before it is refused."""

_ROUNDED = 4.0
"""From so many nats on, rounding errors grow with the number: they may be larger by as much."""


def check_length(name: str, tokens: int, longest: int) -> None:
    """Raises BadScoreRequest where a model cannot read so many tokens."""
    if tokens > longest:
        message = f"{tokens} tokens are more than {name} can read ({longest})"
        raise BadScoreRequest(message, param="tree", code="context_length_exceeded")


class Judge:
    """One model with its tokenizer, its tree in a pool of memory, and its counters."""

    grades = False
    reads_at_once = False

    def __init__(
        self, name: str, model: Any, tokenizer: Any, *, pool: MemoryPool, elicitation: Elicitation
    ) -> None:
        """Raises `UnsupportedModel` for a model that this engine would not score exactly."""
        if (why := attention_obstacle(model.config)) is not None:
            raise UnsupportedModel(
                f"{name}: only full attention with position ids is supported; this model has {why}"
            )
        self.name = name
        self.encoder = Encoder(tokenizer, elicitation)
        self.forwarded = 0
        self.reused = 0
        self.model = model.eval()
        self._longest = int(model.config.max_position_embeddings)
        self.pool = pool
        self._cache = PrefixCache(pool, _bytes_per_token(model))
        self._attend_exactly()

    @classmethod
    def load(
        cls,
        name: str,
        location: str,
        *,
        device: str,
        dtype: str,
        pool: MemoryPool,
        elicitation: Elicitation,
    ) -> Judge:
        """Load a checkpoint folder or hub name. `device` and `dtype` may be "auto"."""
        model, tokenizer = load_checkpoint(AutoModelForCausalLM, location, device, dtype)
        return cls(name, model, tokenizer, pool=pool, elicitation=elicitation)

    @property
    def bytes_per_token(self) -> int:
        """What a cached token takes."""
        return self._cache.bytes_per_token

    def check(self, rows: abc.Sequence[Row]) -> int:
        """The bytes that these rows need at the same time, at most.

        Raises:
            BadScoreRequest: the model cannot read one of them whole, one scores nothing, or they
                need more memory than there is.
        """
        for row in rows:
            check_length(self.name, row.longest, self._longest)
            if row.end <= row.start and not row.write:
                raise BadScoreRequest(
                    "a candidate or answer has no text to score", param="tree.candidates"
                )
        size = _distinct(rows) * self.bytes_per_token
        if size > self.pool.budget:
            message = f"{self.name} would need {size >> 20} MiB for this tree; its budget is {self.pool.budget >> 20}"
            raise BadScoreRequest(message, param="tree", code="kv_budget_exceeded")
        return size

    def close(self) -> None:
        """There are no connections."""

    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """All reading is done by `forward`."""

    def release(self, sequence: Sequence) -> None:
        """Frees the ephemeral nodes of a sequence that nothing else needs; the others become
        evictable."""
        if sequence.at is not None:
            self._cache.release(sequence.at)
            sequence.at = None

    @torch.inference_mode()
    def forward(self, searches: abc.Sequence[abc.Sequence[Sequence]], tokens: int) -> None:
        """Read on in one forward of so many new tokens at most, and score the sequences that come
        to their end.

        Every search gets an equal share; what is left over goes to the first.

        Raises:
            torch.OutOfMemoryError: as the device does; every sequence is then where it was.
        """
        sequences = [sequence for search in searches for sequence in search]
        before = [(sequence, sequence.at, sequence.fresh) for sequence in sequences]
        new: list[Node] = []
        for search in searches:
            share = max(1, tokens // len(searches))
            for sequence in search:
                share -= self._walk(sequence, share, new)
        left = tokens - sum(sequence.fresh - fresh for sequence, _, fresh in before)
        for sequence in sequences:
            left -= self._walk(sequence, left, new)
        try:
            if new:
                self._run(Plan.over(self._cache.root, new))
            ended = [sequence for sequence in sequences if sequence.left == 0]
            self._score([sequence for sequence in ended if not sequence.row.write])
            self._write([sequence for sequence in ended if sequence.row.write])
        except BaseException:
            for sequence, at, fresh in before:
                self._take_back(sequence, at, fresh)
            raise

    def _walk(self, sequence: Sequence, allowed: int, planned: list[Node]) -> int:
        """Follow the cached tokens of a sequence, and plan up to `allowed` more; returns how many
        were planned."""
        ids, goal = sequence.ids, sequence.goal
        if sequence.at is None:
            self._move(sequence, self._cache.root)
        before = sequence.fresh
        for stop, ephemeral in ((min(sequence.row.keep, goal), False), (goal, True)):
            assert sequence.at is not None
            known = self._cache.match(sequence.at, ids[sequence.at.depth : stop])
            self.reused += known.depth - sequence.at.depth
            self._move(sequence, known)
            if not ephemeral:
                for node in known.upwards():
                    node.ephemeral = False
            if known.depth < stop and allowed > 0:
                step = self._cache.extend(
                    known, ids[known.depth : min(stop, known.depth + allowed)], ephemeral=ephemeral
                )
                sequence.at = step
                planned.append(step)
                sequence.fresh += len(step.tokens)
                allowed -= len(step.tokens)
            if sequence.at.depth < stop:
                break
        return sequence.fresh - before

    def _move(self, sequence: Sequence, node: Node) -> None:
        """Hold the node that the sequence has come to, and no longer the one it was at."""
        self._cache.acquire(node)
        if sequence.at is not None:
            sequence.at.ref_count -= 1
        sequence.at = node

    def _take_back(self, sequence: Sequence, at: Node | None, fresh: int) -> None:
        """Return a sequence that waits for what was planned, and never ran, to where it was."""
        if (
            sequence.at is not None
            and sequence.at.memory is None
            and sequence.at is not self._cache.root
        ):
            if at is not None:
                self._cache.acquire(at)
            self._cache.release(sequence.at)
            sequence.at, sequence.fresh = at, fresh

    def _run(self, plan: Plan) -> None:
        ids, positions = plan.inputs(self.model.device)
        output = self.model.base_model(
            input_ids=ids, position_ids=positions, use_cache=False, plan=plan
        )
        for node, memory in zip(
            plan.nodes, plan.memories(output.last_hidden_state[0]), strict=True
        ):
            node.memory = memory
        self.forwarded += plan.size

    def _score(self, sequences: abc.Sequence[Sequence]) -> None:
        """The log-probabilities of what is scored in sequences that have come to their end; equal
        rows once."""
        rows = {sequence.row: sequence.at for sequence in sequences}
        spans = [(row, node) for row, node in rows.items() if node is not None]
        if not spans:
            return
        hidden = torch.cat(
            [hidden_between(node, row.start - 1, row.end - 1) for row, node in spans]
        )
        targets = torch.tensor(
            [token for row, _ in spans for token in row.ids[row.start : row.end]]
        )
        logs = iter(self._log_probs(hidden, targets.to(hidden.device)).tolist())
        found = {row: tuple(next(logs) for _ in range(row.start, row.end)) for row, _ in spans}
        for sequence in sequences:
            sequence.logs = found[sequence.row]

    def _log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p of each of T targets, predicted from `hidden` (T, E), without all logits at once:
        (T,)."""
        head = self.model.get_output_embeddings()
        step = max(1, _LOGIT_BYTES // (4 * head.weight.shape[0]))
        parts = []
        for first in range(0, len(targets), step):
            some = hidden[first : first + step]
            padded = functional.pad(some, (0, 0, 0, rounded(len(some)) - len(some)))
            logits = head(padded)[: len(some)].float()  # (S, V)
            picked = logits.gather(1, targets[first : first + step, None])[:, 0]
            parts.append(picked - logits.logsumexp(-1))
        return torch.cat(parts)

    def _write(self, sequences: abc.Sequence[Sequence]) -> None:
        """The likeliest next token of each sequence that writes; it is read in the next forward, or
        was the last."""
        if not sequences:
            return
        nodes = [sequence.at for sequence in sequences if sequence.at is not None]
        hidden = torch.cat(
            [hidden_between(node, node.depth - 1, node.depth) for node in nodes]
        )  # (R, E)
        padded = functional.pad(hidden, (0, 0, 0, rounded(len(hidden)) - len(hidden)))
        likeliest = self.model.get_output_embeddings()(padded)[: len(hidden)].argmax(-1).tolist()
        for sequence, token in zip(sequences, likeliest, strict=True):
            sequence.written.append(token)
            full = len(sequence.written) >= sequence.row.write
            if sequence.ahead is not None:
                if full or self.encoder.ends_ahead(sequence.ahead.passage, sequence.written):
                    self._go_on(sequence, sequence.ahead)
            elif full or self.encoder.ends_answer(sequence.written):
                self._answer(sequence)

    def _answer(self, sequence: Sequence) -> None:
        """Score the answer that a sequence has written."""
        known = len(sequence.row.ids)
        row = Row(sequence.ids, known, known + len(sequence.written), sequence.row.keep)
        whole = Sequence(row, at=sequence.at)
        self._score([whole])
        sequence.logs, sequence.answer = whole.logs, self.encoder.answer(sequence.written)
        sequence.written.pop()  # nothing follows it, so it is never read

    def _go_on(self, sequence: Sequence, ahead: FollowUp) -> None:
        """Have what is scored read after the step that a sequence has written. Known beginnings are
        found again.

        A step that takes more tokens to read than there is room for is left out.
        """
        sequence.answer = self.encoder.further_step(ahead.passage, sequence.written)
        row = self.encoder.row_after(ahead.messages, ahead.passage, sequence.answer)
        if row.longest > sequence.row.longest:
            sequence.answer = ""
            row = self.encoder.row_after(ahead.messages, ahead.passage, "")
        self.release(sequence)
        sequence.row, sequence.ahead, sequence.written = row, None, []

    def _attend_exactly(self) -> None:
        """Read a small tree by this engine and plainly, and refuse a model for which they differ.

        Configurations cannot be trusted to name everything (capped logits, scaled ones, biases of
        positions): what is scored wrongly here is refused here.
        """
        size = min(24, self._longest)
        ids = tuple(
            (7 * i + 3) % self.model.get_output_embeddings().weight.shape[0] for i in range(size)
        )
        rows = [Row(ids[:8], 4, 8, 8), Row(ids, 8, size, size), Row(ids[:6] + ids[9:12], 6, 9, 6)]
        self.model.set_attn_implementation("eager")
        wanted = [self._plainly(row) for row in rows]
        sequences = [Sequence(row) for row in rows]
        try:
            self.model.set_attn_implementation(NAME)
            for tokens in (5, 2 * size):
                self.forward([sequences], tokens)
        except (TypeError, ValueError, AttributeError, RuntimeError) as exc:
            if isinstance(exc, torch.OutOfMemoryError):
                raise
            raise UnsupportedModel(
                f"{self.name}: this model cannot be read as a tree: {exc}"
            ) from exc
        off = max(
            abs(got - want) / max(1.0, abs(want) / _ROUNDED)
            for sequence, logs in zip(sequences, wanted, strict=True)
            for got, want in zip(sequence.logs or (float("inf"),) * len(logs), logs, strict=True)
        )
        for sequence in sequences:
            self.release(sequence)
        self._cache.clear()
        self.forwarded = self.reused = 0
        if not off <= _TOLERANCE[self.model.dtype]:
            raise UnsupportedModel(f"{self.name}: scores would be off by {off:.3g} nats a token")

    @torch.inference_mode()
    def _plainly(self, row: Row) -> list[float]:
        """The log-probabilities of a row by the model's own forward."""
        ids = torch.tensor([row.ids], device=self.model.device)
        logs = torch.log_softmax(self.model(input_ids=ids, use_cache=False).logits[0].float(), -1)
        return [float(logs[at - 1, row.ids[at]]) for at in range(row.start, row.end)]


def hidden_between(node: Node, start: int, stop: int) -> Tensor:
    """Hidden states of the positions from `start` to `stop` (exclusive) on the path to a read node:
    (T, E)."""
    parts = []
    for step in node.upwards():
        assert step.memory is not None and step.memory.hidden is not None
        if step.start < stop:
            parts.append(step.memory.hidden[max(start - step.start, 0) : stop - step.start])
        if step.start <= start:
            break
    return torch.cat(parts[::-1])


def _bytes_per_token(model: Any) -> int:
    """Keys, values and the final hidden state of one token."""
    return kv_bytes_per_token(model) + int(model.config.hidden_size * model.dtype.itemsize)


def _distinct(rows: abc.Sequence[Row]) -> int:
    """How many tokens a tree of these rows has, with what may be written after them."""
    total = 0
    last: tuple[int, ...] = ()
    for ids, more in sorted((row.ids, row.write + row.reserve) for row in rows):
        same = next(
            (i for i, (a, b) in enumerate(zip(last, ids, strict=False)) if a != b),
            min(len(last), len(ids)),
        )
        total, last = total + len(ids) - same + more, ids
    return total
