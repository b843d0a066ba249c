"""A reward model: a checkpoint for sequence classification that grades a trajectory as a whole."""

from __future__ import annotations

import threading
from collections import abc
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from runtime.checkpoints import checkpoint, checkpoint_options, load_checkpoint
from scoring.judge import check_length
from scoring.sequence import Sequence
from scoring.tokens import Elicitation, Encoder, Row


def is_grader(location: str) -> bool:
    """Whether a checkpoint is a sequence classifier, by what its configuration says it is."""
    folder, options = checkpoint_options(location)
    with checkpoint(location):
        architectures = AutoConfig.from_pretrained(folder, **options).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


class Grader:
    """One reward model. It reads every trajectory from its beginning, one after another: nothing is
    kept.

    With one class its logit is that of "good"; with several, the last is the good one.
    """

    grades = True
    reads_at_once = True

    def __init__(self, name: str, model: Any, tokenizer: Any, *, elicitation: Elicitation) -> None:
        self.name = name
        self.encoder = Encoder(tokenizer, elicitation)
        self.forwarded = 0
        self.reused = 0
        self._model = model.eval()
        self._longest = int(model.config.max_position_embeddings)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, name: str, location: str, *, device: str, dtype: str, elicitation: Elicitation
    ) -> Grader:
        """Load a checkpoint folder or hub name; `device` and `dtype` as for a `Judge`."""
        model, tokenizer = load_checkpoint(
            AutoModelForSequenceClassification, location, device, dtype
        )
        return cls(name, model, tokenizer, elicitation=elicitation)

    def check(self, rows: abc.Sequence[Row]) -> int:
        """As `Judge.check`; needs no cache."""
        check_length(self.name, max((len(row.ids) for row in rows), default=0), self._longest)
        return 0

    @torch.inference_mode()
    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Grade all sequences: `logs` is the log-probability of "good" alone. Blocks; callable from
        any thread."""
        for sequence in sequences:
            ids = torch.tensor([sequence.row.ids], device=self._model.device)
            with self._lock:
                logits = self._model(input_ids=ids, use_cache=False).logits[0].float()  # (classes,)
                self.forwarded += len(sequence.row.ids)
            good = (
                logits.log_softmax(-1)[-1]
                if len(logits) > 1
                else torch.nn.functional.logsigmoid(logits[0])
            )
            sequence.logs, sequence.fresh = (good.item(),), len(sequence.row.ids)

    def forward(self, searches: abc.Sequence[abc.Sequence[Sequence]], tokens: int) -> None:
        """After `read` there is nothing left to do."""

    def release(self, sequence: Sequence) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """There are no connections."""
