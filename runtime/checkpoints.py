"""Loading a transformers checkpoint onto a device, and what its configuration says about its keys
and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, GgufConfig

from runtime.errors import CheckpointError
from runtime.gguf import is_gguf


@contextmanager
def checkpoint(location: str | Path) -> Iterator[None]:
    """Around what reads a checkpoint: the libraries' many errors become one, with one sentence.

    Raises:
        CheckpointError: it is not there, cannot be fetched, or cannot be read.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as exc:
        reason = next(iter(str(exc).splitlines()), "") or type(exc).__name__
        raise CheckpointError(f"cannot load {location}: {reason}") from exc


def load_checkpoint(kind: Any, location: str | Path, device: str, dtype: str) -> tuple[Any, Any]:
    """A model of a transformers auto class, on its device, and its tokenizer.

    `location` is a folder, a hub name or a GGUF file. "auto" means the GPU, in bf16, if there is
    one; else the CPU in fp32. The weights of a GGUF file are dequantised, so that they run in the
    dtype that was asked for.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    folder, options = checkpoint_options(location)
    quantisation = {"quantization_config": GgufConfig(dequantize=True)} if options else {}
    with checkpoint(location):
        model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), **options, **quantisation)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    return model.to(device), tokenizer


def checkpoint_options(location: str | Path) -> tuple[str, dict[str, str]]:
    """What `from_pretrained` of any auto class is called with for a location: its first argument
    and further ones."""
    if not is_gguf(location):
        return str(location), {}
    file = Path(location)
    return str(file.parent), {"gguf_file": file.name}


def attention_obstacle(config: Any) -> str | None:
    """Why a model's keys and values cannot be cached by position; None if they can.

    Only full attention with position ids is supported.
    """
    other = {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}
    if other:
        return f"layers of {' and '.join(sorted(other))}"
    if getattr(config, "sliding_window", None):
        return f"a sliding window of {config.sliding_window}"
    # ALiBi computes its biases from a mask of tokens (B, T), which a packed or padded forward does
    # not have.
    if getattr(config, "alibi", False) or getattr(config, "max_position_embeddings", None) is None:
        return "no position ids (ALiBi, or recurrence)"
    return None


def kv_bytes_per_token(model: Any) -> int:
    """What the keys and values of one token take, over all layers."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)
