"""The embedded demo: its models, its problem and its configuration, wherever the package is installed."""

from __future__ import annotations

from pathlib import Path

from proxy.errors import ConfigError

MINIATURE = Path(__file__).parents[1] / "miniature"
PROBLEM = MINIATURE / "parcel.json"

_TEACHERS = ("alder", "birch", "cedar")

_CONFIG = """\
# Three small embedded teachers and the meta-prover that scores them, all run by the proxy itself on any laptop. They
# know one made-up task only. For your own models: `cord init --teacher URL`; every key is in docs/configuration.md.

model_list:
{teachers}
scorer:
  models:                             # held by one scoring process, on the GPU if there is one
    meta: {checkpoints}/meta
{judges}
  meta_prover: meta                   # scores steps against a reference answer
  judges: [meta, alder, birch, cedar] # share the score without a reference
  reference_free: cross

ensembles:                            # the models clients see, beside each teacher alone
  cord:
    teachers: [alder, birch, cedar]
    strategy: beam                    # as wide as fits the score, unless beam_width says otherwise
    max_steps: 16
    step_tokens: 96
    answer_tokens: 64

segmentation:
  # Short, because the embedded teachers were trained with it. Leave this section out for real models.
  instruction: Reason in steps, each headed "### Step N.", then give the final answer.

traces:
  folder: traces

general_settings:
  host: 127.0.0.1
  port: 4000
  # master_key: os.environ/CORD_MASTER_KEY
"""


def embedded_config() -> str:
    """The demo's configuration as YAML, with the places of its models.

    Raises:
        ConfigError: the package was installed without them.
    """
    checkpoints = MINIATURE / "checkpoints"
    if not checkpoints.is_dir():
        raise ConfigError("", f"the demo's models are not installed: there is no {checkpoints}")
    teachers = "".join(
        f"  - model_name: {name}\n    litellm_params: {{model: local/{checkpoints / name}}}\n"
        for name in _TEACHERS
    )
    judges = "\n".join(f"    {name}: {checkpoints / name}" for name in _TEACHERS)
    return _CONFIG.format(checkpoints=checkpoints, teachers=teachers, judges=judges)
