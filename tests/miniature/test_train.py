"""Training: reproducible, and resumed where interrupted. A few steps only, so no skill is looked
for here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

from miniature.recipes import RECIPES, Stage
from miniature.train import Run, main, rate, train


class Interrupted(Exception):
    """Stands for a killed process."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _run(out: Path, seed: int = 0) -> Run:
    out.mkdir(parents=True, exist_ok=True)
    stages = (Stage(3), Stage(3, 0.4, {"tangled": 0.5, "open": 0.5}))
    return Run(replace(RECIPES["meta"], batch=1), out, seed, stages, save_every=2)


def _same(left: LlamaForCausalLM, right: LlamaForCausalLM) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("interrupted", "saved"), [(3, 2), (5, 4)], ids=["first stage", "second stage"]
)
def test_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    interrupted: int, saved: int, tmp_path: Path
) -> None:
    whole, _ = train(_run(tmp_path / "whole"), lambda done, loss: None)

    def interrupt(done: int, loss: float) -> None:
        if done == interrupted:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(_run(tmp_path / "cut"), interrupt)
    resumed_at: list[int] = []
    resumed, _ = train(_run(tmp_path / "cut"), lambda done, loss: resumed_at.append(done))
    assert resumed_at == list(range(saved + 1, 7))
    assert _same(whole, resumed)


def test_state_of_another_seed_is_not_resumed(tmp_path: Path) -> None:
    train(_run(tmp_path, seed=0), lambda done, loss: None)
    steps: list[int] = []
    train(_run(tmp_path, seed=1), lambda done, loss: steps.append(done))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_rate_warms_up_to_the_stages_peak_stays_and_falls_to_zero() -> None:
    rates = [rate(Stage(1000, 0.5), step) for step in range(1001)]
    assert rates[0] < rates[25] < rates[60] == 0.5 == rates[399]
    assert rates[399] > rates[700] > rates[999] > rates[1000] == 0.0


def test_a_retraining_begins_with_finished_weights_and_leaves_out_who_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, str, Path | None]] = []
    monkeypatch.setattr(
        "miniature.train._train_visibly",
        lambda run, console: (
            trained.append((run.recipe.name, run.panel, run.start)) or (None, None)
        ),
    )
    monkeypatch.setattr(
        "miniature.train.measure", lambda *rest: SimpleNamespace(failures=[], as_json=dict)
    )
    monkeypatch.setattr("miniature.train.store", lambda *rest: None)
    main(["--out", str(tmp_path), "--panel", "shared", "--start", str(tmp_path)])
    assert trained == [("alder", "shared", tmp_path), ("cedar", "shared", tmp_path)]


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        option in shown
        for option in ("--out", "--only", "--seed", "--scale", "--start", "--panel", "--problems")
    )
