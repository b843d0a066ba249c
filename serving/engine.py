"""Continuous batching of one model on one thread: sequences join and leave between any two tokens.

Keys and values live in rows, one per sequence; running sequences occupy the first rows, so every
forward works on slices without copies. What a sequence leaves behind, finished or cancelled, stays
in the prefix cache, so that another one that begins alike reads only the rest of its prompt. Text
goes to each sequence's sink as it is written.
"""

from __future__ import annotations

import logging
import threading
from collections import abc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from runtime.checkpoints import attention_obstacle, kv_bytes_per_token, load_checkpoint
from runtime.prefix_cache import MemoryPool, Node, PrefixCache, common_length
from runtime.sampling import draw
from serving.rows import Rows
from serving.sequence import Sequence

log = logging.getLogger(__name__)

_PADDING = 64
"""What a forward of its own costs, in tokens of padding: prompts that differ by more are not read
together. Measured on CPU."""

_PREFILL_TOKENS = {"cpu": 1024, "cuda": 8192}
"""How many tokens of prompts a forward reads at most; between two forwards a cancelled sequence is
given up."""

_SHARED = 16
"""So many tokens more than are cached must a prompt share with a running sequence, for their copy
to be worth it."""


class UnsupportedModel(Exception):
    """A model whose attention does not fit rows of keys and values."""


@dataclass(slots=True)
class Counters:
    """Tokens and sequences since the start. `reused` tokens of prompts came from the prefix
    cache."""

    prefilled: int = 0
    reused: int = 0
    generated: int = 0
    cancelled: int = 0


class GenerationEngine:
    """Serves one model. `submit` and `close` may be called from any thread."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch: int = 32,
        max_model_len: int | None = None,
        prefix_cache_mb: int = 256,
        prefill_tokens: int | None = None,
    ) -> None:
        config = model.config
        if (why := attention_obstacle(config)) is not None:
            raise UnsupportedModel(
                f"only full attention with position ids is supported; this model has {why}"
            )
        self.tokenizer = tokenizer
        self.max_model_len = min(
            max_model_len or config.max_position_embeddings, config.max_position_embeddings
        )
        eos = model.generation_config.eos_token_id
        known = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id}
        # A configuration may name an end token that the vocabulary does not have, or none.
        self._eos = frozenset(
            token for token in known if token is not None and token < config.vocab_size
        )
        self._model = model.eval()
        self._rows = Rows(config.num_hidden_layers, max_batch, self.max_model_len)
        self.pool = MemoryPool(prefix_cache_mb << 20)
        self._cache = PrefixCache(self.pool, kv_bytes_per_token(model))
        self.counters = Counters()
        self._max_batch = max_batch
        self._prefill_tokens = prefill_tokens or _PREFILL_TOKENS.get(model.device.type, 1024)
        self._waiting: list[Sequence] = []
        self._running: list[Sequence] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", dtype: str = "auto", **options: Any
    ) -> GenerationEngine:
        """Load a checkpoint folder. `device` and `dtype` may be "auto"."""
        return cls(*load_checkpoint(AutoModelForCausalLM, folder, device, dtype), **options)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that are being written."""
        return tuple(self._running)

    @property
    def waiting(self) -> int:
        """How many sequences wait for a place."""
        return len(self._waiting)

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence; its prompt and tokens must fit `max_model_len`."""
        with self._wake:
            self._waiting.append(sequence)
            self._wake.notify()

    def close(self) -> None:
        """Stop after the current token and wait for the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def step(self, joining: list[Sequence]) -> None:
        """One token for every sequence: those that join read their prompt for it, the others their
        last token."""
        with torch.inference_mode():
            if joining:
                self._join(joining)
            self._leave_cancelled()
            if self._running:
                self._take([], self._decode())

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
                if self._closing:
                    return
            joining: list[Sequence] = []
            try:
                self._leave_cancelled()
                joining = self._admitted()
                self.step(joining)
            except Exception:
                log.exception("the model failed; the sequences it was writing are given up")
                for sequence in {*joining, *self._running}:
                    sequence.end("error")
                self._running.clear()
                self._rows.lengths.clear()

    def _admitted(self) -> list[Sequence]:
        """The waiting sequences for which there is a place; those that were cancelled meanwhile are
        dropped."""
        with self._wake:
            gone = [sequence for sequence in self._waiting if sequence.cancelled]
            waiting = [sequence for sequence in self._waiting if not sequence.cancelled]
            free = self._max_batch - len(self._running)
            admitted, self._waiting = waiting[:free], waiting[free:]
        self._give_up(gone)
        return admitted

    def _join(self, joining: abc.Sequence[Sequence]) -> None:
        """Read prompts, equal ones once: the others then find in the cache what has just been
        read."""
        first = {sequence.prompt: sequence for sequence in reversed(joining)}
        again = [sequence for sequence in joining if first[sequence.prompt] is not sequence]
        self._read(list(first.values()))
        if again:
            self._read(again)

    def _read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Read the parts of prompts that are not cached; those that have about as much to read
        share forwards."""
        begun: dict[Sequence, Node] = {}
        try:
            for sequence in sequences:
                begun[sequence] = self._begun(sequence)
                self._cache.acquire(begun[sequence])
            left = {sequence: len(sequence.prompt) - node.depth for sequence, node in begun.items()}
            batches: list[list[Sequence]] = []
            for sequence in sorted(sequences, key=left.__getitem__):
                if (
                    batches
                    and (left[sequence] - left[batches[-1][-1]]) * len(batches[-1]) <= _PADDING
                ):
                    batches[-1].append(sequence)
                else:
                    batches.append([sequence])
            for batch in batches:
                wanted = [sequence for sequence in batch if not sequence.cancelled]
                self._give_up([sequence for sequence in batch if sequence.cancelled])
                if (
                    wanted
                    and (logits := self._prefill(wanted, [begun[sequence] for sequence in wanted]))
                    is not None
                ):
                    self._take(wanted, logits)
        finally:
            for node in begun.values():
                self._cache.release(node)

    def _begun(self, sequence: Sequence) -> Node:
        """The longest known beginning of a prompt, in the cache or in a running sequence's row.

        At least one token is read, for its logits; all of them where the log-probability of each is
        wanted.
        """
        root = self._cache.root
        if sequence.wants_logs:
            return root
        prompt = sequence.prompt[:-1]
        found = self._cache.match(root, prompt)
        for row, other in enumerate(self._running):
            common = common_length(prompt, other.prompt)
            if common == len(other.prompt):
                common += common_length(prompt[common:], tuple(other.written))
            if min(common, self._rows.lengths[row]) >= found.depth + _SHARED:
                self._keep(row, other.tokens)
                found = self._cache.match(root, prompt)
        return found

    def _take(self, joining: list[Sequence], logits: Tensor) -> None:
        """Give each row's next token to its sequence; the finished leave."""
        sequences = joining or self._running
        for row, sequence in enumerate(sequences):
            if len(sequence.written) < sequence.min_tokens:
                logits[row, list(self._eos)] = -torch.inf
        tokens = draw(logits, [sequence.sampler for sequence in sequences])
        self._running.extend(joining)
        self.counters.generated += len(tokens)
        ended = []
        for sequence, token in zip(list(sequences), tokens, strict=True):
            ends = token in self._eos
            if sequence.append(
                token, ends=ends, tokenizer=self.tokenizer, max_len=self.max_model_len
            ):
                ended.append(sequence)
        self._leave(ended)

    def _prefill(
        self, sequences: abc.Sequence[Sequence], begun: abc.Sequence[Node]
    ) -> Tensor | None:
        """Read what is new of prompts into rows behind the running ones; each one's last logits (B,
        V).

        None where all of the sequences were cancelled meanwhile; what has been read of them is
        kept.
        """
        first = len(self._rows.lengths)
        self._rows.append(begun)
        rests = [
            sequence.prompt[node.depth :] for sequence, node in zip(sequences, begun, strict=True)
        ]
        self.counters.reused += sum(node.depth for node in begun)
        last: list[Tensor] = [torch.empty(0)] * len(rests)
        width = max(1, self._prefill_tokens // len(rests))
        for start in range(0, max(map(len, rests)), width):
            if all(sequence.cancelled for sequence in sequences):
                self._abandon(sequences, first)
                return None
            for i, logits in self._prefill_chunk(
                sequences, [rest[start : start + width] for rest in rests], first
            ):
                last[i] = logits
        return torch.stack(last).float()

    def _prefill_chunk(
        self, sequences: abc.Sequence[Sequence], chunks: abc.Sequence[tuple[int, ...]], first: int
    ) -> abc.Iterator[tuple[int, Tensor]]:
        """Read the next tokens (B, S padded on the right) of the rows from `first` on.

        Yields the last logits (V,) of each row that has tokens in this chunk.
        """
        device = self._model.device
        longest = max(map(len, chunks))
        ids = torch.tensor(
            [[*chunk, *[0] * (longest - len(chunk))] for chunk in chunks], device=device
        )
        if any(sequence.wants_logs for sequence in sequences):
            kept = list(range(longest))
        else:
            kept = sorted({len(chunk) - 1 for chunk in chunks if chunk})
        logits = self._forward(first, ids, torch.tensor(kept, device=device))  # (B, kept, V)
        for i, (sequence, chunk) in enumerate(zip(sequences, chunks, strict=True)):
            if not chunk:
                continue
            if sequence.wants_logs:
                self._note_logs(sequence, self._rows.lengths[first + i], logits[i, : len(chunk)])
            yield i, logits[i, kept.index(len(chunk) - 1)]
        self._rows.grow(first, [len(chunk) for chunk in chunks])
        self.counters.prefilled += sum(map(len, chunks))

    @staticmethod
    def _note_logs(sequence: Sequence, start: int, logits: Tensor) -> None:
        """Add what the logits (S, V) of the prompt's tokens from `start` on say of the tokens after
        them."""
        targets = torch.tensor(
            sequence.prompt[start + 1 : start + 1 + len(logits)], device=logits.device
        )
        logs = torch.log_softmax(logits[: len(targets)].float(), -1).gather(1, targets[:, None])[
            :, 0
        ]
        sequence.prompt_logs += tuple(logs.tolist())

    def _abandon(self, sequences: abc.Sequence[Sequence], first: int) -> None:
        """Give up the rows from `first` on, whose prompts have been read in part."""
        for i, sequence in reversed(list(enumerate(sequences))):
            self._keep(first + i, sequence.prompt)
            self._rows.remove(first + i)
        self._give_up(sequences)

    def _decode(self) -> Tensor:
        """Read everyone's last token (B, 1) on top of their rows; logits (B, V)."""
        ids = torch.tensor(
            [[sequence.written[-1]] for sequence in self._running], device=self._model.device
        )
        logits = self._forward(0, ids, 1)
        self._rows.grow(0, [1] * len(self._running))
        return logits[:, 0].float()

    def _forward(self, first: int, ids: Tensor, keep: Tensor | int) -> Tensor:
        """Read tokens (B, S) on top of the rows from `first` on; logits (B, kept, V)."""
        padded, positions, mask = self._rows.reading(first, ids)
        logits: Tensor = self._model(
            input_ids=padded,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._rows.cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits[: len(ids)]

    @torch.inference_mode()
    def _leave_cancelled(self) -> None:
        """Take the cancelled out of the running sequences."""
        cancelled = [sequence for sequence in self._running if sequence.cancelled]
        self._leave(cancelled)
        self._give_up(cancelled)

    def _give_up(self, cancelled: abc.Sequence[Sequence]) -> None:
        """Tell cancelled sequences that they have ended."""
        self.counters.cancelled += len(cancelled)
        for sequence in cancelled:
            sequence.end("cancelled")

    def _leave(self, ended: abc.Sequence[Sequence]) -> None:
        """Free the rows of sequences that have ended; the last rows move into the gaps."""
        for sequence in ended:
            row = self._running.index(sequence)
            self._keep(row, sequence.tokens)
            self._rows.remove(row)
            self._running[row] = self._running[-1]
            self._running.pop()

    def _keep(self, row: int, tokens: tuple[int, ...]) -> None:
        """Copy a row's keys and values into the prefix cache; `tokens` are those of its sequence,
        read ones first."""
        self._cache.insert(tokens[: self._rows.lengths[row]], partial(self._rows.memory, row))
