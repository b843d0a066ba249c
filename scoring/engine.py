"""The models on their device: rows of tokens in, summed log-probabilities out, no prefix forwarded twice.

Rows that continue the same known prefix run as one padded batch on top of its cached keys and values; what they
add is remembered in turn, so the survivors of one step are the known prefixes of the next. Logits are taken at
scored positions only. Single-threaded: one caller at a time (`scoring.batcher` sees to it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from scoring.cache import Node, PrefixCache
from scoring.errors import BadScoreRequest, UnsupportedModel
from scoring.objective import objective
from scoring.tokens import Elicitation, Encoder, Row
from scoring.types import CandidateScore, ModelScore, ScoreRequest

_HASHED_BYTES = 1 << 26
"""Larger checkpoints are identified by where they are."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's scores, or why it has none, and how many tokens were forwarded for the batch it was part of."""

    scores: tuple[CandidateScore, ...] = ()
    error: BadScoreRequest | None = None
    tokens_forwarded: int = 0


class Judge:
    """One model with its tokenizer, its share of the cache budget and its counters."""

    def __init__(self, name: str, model: Any, tokenizer: Any, *, cache_bytes: int, elicitation: Elicitation) -> None:
        """Raises `UnsupportedModel` for attention that a cached prefix would not reproduce."""
        kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or getattr(model.config, "sliding_window", None):
            raise UnsupportedModel(f"{name}: only full attention is supported, not {', '.join(sorted(kinds))}")
        self.name = name
        self.encoder = Encoder(tokenizer, elicitation)
        self.cache = PrefixCache(cache_bytes)
        self.forwarded = 0
        self.reused = 0
        self._model = model.eval()
        self._longest = int(model.config.max_position_embeddings)

    @classmethod
    def load(
        cls, name: str, location: str, *, device: str, dtype: str, cache_bytes: int, elicitation: Elicitation
    ) -> Judge:
        """Load a checkpoint folder or hub name. `device` and `dtype` may be "auto"."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        model: Any = AutoModelForCausalLM.from_pretrained(location, dtype=getattr(torch, dtype))
        model.to(device)
        tokenizer = AutoTokenizer.from_pretrained(location)
        return cls(name, model, tokenizer, cache_bytes=cache_bytes, elicitation=elicitation)

    def check(self, row: Row) -> None:
        """Raise `BadScoreRequest` for a row that the model cannot read whole, or that scores nothing."""
        if len(row.ids) > self._longest:
            message = f"{len(row.ids)} tokens are more than {self.name} can read ({self._longest})"
            raise BadScoreRequest(message, param="tree", code="context_length_exceeded")
        if row.end <= row.start:
            raise BadScoreRequest("a candidate or answer has no text to score", param="tree.candidates")

    @torch.inference_mode()
    def log_probs(self, rows: Sequence[Row]) -> dict[Row, float]:
        """Summed log-probability of each row's scored tokens, in nats; equal rows are read once."""
        self.cache.begin()
        groups: dict[int, tuple[Node, int, list[Row]]] = {}
        for row in dict.fromkeys(rows):
            # The token before the first scored one is read again: its logits are wanted.
            node, length = self.cache.match(row.ids, row.start - 1)
            groups.setdefault(id(node), (node, length, []))[2].append(row)
        return {
            row: value
            for node, length, group in groups.values()
            for row, value in zip(group, self._read(node, length, group), strict=True)
        }

    def _read(self, node: Node, known: int, rows: Sequence[Row]) -> list[float]:
        """Forward what the rows add to their common prefix of `known` tokens: B rows, S padded tokens."""
        device = self._model.device
        added = [row.ids[known:] for row in rows]
        longest = max(len(ids) for ids in added)
        ids = torch.tensor([[*new, *[0] * (longest - len(new))] for new in added], device=device)  # (B, S)
        read = torch.tensor([known + len(new) for new in added], device=device)
        mask = (torch.arange(known + longest, device=device)[None] < read[:, None]).long()  # (B, known + S)
        positions = torch.arange(known, known + longest, device=device)[None].expand(len(rows), -1)
        first = min(row.start for row in rows) - 1 - known
        last = max(row.end for row in rows) - 1 - known
        cache = self._past(node, len(rows))
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.arange(first, last, device=device),
        )
        self.forwarded += sum(len(new) for new in added)
        self.reused += known * len(rows)
        self._remember(node, known, added, output.past_key_values)
        return [self._sum(output.logits[i], row, first + known + 1) for i, row in enumerate(rows)]

    @staticmethod
    def _sum(logits: Tensor, row: Row, offset: int) -> float:
        """Σ log p of a row's scored tokens; `logits` (T, V) predict the tokens from position `offset` on."""
        scored = logits[row.start - offset : row.end - offset].float()
        targets = torch.tensor(row.ids[row.start : row.end], device=logits.device)
        return float(torch.log_softmax(scored, dim=-1).gather(1, targets[:, None]).double().sum())

    def _past(self, node: Node, batch: int) -> DynamicCache:
        """The prefix's keys and values as transformers wants them, shared by the batch without a copy."""
        cache = DynamicCache()
        kv = self.cache.gather(node)  # (L, 2, H, P, D)
        for layer, (keys, values) in enumerate(kv if kv is not None else ()):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def _remember(self, node: Node, known: int, added: Sequence[tuple[int, ...]], past: DynamicCache) -> None:
        """Keep the keys and values of what was read, without its padding."""
        attention: list[Any] = list(past.layers)
        layers = [(layer.keys[:, :, known:], layer.values[:, :, known:]) for layer in attention]
        for i, new in enumerate(added):
            kept = [torch.stack((keys[i, :, : len(new)], values[i, :, : len(new)])) for keys, values in layers]
            self.cache.insert(node, new, torch.stack(kept))  # (L, 2, H, T, D)


class Engine:
    """Several judges sharing one device and one memory budget.

    In-process use:

        engine = Engine.load({"meta": "path/to/model"})
        tree = Tree((Message("user", "2+2?"),), "", ("### Step 1. Two and two.\\n\\n",), ("4",))
        [outcome] = engine.score([ScoreRequest(tree, "predictive", ("meta",))])
        print(outcome.scores[0].nats)
    """

    def __init__(self, judges: Mapping[str, Judge], revision: str = "") -> None:
        self.judges = dict(judges)
        self.revision = revision

    @classmethod
    def load(
        cls,
        models: Mapping[str, str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        kv_budget_mb: int = 1024,
        elicitation: Elicitation | None = None,
    ) -> Engine:
        """Load checkpoints by name; each gets an equal share of the cache budget."""
        judges = {
            name: Judge.load(
                name,
                location,
                device=device,
                dtype=dtype,
                cache_bytes=(kv_budget_mb << 20) // len(models),
                elicitation=elicitation or Elicitation(),
            )
            for name, location in models.items()
        }
        return cls(judges, _revision(models))

    def score(self, requests: Sequence[ScoreRequest]) -> list[Outcome]:
        """Score requests together, each as if it were alone. A bad one gets its error, the others their scores."""
        asked: list[_Asked | BadScoreRequest] = []
        for request in requests:
            try:
                asked.append(self._encode(request))
            except BadScoreRequest as exc:
                asked.append(exc)
        before = sum(judge.forwarded for judge in self.judges.values())
        found: dict[tuple[str, Row], float] = {}
        for name, judge in self.judges.items():
            rows = [row for one in asked if isinstance(one, _Asked) for row in one.rows.get(name, ())]
            if rows:
                found |= {(name, row): value for row, value in judge.log_probs(rows).items()}
        forwarded = sum(judge.forwarded for judge in self.judges.values()) - before
        return [
            Outcome(error=one) if isinstance(one, BadScoreRequest) else Outcome(one.scores(found), None, forwarded)
            for one in asked
        ]

    def _encode(self, request: ScoreRequest) -> _Asked:
        if not request.models:
            raise BadScoreRequest("at least one model is needed", param="models")
        for name in request.models:
            if name not in self.judges:
                raise BadScoreRequest(f"unknown model {name!r}; known are {', '.join(self.judges)}", param="models")
        passages = objective(request.objective).passages(request)
        rows: dict[str, list[Row]] = {}
        for name in request.models:
            judge = self.judges[name]
            rows[name] = [judge.encoder.row(request.tree.messages, passage) for passage in passages]
            for row in rows[name]:
                judge.check(row)
        return _Asked(request, [(passage.candidate, len(passage.scored.encode())) for passage in passages], rows)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request with its rows under each model, in the order of its passages (candidate, bytes)."""

    request: ScoreRequest
    passages: list[tuple[int, int]]
    rows: dict[str, list[Row]]

    def scores(self, found: Mapping[tuple[str, Row], float]) -> tuple[CandidateScore, ...]:
        per_candidate: list[list[list[ModelScore]]] = [[] for _ in self.request.tree.candidates]
        for i, (candidate, length) in enumerate(self.passages):
            parts = []
            for name in self.request.models:
                row = self.rows[name][i]
                parts.append(ModelScore(name, found[name, row], row.end - row.start, length))
            per_candidate[candidate].append(parts)
        combine = objective(self.request.objective).combine
        texts = self.request.tree.candidates
        return tuple(combine(text, parts) for text, parts in zip(texts, per_candidate, strict=True))


def _revision(models: Mapping[str, str]) -> str:
    """What identifies these models in a trace: their names, and the contents of small checkpoints."""
    digest = hashlib.sha256()
    for name, location in sorted(models.items()):
        digest.update(name.encode())
        files = sorted(Path(location).glob("*.safetensors"))
        small = bool(files) and sum(file.stat().st_size for file in files) < _HASHED_BYTES
        digest.update(b"".join(file.read_bytes() for file in files) if small else location.encode())
    return digest.hexdigest()[:16]
