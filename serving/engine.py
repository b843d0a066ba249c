"""Continuous batching of one model on one thread: sequences join and leave between any two tokens.

Keys and values live in rows, one a sequence; running sequences occupy the first rows, so every forward works on
slices without copies. What is written goes to each sequence's sink as it comes.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from serving.sampling import Sampler, draw
from serving.stopping import StopScanner

log = logging.getLogger(__name__)

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
    """One sequence to be written, and where it stands. `cancelled` may be set from any thread."""

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    sampler: Sampler
    stops: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    sink: Sink
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

    def __init__(self, model: Any, tokenizer: Any, *, max_batch: int = 32, max_model_len: int | None = None) -> None:
        config = model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(config, "sliding_window", None):
            raise UnsupportedModel(f"only full attention is supported, not {', '.join(sorted(kinds))}")
        self.tokenizer = tokenizer
        self.max_model_len = min(max_model_len or config.max_position_embeddings, config.max_position_embeddings)
        eos = model.generation_config.eos_token_id
        known = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id}
        # A configuration may name an end token that the vocabulary does not have, or none.
        self._eos = frozenset(token for token in known if token is not None and token < config.vocab_size)
        self._model = model.eval()
        self._slots = _Slots(config.num_hidden_layers, max_batch, self.max_model_len)
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
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return cls(model.to(device), AutoTokenizer.from_pretrained(folder), **options)

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
                self._slots.lengths.clear()

    @torch.inference_mode()
    def _tick(self, joining: list[Job]) -> None:
        """One token for everyone: those who join read their prompt for it, the others their last token."""
        if joining:
            self._take(joining, self._prefill(joining))
        self._leave([job for job in self._running if job.cancelled])
        if self._running:
            self._take([], self._decode())

    def _take(self, joining: list[Job], logits: Tensor) -> None:
        """Give each row's next token to its sequence; the finished leave."""
        jobs = joining or self._running
        for job in jobs:
            if len(job.written) < job.min_tokens:
                logits[jobs.index(job), list(self._eos)] = -torch.inf
        tokens = draw(logits, [job.sampler for job in jobs])
        self._running.extend(joining)
        self._leave([job for job, token in zip(list(jobs), tokens, strict=True) if self._write(job, token)])

    def _prefill(self, jobs: Sequence[Job]) -> Tensor:
        """Read prompts (B, S padded on the right) into rows behind the running ones; logits (B, V)."""
        device = self._model.device
        longest = max(len(job.prompt) for job in jobs)
        ids = torch.tensor([[*job.prompt, *[0] * (longest - len(job.prompt))] for job in jobs], device=device)
        lengths = torch.tensor([len(job.prompt) for job in jobs], device=device)
        mask = (torch.arange(longest, device=device)[None] < lengths[:, None]).long()
        positions = torch.arange(longest, device=device)[None].expand(len(jobs), -1)
        past = DynamicCache()
        ends, which = (lengths - 1).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
            logits_to_keep=ends,
        ).logits  # (B, ends, V)
        self._slots.append(past, [len(job.prompt) for job in jobs])
        return logits[torch.arange(len(jobs), device=device), which].float()

    def _decode(self) -> Tensor:
        """Read everyone's last token (B, 1) on top of their rows; logits (B, V)."""
        device = self._model.device
        ids = torch.tensor([[job.written[-1]] for job in self._running], device=device)
        positions, mask = self._slots.next(device)
        self._slots.reserve()
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._slots.cache,
            use_cache=True,
        ).logits
        self._slots.grow()
        return logits[:, 0].float()

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

    def _leave(self, jobs: list[Job]) -> None:
        """Free the rows of sequences that have ended; the last rows move into the gaps."""
        for job in jobs:
            row = self._running.index(job)
            self._slots.remove(row)
            self._running[row] = self._running[-1]
            self._running.pop()


class _Slots:
    """Rows of keys and values, (rows, heads, length, head_dim) a layer, and how full each row is.

    Memory is taken as it is needed, doubling, so that a long context costs nothing before it is used.
    """

    def __init__(self, layers: int, rows: int, length: int) -> None:
        self._rows, self._length = rows, length
        self._layers = [_SlotLayer(length) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.lengths: list[int] = []

    def append(self, past: DynamicCache, lengths: Sequence[int]) -> None:
        """Copy freshly read prompts into new rows."""
        first = len(self.lengths)
        self._reserve(first + len(lengths), max(lengths) + 1, past.layers)
        for layer, read in zip(self._layers, past.layers, strict=True):
            layer.fill(first, read)
        self.lengths.extend(lengths)
        self._tell()

    def reserve(self) -> None:
        """Make room for one more token in every row."""
        self._reserve(len(self.lengths), max(self.lengths) + 1, self._layers)

    def _reserve(self, rows: int, length: int, like: Sequence[Any]) -> None:
        rows, length = min(_doubled(rows), self._rows), min(_doubled(length), self._length)
        for layer, model in zip(self._layers, like, strict=True):
            layer.reserve(rows, length, model.keys, model.values)

    def next(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions (B, 1) of the tokens about to be read, and their attention mask (B, 1, 1, T), true where seen."""
        lengths = torch.tensor(self.lengths, device=device)
        mask = torch.arange(max(self.lengths) + 1, device=device)[None] <= lengths[:, None]
        return lengths[:, None], mask[:, None, None]

    def grow(self) -> None:
        """Every row has taken one token."""
        self.lengths = [length + 1 for length in self.lengths]
        self._tell()

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._tell()

    def _tell(self) -> None:
        for layer in self._layers:
            layer.lengths = self.lengths


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's rows, in the shape transformers asks a cache layer to have."""

    def __init__(self, longest: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._longest = longest
        self.lengths: list[int] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros(0, key_states.shape[1], 0, key_states.shape[3])
        self.values = value_states.new_zeros(0, value_states.shape[1], 0, value_states.shape[3])
        self.is_initialized = True

    def reserve(self, rows: int, length: int, keys: Tensor, values: Tensor) -> None:
        """Have at least this many rows of this length; `keys` and `values` tell heads, width and type."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        if rows > self.keys.shape[0] or length > self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys, rows, length), _grown(self.values, rows, length)

    def fill(self, first: int, read: Any) -> None:
        batch, _, length, _ = read.keys.shape
        assert self.keys is not None and self.values is not None
        self.keys[first : first + batch, :, :length] = read.keys
        self.values[first : first + batch, :, :length] = read.values

    def move(self, source: int, target: int, length: int) -> None:
        assert self.keys is not None and self.values is not None
        self.keys[target, :, :length] = self.keys[source, :, :length]
        self.values[target, :, :length] = self.values[source, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row, (B, H, 1, D), where each row ends; the filled part of all rows."""
        assert self.keys is not None and self.values is not None
        batch = len(self.lengths)
        rows = torch.arange(batch, device=key_states.device)
        ends = torch.tensor(self.lengths, device=key_states.device)
        self.keys[rows, :, ends] = key_states[:, :, 0]
        self.values[rows, :, ends] = value_states[:, :, 0]
        filled = max(self.lengths) + 1
        return self.keys[:batch, :, :filled], self.values[:batch, :, :filled]

    def get_seq_length(self, *args: Any) -> int:
        return max(self.lengths, default=0)

    def get_mask_sizes(self, *args: Any) -> tuple[int, int]:
        return self.get_seq_length() + 1, 0

    def get_max_length(self) -> int:
        return self._longest


def _doubled(need: int) -> int:
    """The next power of two."""
    return 1 << (need - 1).bit_length()


def _grown(old: Tensor, rows: int, length: int) -> Tensor:
    """A larger tensor of rows (R, H, T, D) that begins with the old one."""
    had_rows, heads, had_length, width = old.shape
    new = old.new_zeros(max(rows, had_rows), heads, max(length, had_length), width)
    new[:had_rows, :, :had_length] = old
    return new


def sampler(temperature: float, top_p: float, top_k: int, seed: int | None) -> Sampler:
    """A sequence's own sampler; without a seed its randomness is the system's."""
    return Sampler(temperature, top_p, max(top_k, 0), random.Random(seed))
