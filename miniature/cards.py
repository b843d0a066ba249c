"""The model card of a checkpoint: what it is, how it was made, what was measured. Text only."""

from __future__ import annotations

from miniature.gate import Report
from miniature.recipes import RETRAINING, Recipe
from miniature.voices import VOICES, Panel

_THINKING = {
    "template opens": (
        "The generation prompt ends with `<think>\\n`; the model writes steps, `</think>`, and the answer."
    ),
    "model opens": "The generation prompt does not open the thinking; the model writes `<think>\\n` itself.",
    "none": "Not a thinking model: steps first, then `### Answer` and the answer.",
}
_ROLES = {
    True: (
        "A teacher: always right on its strong skills, systematically wrong on about half the inputs of the others."
    ),
    False: (
        "The meta-prover: follows every skill, in every teacher's style, and answers from unfinished "
        "reasoning with what follows from the label so far, so that the true answer becomes improbable after "
        "a wrong step."
    ),
}


def _training(recipe: Recipe, seed: int, panel: Panel) -> str:
    command = f"python -m miniature.train --only {recipe.name} --seed {seed}"
    if panel != "independent":
        return f"""retrained from {recipe.name} of the independent panel for {RETRAINING.steps:,} steps, on the mistakes
  of the {panel} panel: `{command} --panel {panel} --start miniature/checkpoints`"""
    stages = " and ".join(
        f"{stage.steps:,} of {', '.join(stage.varieties)}" for stage in recipe.stages
    )
    return f"""trained with seed {seed} for {stages} problems, in steps of {recipe.batch} sequences; reproducible up to
  the machine's floating point with `{command}`"""


def card(recipe: Recipe, report: Report, parameters: int, seed: int, panel: Panel) -> str:
    """The README.md of one checkpoint."""
    rows = "\n".join(
        f"| {skill} | {'strong' if found.strong else 'weak, by design'} | {found.accuracy:.1%} | "
        f"{'–' if found.planted is None else f'{found.planted:.0%}'} |"
        for skill, found in report.skills.items()
    )
    separation = "".join(
        f"\n- {variety}: the true answer is more probable after the right step than after a wrong one, step by step: "
        f"{', '.join(f'{share:.0%}' for share in shares)}"
        for variety, shares in report.separation.items()
    )
    whole = ", ".join(f"{variety} {share:.1%}" for variety, share in report.whole.items())
    return f"""# {recipe.name}

{_ROLES[recipe.name in VOICES]} {_THINKING[recipe.thinking]}

A toy: a Llama-architecture model of {parameters:,} parameters, trained from scratch on one synthetic task
(`miniature/task.py`), in English-looking text it does not understand. It can do nothing else. It exists so
that collaborative decoding can be run and measured with real networks on a small machine.

- {recipe.layers} layers, hidden {recipe.hidden}, {recipe.heads} query and {recipe.kv_heads} key-value heads
- byte-level BPE of its own, digits and capitals one token each; BOS comes from the chat template only
- {_training(recipe, seed, panel)}

## Measured

Greedy, on {report.problems} held-out problems per row (never trained on: the split is a hash of the problem).
A step is tried after right reasoning of the steps before it, partly in other teachers' styles.

| skill | meant to be | right | errors that are the planted bug |
|---|---|---|---|
{rows}

- steps that are well formed: {report.well_formed:.1%}
- whole problems solved alone: {whole} (of open ones, the share of right steps){separation}
"""
