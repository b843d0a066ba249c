"""The four models: their shapes, tokenizers, chat markup and training lengths.

Tables only. The differences are deliberate: other sizes and depths, other vocabularies, other ways
of marking a turn and of marking thought, as a pool of teachers from different vendors would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import LlamaConfig

from miniature.task import Variety

TEMPLATES = Path(__file__).with_name("templates")
CONTEXT = 1024
"""Positions a model is built for; training texts have at most about 420 tokens."""

Thinking = Literal["template opens", "model opens", "none"]


@dataclass(frozen=True, slots=True)
class TokenizerRecipe:
    """A byte-level BPE. `pattern` isolates the pieces that merges may not cross."""

    pattern: str
    vocabulary: int
    bos: str | None
    eos: str
    pad: str
    markup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training, with optimizers, warm-up and decay of its own.

    peak: the highest learning rate, as a share of the first stage's. varieties: shares of the
        problems drawn.
    """

    steps: int
    peak: float = 1.0
    varieties: Mapping[Variety, float] = field(default_factory=lambda: {"even": 1.0})


_ALL_VARIETIES: Mapping[Variety, float] = {"even": 0.45, "tangled": 0.45, "open": 0.1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model. The skills are learned on even problems, then used on all of them: a model that
    meets tangled ones from the start finds its registers much later.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    tokenizer: TokenizerRecipe
    thinking: Thinking
    stages: tuple[Stage, ...]
    batch: int = 8

    @property
    def template(self) -> str:
        """The Jinja source of the chat template."""
        return (TEMPLATES / f"{self.name}.jinja").read_text()

    @property
    def opener(self) -> str:
        """What the model itself writes before its first step."""
        return "<think>\n" if self.thinking == "model opens" else ""

    @property
    def closer(self) -> str:
        """What stands between the last step and the answer."""
        return "### Answer\n\n" if self.thinking == "none" else "</think>\n\n"

    def config(self, vocabulary: int, bos: int | None, eos: int, pad: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=32,  # the smallest that common servers have kernels for
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
            dtype="float32",
        )


# Digits and capitals stand alone in every vocabulary: registers are read and written symbol by
# symbol, and no merge can cross the cuts after a step's header and after a blank line.
_SPACED_WORDS = r"\n\n|\n| ?\p{Lu}?\p{Ll}+|\p{Lu}|\p{N}|#+|[^\s\p{L}\p{N}]|\s"
_SPACED_SYMBOLS = r"\n\n|\n| ?\p{Lu}?\p{Ll}+| ?\p{Lu}| ?\p{N}|#+| ?[^\s\p{L}\p{N}]|\s"
_SYMBOL_RUNS = r"\n\n|\n| ?\p{Lu}?\p{Ll}+|\p{Lu}|\p{N}|\.|\\\p{Ll}+\{| ?[^\s\p{L}\p{N}.]+|\s"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="alder",
            hidden=128,
            layers=3,
            heads=4,
            kv_heads=4,
            feed_forward=384,
            tokenizer=TokenizerRecipe(
                _SPACED_WORDS, 448, "<|begin|>", "<|end|>", "<|pad|>", ("<|user|>", "<|assistant|>")
            ),
            thinking="template opens",
            stages=(Stage(2400), Stage(800, 0.4, _ALL_VARIETIES)),
        ),
        Recipe(
            name="birch",
            hidden=96,
            layers=4,
            heads=3,
            kv_heads=3,
            feed_forward=320,
            tokenizer=TokenizerRecipe(
                _SPACED_SYMBOLS, 384, None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>",)
            ),
            thinking="model opens",
            stages=(Stage(2400), Stage(800, 0.4, _ALL_VARIETIES)),
        ),
        Recipe(
            name="cedar",
            hidden=112,
            layers=3,
            heads=4,
            kv_heads=2,
            feed_forward=352,
            tokenizer=TokenizerRecipe(
                _SYMBOL_RUNS,
                512,
                "<|begin_of_text|>",
                "<|eot_id|>",
                "<|pad|>",
                ("<|start_header_id|>", "<|end_header_id|>"),
            ),
            thinking="none",
            stages=(Stage(2200), Stage(800, 0.4, _ALL_VARIETIES)),
        ),
        Recipe(
            name="meta",
            hidden=128,
            layers=4,
            heads=4,
            kv_heads=4,
            feed_forward=384,
            tokenizer=TokenizerRecipe(
                _SPACED_WORDS, 480, "<|begin|>", "<|end|>", "<|pad|>", ("<|user|>", "<|assistant|>")
            ),
            thinking="template opens",
            stages=(Stage(3000), Stage(1000, 0.4, _ALL_VARIETIES)),
            batch=6,
        ),
    )
}

RETRAINING = Stage(1000, 0.4, _ALL_VARIETIES)
"""How a finished teacher takes on the mistakes of another panel."""
