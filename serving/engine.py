"""Continuous batching of one model on one thread: sequences join and leave between any two tokens.

Keys and values live in rows, one a sequence; running sequences occupy the first rows, so every forward works on
slices without copies. A sequence that begins as an earlier one did is read from where they part. What is written goes
to each sequence's sink as it comes.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from runtime.checkpoints import attention_obstacle, kv_bytes_per_token, load_checkpoint
from runtime.prefix_cache import MemoryPool, Node, PrefixCache
from runtime.sampling import Sampler, draw
from runtime.stopping import StopScanner
from serving.rows import Rows

log = logging.getLogger(__name__)

_PADDING = 64
"""What a forward of its own costs, in tokens of padding: prompts that differ by more are not read together. Measured on
CPU."""

Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Delta:
    """Text as it is written; the last one says why it ended, and the stop text if that was it."""

    text: str
    tokens: int
    finish: Finish | None = None
    stop: str | None = None


Sink = Callable[[Delta], None]
"""Called on the engine's thread."""


@dataclass(eq=False, slots=True)
class Job:
    """One sequence to be written, and where it stands. `cancelled` may be set from any thread.

    With `wants_logs`, `prompt_logs` are set before the first delta: log p of each prompt token but the first, in nats.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    sampler: Sampler
    stops: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    sink: Sink
    wants_logs: bool = False
    prompt_logs: tuple[float, ...] = ()
    cancelled: bool = False
    written: list[int] = field(default_factory=list)
    shown: tuple[int, int] = (0, 0)  # the window of tokens that is decoded to find the next text
    scanner: StopScanner = field(init=False)

    def __post_init__(self) -> None:
        self.scanner = StopScanner(self.stops)


class UnsupportedModel(Exception):
    """A model whose attention does not fit rows of keys and values."""


class Engine:
    """Serves one model. `submit` and `close` may be called from any thread."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch: int = 32,
        max_model_len: int | None = None,
        prefix_cache_mb: int = 256,
    ) -> None:
        config = model.config
        if (why := attention_obstacle(config)) is not None:
            raise UnsupportedModel(f"only full attention with position ids is supported; this model has {why}")
        self.tokenizer = tokenizer
        self.max_model_len = min(max_model_len or config.max_position_embeddings, config.max_position_embeddings)
        eos = model.generation_config.eos_token_id
        known = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id}
        # A configuration may name an end token that the vocabulary does not have, or none.
        self._eos = frozenset(token for token in known if token is not None and token < config.vocab_size)
        self._model = model.eval()
        self._rows = Rows(config.num_hidden_layers, max_batch, self.max_model_len)
        self.pool = MemoryPool(prefix_cache_mb << 20)
        self._cache = PrefixCache(self.pool, kv_bytes_per_token(model))
        self.read = 0
        self.reused = 0
        self._max_batch = max_batch
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", dtype: str = "auto", **options: Any) -> Engine:
        """Load a checkpoint folder. `device` and `dtype` may be "auto"."""
        return cls(*load_checkpoint(AutoModelForCausalLM, folder, device, dtype), **options)

    def submit(self, job: Job) -> None:
        """Queue a sequence; its prompt and tokens must fit `max_model_len`."""
        with self._wake:
            self._waiting.append(job)
            self._wake.notify()

    def close(self) -> None:
        """Stop after the current token and wait for the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._waiting or self._running)
                if self._closing:
                    return
                free = self._max_batch - len(self._running)
                joining, self._waiting = self._waiting[:free], self._waiting[free:]
            try:
                self._tick([job for job in joining if not job.cancelled])
            except Exception:
                log.exception("the model failed; the sequences it was writing are given up")
                for job in {*joining, *self._running}:
                    job.sink(Delta("", len(job.written), "error"))
                self._running.clear()
                self._rows.lengths.clear()

    @torch.inference_mode()
    def _tick(self, joining: list[Job]) -> None:
        """One token for everyone: those who join read their prompt for it, the others their last token."""
        if joining:
            self._join(joining)
        self._leave([job for job in self._running if job.cancelled])
        if self._running:
            self._take([], self._decode())

    def _join(self, joining: Sequence[Job]) -> None:
        """Read prompts, equal ones once."""
        first = {job.prompt: job for job in reversed(joining)}
        again = [job for job in joining if first[job.prompt] is not job]
        self._read(list(first.values()))
        if again:
            # They find in the cache what has just been read; a sequence that has already ended has put it there.
            rows = {job.prompt: row for row, job in enumerate(self._running)}
            for prompt in {job.prompt for job in again} & rows.keys():
                self._keep(rows[prompt], prompt)
            self._read(again)

    def _read(self, jobs: Sequence[Job]) -> None:
        """Read the parts of prompts that are not cached; those that have about as much to read share a forward."""
        # At least one token is read, for its logits; all of them where each one's are wanted.
        begun: dict[Job, Node] = {}
        for job in jobs:
            known = () if job.wants_logs else job.prompt[:-1]
            begun[job] = self._cache.match(self._cache.root, known)
            self._cache.acquire(begun[job])
        sizes = {job: len(job.prompt) - node.depth for job, node in begun.items()}
        batches: list[list[Job]] = []
        for job in sorted(jobs, key=sizes.__getitem__):
            if batches and (sizes[job] - sizes[batches[-1][-1]]) * len(batches[-1]) <= _PADDING:
                batches[-1].append(job)
            else:
                batches.append([job])
        try:
            for batch in batches:
                self._take(batch, self._prefill(batch, [begun[job] for job in batch]))
        finally:
            for node in begun.values():
                self._cache.release(node)

    def _take(self, joining: list[Job], logits: Tensor) -> None:
        """Give each row's next token to its sequence; the finished leave."""
        jobs = joining or self._running
        for job in jobs:
            if len(job.written) < job.min_tokens:
                logits[jobs.index(job), list(self._eos)] = -torch.inf
        tokens = draw(logits, [job.sampler for job in jobs])
        self._running.extend(joining)
        self._leave([job for job, token in zip(list(jobs), tokens, strict=True) if self._write(job, token)])

    def _prefill(self, jobs: Sequence[Job], begun: Sequence[Node]) -> Tensor:
        """Read what is new of prompts (B, S padded on the right) into rows behind the running ones; logits (B, V)."""
        first = len(self._rows.lengths)
        self._rows.append(begun)
        rests = [job.prompt[node.depth :] for job, node in zip(jobs, begun, strict=True)]
        self.read += sum(map(len, rests))
        self.reused += sum(node.depth for node in begun)
        device = self._model.device
        longest = max(map(len, rests))
        ids = torch.tensor([[*rest, *[0] * (longest - len(rest))] for rest in rests], device=device)
        lengths = torch.tensor([len(rest) for rest in rests], device=device)
        ends, which = (lengths - 1).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        if any(job.wants_logs for job in jobs):
            ends, which = torch.arange(longest, device=device), lengths - 1
        logits = self._forward(first, ids, ends)  # (B, ends, V)
        self._rows.grow(first, [len(rest) for rest in rests])
        for i, job in enumerate(jobs):
            if job.wants_logs:
                logs = torch.log_softmax(logits[i, : len(job.prompt) - 1].float(), -1)
                job.prompt_logs = tuple(logs.gather(1, ids[i, 1 : len(job.prompt), None])[:, 0].tolist())
        return logits[torch.arange(len(jobs), device=device), which].float()

    def _decode(self) -> Tensor:
        """Read everyone's last token (B, 1) on top of their rows; logits (B, V)."""
        ids = torch.tensor([[job.written[-1]] for job in self._running], device=self._model.device)
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

    def _write(self, job: Job, token: int) -> bool:
        """Add a token to a sequence and send the text that is certain; whether it has ended."""
        job.written.append(token)
        if token in self._eos and not job.ignore_eos and len(job.written) > job.min_tokens:
            return self._end(job, job.scanner.flush(), "stop", None)
        text = self._new_text(job)
        if len(job.written) > job.min_tokens:  # before that, a stop text is text like any other
            text = job.scanner.feed(text)
        if (stop := job.scanner.hit) is not None:
            return self._end(job, text + stop if job.keep_stop else text, "stop", stop)
        full = len(job.prompt) + len(job.written) >= self.max_model_len
        if len(job.written) >= job.max_tokens or full:
            return self._end(job, text + job.scanner.flush(), "length", None)
        if text:
            job.sink(Delta(text, len(job.written)))
        return False

    @staticmethod
    def _end(job: Job, text: str, finish: Finish, stop: str | None) -> bool:
        job.sink(Delta(text, len(job.written), finish, stop))
        return True

    def _new_text(self, job: Job) -> str:
        """The text the last tokens have added. Decoding starts a few tokens back, since a token's text may depend on
        the one before, and waits while a character is incomplete."""
        begin, end = job.shown
        before = self.tokenizer.decode(job.written[begin:end], skip_special_tokens=True)
        now = self.tokenizer.decode(job.written[begin:], skip_special_tokens=True)
        if now.endswith("�") or len(now) <= len(before):
            return ""
        job.shown = (end, len(job.written))
        return str(now[len(before) :])

    def _keep(self, row: int, tokens: tuple[int, ...]) -> None:
        """Copy a row's keys and values into the prefix cache; `tokens` are those of its sequence, read ones first."""
        self._cache.insert(tokens[: self._rows.lengths[row]], partial(self._rows.memory, row))

    def _leave(self, jobs: list[Job]) -> None:
        """Free the rows of sequences that have ended; the last rows move into the gaps."""
        for job in jobs:
            row = self._running.index(job)
            self._keep(row, (*job.prompt, *job.written))
            self._rows.remove(row)
            self._running[row] = self._running[-1]
            self._running.pop()


def sampler(temperature: float, top_p: float, top_k: int, seed: int | None) -> Sampler:
    """A sequence's own sampler; without a seed its randomness is the system's."""
    return Sampler(temperature, top_p, max(top_k, 0), random.Random(seed))
