"""Training: reproducible, and resumed where interrupted. A few steps only, so no skill is looked for here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from miniature.recipes import RECIPES
from miniature.train import Run, main, train


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _run(out: Path, seed: int = 0) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    return Run(replace(RECIPES["meta"], batch=1), out, seed=seed, steps=4, save_every=2)


def _same(left: LlamaForCausalLM, right: LlamaForCausalLM) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = train(_run(tmp_path / "whole"), lambda done, loss: None)

    def interrupt(done: int, loss: float) -> None:
        if done == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(_run(tmp_path / "cut"), interrupt)
    resumed_at: list[int] = []
    resumed, _ = train(_run(tmp_path / "cut"), lambda done, loss: resumed_at.append(done))
    assert resumed_at == [3, 4]
    assert _same(whole, resumed)


def test_state_of_another_seed_is_not_resumed(tmp_path: Path) -> None:
    train(_run(tmp_path, seed=0), lambda done, loss: None)
    steps: list[int] = []
    train(_run(tmp_path, seed=1), lambda done, loss: steps.append(done))
    assert steps == [1, 2, 3, 4]


def test_rate_warms_up_stays_and_falls_to_zero() -> None:
    run = Run(RECIPES["alder"], Path(), seed=0, steps=1000)
    rates = [run.rate(step) for step in range(1001)]
    assert rates[0] < rates[25] < rates[60] == 1.0 == rates[399]
    assert rates[399] > rates[700] > rates[999] > rates[1000] == 0.0


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--out", "--only", "--seed", "--scale", "--problems"))
