"""Tiny random models with real tokenizers, made on the spot: no download, no dependence on shipped checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

CORPUS = [
    "### Step 1. We add two and two and get four.\n\n### Step 2. Then we double it: eight.\n\n",
    "The final answer is \\boxed{42}. What is the label? Reason in steps, then answer.\n",
    "<think>\nabcdefghijklmnopqrstuvwxyz 0123456789\n</think>\n\nABCDEFGHIJKLMNOPQRSTUVWXYZ!?,;:()[]{}'\"",
]
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}"
)
PLAIN = THINKING.replace("<think>\n", "").replace("{# </think> #}", "")

# How Qwen2 and Llama 3 cut words: a run of line ends is a word of its own, whatever follows.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_CONFIGS: dict[str, Any] = {
    "llama": lambda vocab: LlamaConfig(
        vocab_size=vocab, num_key_value_heads=2, max_position_embeddings=512, **_SIZE
    ),
    "qwen3": lambda vocab: Qwen3Config(
        vocab_size=vocab, num_key_value_heads=2, head_dim=8, max_position_embeddings=512, **_SIZE
    ),
    "gpt2": lambda vocab: GPT2Config(
        vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=512
    ),
}


def tokenizer(template: str = THINKING) -> PreTrainedTokenizerFast:
    """A byte-level BPE that has learned a little merging, cutting words as today's models do."""
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = template
    return fast


def model(kind: str, vocabulary: int, seed: int = 0) -> Any:
    """A random model of a family, in fp32; sharp enough that its samples are not all alike."""
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(_CONFIGS[kind](vocabulary)).float().eval()
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(20)
    return made


def checkpoint(folder: Path, kind: str = "llama", template: str = THINKING, seed: int = 0) -> Path:
    """Model and tokenizer saved as any checkpoint is."""
    words = tokenizer(template)
    model(kind, len(words), seed).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
