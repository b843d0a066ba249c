"""Builds a model's tokenizer from its recipe: a byte-level BPE trained on the task's own text.

`<think>` and `</think>` are single tokens but not special ones, so that decoding keeps them, as in
the models imitated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from miniature.recipes import CONTEXT, Recipe
from miniature.task import INSTRUCTION, draw_problem
from miniature.voices import VOICES

_TRAINING_TEXTS = 300
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Think before you answer.")


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template; the same on every call."""
    wanted = recipe.tokenizer
    special = list(
        dict.fromkeys(
            token for token in (wanted.pad, wanted.bos, wanted.eos, *wanted.markup) if token
        )
    )
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(wanted.pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=wanted.vocabulary - 2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_texts(recipe), trainer)
    if recipe.thinking != "none":
        raw.add_tokens(
            [AddedToken(tag, normalized=False, special=False) for tag in ("<think>", "</think>")]
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        bos_token=wanted.bos,
        eos_token=wanted.eos,
        pad_token=wanted.pad,
        additional_special_tokens=list(wanted.markup),
        chat_template=recipe.template,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _texts(recipe: Recipe) -> Iterator[str]:
    """What the merges are learned from: problems, instruction, every voice's steps, the answer."""
    rng = random.Random(0)
    voices = list(VOICES.values())
    for _ in range(_TRAINING_TEXTS):
        problem = draw_problem(rng, "train")
        label = problem.start
        yield f"{problem.text}\n\n{INSTRUCTION}"
        for step in range(len(problem.operations)):
            after = problem.advance(label, step)
            yield rng.choice(voices).write(problem, label, after, step)
            label = after
        yield f"{recipe.closer}{problem.reply(label)}"
        yield rng.choice(SYSTEM_PROMPTS)
        yield "system user assistant"
