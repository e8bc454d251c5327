"""Anybody's attack in a study, from the specification to the tables: the user's file, and the YAML of docs/recipes.md as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from isogrid.study.planning import plan
from isogrid.study.run import missing, run_study
from isogrid.study.spec import Spec

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "digits", "train": 300, "test": 60},
    "models": ["lenet-300-100"],
    "training": {"epochs": 3, "retrain_epochs": 1, "batch_size": 64},
    "pruning": {"rounds": 1, "rate": 0.5},
    "seeds": 1,
}
STEP = """
import torch


def step(model, x, y, eps):
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return x + eps * gradient.sign()
"""


def run(folder: Path, attacks: list[dict[str, Any]]) -> Any:
    study = run_study(Spec.parse(TINY | {"attacks": attacks}), folder, workers=1)
    assert json.loads((folder / "summary.json").read_text())["failures"] == []
    return study


def test_a_callable_stands_in_the_tables_beside_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STEP)
    attacks = [{"name": "fgs", "eps": 0.1}, {"name": "callable", "target": f"{file}:step", "norm": "linf", "eps": 0.1, "label": "mine"}]
    frontier = run(tmp_path / "out", attacks).frontier().query("metric == 'success_rate' and eps == 0.1")
    assert set(frontier["level"]) == {0, 1}
    for _, level in frontier.groupby(["method", "level"]):
        rates = dict(zip(level["attack"], level["value"], strict=True))
        assert len(rates) == 2
        assert rates["mine@0.1"] == pytest.approx(rates["fgs@0.1"])  # one signed step, ours and theirs
    spec = Spec.parse(TINY | {"attacks": attacks})
    assert missing(plan(spec), tmp_path / "out") == []
    file.write_text(STEP.replace("x + eps", "x - eps"))
    changed = missing(plan(spec), tmp_path / "out")
    assert changed
    assert all(task.key.startswith("attack-") for task in changed)  # the edited file's cells, and no training


def test_the_yaml_recipe_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Callable[..., str], peer: Callable[[str], None]
) -> None:
    peer("foolbox")
    peer("torchattacks")
    (tmp_path / "my_attacks.py").write_text(recipe("Foolbox") + recipe("torchattacks"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    attacks = yaml.safe_load(recipe("In a study's YAML", "yaml"))["attacks"]
    frontier = run(tmp_path / "out", attacks).frontier()
    assert {"fgs@0.1", "foolbox-pgd@0.05", "foolbox-pgd@0.1", "torchattacks-cw"} <= set(frontier["attack"])
