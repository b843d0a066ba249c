"""Trains the panel: `python -m miniature.train --out miniature/checkpoints`.

One thread, one model after another, seeded. An interrupted model resumes from its last saved state
with the same draws, since every step's samples are drawn from the seed and the step's number alone.
Ends with the gate, stored beside each model and in its card.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from miniature.cards import card
from miniature.corpus import IGNORED, Batch, Writer, collate
from miniature.decode import load
from miniature.gate import Report, measure
from miniature.recipes import RECIPES, RETRAINING, Recipe, Stage
from miniature.tokens import build_tokenizer
from miniature.voices import PANELS, VOICES, Panel, Voice

LEARNING_RATE = 4e-3
EMBEDDING_RATE = 3e-3
WARM_UP = 50
DECAY_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Run:
    """One model's training run.

    stages: the recipe's, or shorter ones for a try-out. start: the weights to begin with, instead
        of fresh ones.
    """

    recipe: Recipe
    out: Path
    seed: int
    stages: tuple[Stage, ...]
    panel: Panel = "independent"
    start: Path | None = None
    save_every: int = 200

    @property
    def voices(self) -> Mapping[str, Voice]:
        return PANELS[self.panel]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def folder(self) -> Path:
        return self.out / self.recipe.name

    @property
    def state(self) -> Path:
        """Where an unfinished run is kept; gone when it is finished."""
        return self.out / f".{self.recipe.name}.state.pt"

    @property
    def plan(self) -> Iterator[tuple[Stage, int]]:
        """Each step's stage, and its number within the stage."""
        return ((stage, step) for stage in self.stages for step in range(stage.steps))


def rate(stage: Stage, step: int) -> float:
    """The share of the learning rate at `step` of a stage: warm-up to its peak, plateau, linear
    decay to zero."""
    return stage.peak * min(
        1.0, (step + 1) / WARM_UP, (stage.steps - step) / (DECAY_SHARE * stage.steps)
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = recipe.config(
        len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )
    return LlamaForCausalLM(config)


def new_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest. With AdamW alone, registers are found some
    five times later.
    """
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=EMBEDDING_RATE, betas=(0.9, 0.97), weight_decay=0.0),
    ]


def train(
    run: Run, on_step: Callable[[int, float], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train one model to its last step and return it; `on_step` gets the number of steps done and
    the loss in nats.
    """
    tokenizer = build_tokenizer(run.recipe)
    model = (
        load(run.start / run.recipe.name)[0]
        if run.start
        else new_model(run.recipe, tokenizer, run.seed)
    )
    optimizers = new_optimizers(model)
    first = _resume(run, model, optimizers)
    writer = Writer(run.recipe, tokenizer, run.voices)
    model.train()
    for done, (stage, step) in islice(enumerate(run.plan), first, None):
        if step == 0:
            optimizers = new_optimizers(model)
        for optimizer, peak in zip(optimizers, (LEARNING_RATE, EMBEDDING_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(stage, step)
        batch = _batch(run, writer, stage, done, tokenizer.pad_token_id)
        on_step(done + 1, _step(model, optimizers, batch))
        if (done + 1) % run.save_every == 0:
            _save_state(run, model, optimizers, done + 1)
    return model, tokenizer


def _batch(run: Run, writer: Writer, stage: Stage, done: int, pad: int) -> Batch:
    rng = random.Random(f"{run.seed}:{run.recipe.name}:{done}")
    kinds, shares = zip(*stage.varieties.items(), strict=True)
    drawn = (
        rng.choices(kinds, shares, k=run.recipe.batch)
        if len(kinds) > 1
        else kinds * run.recipe.batch
    )
    return collate([writer.sample(rng, variety) for variety in drawn], pad)


def _step(
    model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer], batch: Batch
) -> float:
    learned = batch.targets != IGNORED
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=batch.mask,
            use_cache=False,
        ).last_hidden_state  # (B, T, hidden)
        logits = model.lm_head(
            hidden[learned]
        )  # (learned tokens, V): most of the prompt is never scored
    loss = functional.cross_entropy(logits.float(), batch.targets[learned])
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _save_state(
    run: Run, model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer], done: int
) -> None:
    state = {
        "done": done,
        "of": run.steps,
        "seed": run.seed,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    partial = run.state.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(run.state)


def _resume(run: Run, model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load an unfinished run of the same seed and length; the number of steps done, 0 where there
    is none."""
    if not run.state.exists():
        return 0
    state = torch.load(run.state, weights_only=True)
    if (state["of"], state["seed"]) != (run.steps, run.seed):
        return 0
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["done"])


def store(
    run: Run, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, report: Report
) -> None:
    """Write the finished checkpoint, its gate and its card; an earlier one in the same folder is
    replaced."""
    shutil.rmtree(run.folder, ignore_errors=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(run.folder)
    tokenizer.save_pretrained(run.folder)
    (run.folder / "gate.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    parameters = sum(p.numel() for p in model.parameters())
    (run.folder / "README.md").write_text(card(run.recipe, report, parameters, run.seed, run.panel))
    run.state.unlink(missing_ok=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m miniature.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder that gets one checkpoint folder a model"
    )
    parser.add_argument(
        "--only", action="append", choices=list(RECIPES), help="train this model only; repeatable"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the weights and of the samples (default: 0)"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the full number of steps (default: 1.0)"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of finished checkpoints to retrain on the mistakes of --panel",
    )
    parser.add_argument(
        "--panel",
        choices=list(PANELS),
        default="independent",
        help="whose mistakes (default: independent)",
    )
    parser.add_argument(
        "--problems",
        type=int,
        default=200,
        help="held-out problems per measure of the gate (default: 200)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and store the asked models; 1 when one of them misses the gate."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    failures: list[str] = []
    for run in _runs(arguments):
        name = run.recipe.name
        started = time.process_time()
        model, tokenizer = _train_visibly(run, console)
        trained_s = time.process_time() - started
        report = measure(run.recipe, model, tokenizer, arguments.problems, run.voices)
        store(run, model, tokenizer, report)
        console.print(f"{name}: {trained_s:.0f} CPU-seconds", json.dumps(report.as_json()))
        failures += report.failures
    for failure in failures:
        console.print(f"[red]gate:[/red] {failure}")
    return 1 if failures else 0


def _runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """The asked trainings; of a retraining, those of teachers whose mistakes change."""
    voices = PANELS[arguments.panel]
    for name in arguments.only or RECIPES:
        stages = (RETRAINING,) if arguments.start else RECIPES[name].stages
        if arguments.start and voices.get(name) == VOICES.get(name):
            continue
        scaled = tuple(
            replace(stage, steps=max(1, round(stage.steps * arguments.scale))) for stage in stages
        )
        yield Run(
            RECIPES[name], arguments.out, arguments.seed, scaled, arguments.panel, arguments.start
        )


def _train_visibly(run: Run, console: Console) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(run.recipe.name, total=run.steps, loss=float("nan"))
        return train(run, lambda done, loss: progress.update(task, completed=done, loss=loss))


if __name__ == "__main__":
    sys.exit(main())
