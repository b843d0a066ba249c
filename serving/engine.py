"""Continuous batching of one model on one thread: sequences join and leave between any two tokens."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.job import Job
from serving.runner import Runner
from serving.sampling import TokenScore, draw, score

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the engine has done and is doing, in tokens and sequences."""

    prompt_tokens: int
    generation_tokens: int
    running: int
    waiting: int


class Engine:
    """Serves one model. `submit`, `counts` and `close` may be called from any thread.

    Attributes:
        tokenizer: for everyone but the engine's thread, which keeps its own copy: a fast tokenizer is not for two
            threads at once.
        max_model_len: tokens of prompt and completion together.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_batch: int = 32, max_model_len: int | None = None) -> None:
        """Take a loaded model, which must be right with rows of keys and values.

        Raises:
            serving.runner.UnsupportedModel: it is not.
        """
        self.tokenizer = tokenizer
        self._words = copy.deepcopy(tokenizer)
        self._runner = Runner(model, max_rows=max_batch, max_model_len=max_model_len)
        self.max_model_len = self._runner.max_model_len
        self.vocabulary = self._runner.vocabulary
        self._ends = _end_tokens(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        self._max_batch = max_batch
        self._waiting: list[Job] = []
        self._running: list[Job] = []  # in the order of the runner's rows
        self._prompt_tokens = self._generation_tokens = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", dtype: str = "auto", **options: Any) -> Engine:
        """Load a checkpoint folder. `device` and `dtype` may be "auto".

        Raises:
            OSError, ValueError: transformers cannot load it.
            serving.runner.UnsupportedModel: it loads but cannot be served.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        return cls(model.to(device), AutoTokenizer.from_pretrained(folder), **options)

    @property
    def counts(self) -> Counts:
        return Counts(self._prompt_tokens, self._generation_tokens, len(self._running), len(self._waiting))

    def submit(self, job: Job) -> None:
        """Queue a sequence.

        Raises:
            ValueError: its prompt and tokens do not fit `max_model_len`.
        """
        if not 0 < len(job.prompt) + job.options.max_tokens <= self.max_model_len:
            raise ValueError(f"prompt and completion exceed {self.max_model_len} tokens")
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
                    job.fail()
                self._running.clear()
                self._runner.clear()

    @torch.inference_mode()
    def _tick(self, joining: list[Job]) -> None:
        """One token for everyone: those who join read their prompt for it, the others their last token."""
        for job in [job for job in joining if job.options.score_prompt]:
            joining.remove(job)
            self._score_prompt(job)
            joining += [job] if job.options.max_tokens else []
        if joining:
            logits = self._runner.read([job.prompt for job in joining])
            self._running += joining
            self._prompt_tokens += sum(len(job.prompt) for job in joining)
            self._take(joining, logits)
        self._leave([job for job in self._running if job.cancelled])
        if self._running:
            self._take(list(self._running), self._runner.advance([job.written[-1] for job in self._running]))

    def _score_prompt(self, job: Job) -> None:
        """One prompt at a time, since logits at every place are large. Where nothing is to be written, that is all."""
        first, *others = job.prompt
        scores = [TokenScore(first, None)]
        if others:
            logits = self._runner.everywhere(job.prompt)[:-1]
            scores += score(logits, others, job.options.top_logprobs or 0)
        job.tell(scores)
        if not job.options.max_tokens:
            self._prompt_tokens += len(job.prompt)
            job.finish()

    def _take(self, jobs: Sequence[Job], logits: Tensor) -> None:
        """Give each row of `logits` (B, V) its next token; the finished leave."""
        plain = logits
        early = [row for row, job in enumerate(jobs) if not job.may_end]
        if early and self._ends:
            logits = logits.clone()
            logits[torch.tensor(early)[:, None], list(self._ends)] = -torch.inf
        tokens = draw(logits, [job.sampler for job in jobs])
        for row, job in enumerate(jobs):
            if job.options.top_logprobs is not None:
                job.tell(score(plain[row : row + 1], tokens[row : row + 1], job.options.top_logprobs))
        self._generation_tokens += len(jobs)
        self._leave([job for job, token in zip(jobs, tokens, strict=True) if job.write(token, self._text, self._ends)])

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._words.decode(list(tokens), skip_special_tokens=True))

    def _leave(self, jobs: Sequence[Job]) -> None:
        """Free the rows of sequences that have ended; the last rows move into the gaps."""
        for job in jobs:
            row = self._running.index(job)
            self._runner.drop(row)
            self._running[row] = self._running[-1]
            self._running.pop()


def _end_tokens(*sources: int | list[int] | None) -> frozenset[int]:
    return frozenset(token for ids in sources if ids is not None for token in (ids if isinstance(ids, list) else [ids]))
