"""Loading, batch generation and scoring with a small model: all the gate needs. No servers, no
search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A stored checkpoint, ready to use; raises TypeError when it is of another family."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not isinstance(model, LlamaForCausalLM) or not isinstance(
        tokenizer, PreTrainedTokenizerFast
    ):
        raise TypeError(f"{folder} is not a model of the miniature panel")
    return model, tokenizer


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and positions, each (B, T), of rows aligned at their ends."""
    length = max(map(len, rows))
    ids = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


_ROWS = (
    64  # a batch's keys and values are copied at every token, so a few batches are faster than one
)


def continue_texts(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    until: str | None,
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[str]:
    """What the model writes after each text, up to and including the token `until` or up to the end
    of its turn.

    `until` must be a single token of the model. Temperature 0 is greedy; otherwise `generator`
    seeds the draws.
    """
    encode = tokenizer.backend_tokenizer.encode
    stop = (
        tokenizer.eos_token_id if until is None else encode(until, add_special_tokens=False).ids[-1]
    )
    rows = [encode(text, add_special_tokens=False).ids for text in texts]
    written: list[str] = []
    for start in range(0, len(rows), _ROWS):
        batch = rows[start : start + _ROWS]
        written += _continue(model, tokenizer, batch, stop, max_new_tokens, temperature, generator)
    return written


@torch.inference_mode()
def _continue(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Sequence[int]],
    stop: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[str]:
    ids, mask, positions = _left_padded(rows, tokenizer.pad_token_id)
    end = tokenizer.eos_token_id
    written: list[Tensor] = []
    done = torch.zeros(len(rows), dtype=torch.bool)
    cache = None
    for _ in range(max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        )
        logits, cache = output.logits[:, -1], output.past_key_values  # (B, V)
        if temperature > 0:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[
                :, 0
            ]
        else:
            chosen = logits.argmax(-1)
        chosen = torch.where(done, torch.full_like(chosen, tokenizer.pad_token_id), chosen)
        written.append(chosen)
        done |= (chosen == stop) | (chosen == end)
        if bool(done.all()):
            break
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        positions = positions[:, -1:] + 1
    return [_text(tokenizer, row) for row in torch.stack(written, 1).tolist()]


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    kept = [token for token in ids if token not in (tokenizer.pad_token_id, tokenizer.eos_token_id)]
    return str(tokenizer.decode(kept, skip_special_tokens=False))


@torch.inference_mode()
def log_probs(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[str, str]],
) -> list[tuple[float, int]]:
    """For each (prefix, continuation): the continuation's summed log-probability in nats, and its
    number of tokens.

    Prefix and continuation are tokenised apart, so the cut must be one that the tokenizer respects.
    """
    encode = tokenizer.backend_tokenizer.encode
    split = [[encode(part, add_special_tokens=False).ids for part in pair] for pair in pairs]
    ids, mask, positions = _left_padded(
        [prefix + rest for prefix, rest in split], tokenizer.pad_token_id
    )
    longest = max(len(rest) for _, rest in split)
    output = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest + 1
    )
    logs = output.logits[:, :-1].log_softmax(-1)  # (B, longest, V)
    picked = logs.gather(-1, ids[:, -longest:, None])[..., 0]  # (B, longest)
    return [
        (float(row[longest - len(rest) :].sum()), len(rest))
        for row, (_, rest) in zip(picked, split, strict=True)
    ]
