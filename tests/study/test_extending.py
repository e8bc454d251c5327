"""What a user adds is one file outside the package: a pruner, a criterion, an objective, a kind of cell, each through a whole study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from isogrid.core.errors import InputError
from isogrid.core.files import read_json
from isogrid.study.planning import plan
from isogrid.study.run import StudyError, missing, open_study, run_study
from isogrid.study.spec import Spec

TESTS = Path(__file__).parents[1]
PRUNERS, OBJECTIVES, PLUGIN = TESTS / "sparsity" / "own.py", TESTS / "training" / "own.py", Path(__file__).parent / "plugin"
TINY = {
    "name": "tiny",
    "data": {"name": "digits", "train": 300, "test": 60},
    "models": ["lenet-300-100"],
    "training": {"epochs": 3, "retrain_epochs": 2, "batch_size": 64},
    "pruning": {"rounds": 2},
    "control": {"rounds": "all"},
    "attacks": [{"name": "fgs", "eps": 0.1}],
    "seeds": 1,
}
OWN = {
    "a pruner that keeps a dense master": {"pruning": {"method": f"{PRUNERS}:Regrow", "rounds": 2, "every": 2, "label": "regrow"}},
    "a pruner with targets": {"pruning": {"method": f"{PRUNERS}:OneShot", "sparsity": [0.8, 0.95], "label": "one-shot"}},
    "a criterion that uses gradients": {"pruning": {"method": "progressive", "rounds": 2, "criterion": f"{PRUNERS}:Taylor"}},
    "an objective with a parameter and random numbers": {
        "training": TINY["training"] | {"objective": {"name": f"{OBJECTIVES}:Noisy", "sigma": 0.2}, "label": "noisy"}
    },
    "a penalty": {"training": TINY["training"] | {"penalty": {"name": f"{OBJECTIVES}:Activations", "weight": 1e-3}}},
    "a kind of cell": {"cells": [{"kind": "measured:Margins", "samples": 40}]},
}
TABLES = ("frontier.csv", "claims.json", "summary.json", "plan.json", "study.yaml")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """As for a user who has the package installed."""
    monkeypatch.syspath_prepend(PLUGIN)


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.mark.parametrize("what", OWN)
def test_what_is_added_goes_through_a_study_and_resumes(what, tmp_path):
    spec = Spec.parse(TINY | OWN[what])
    whole = run_study(spec, tmp_path / "whole", workers=2)
    frontier = whole.frontier()
    assert set(frontier["level"]) == {0, 1, 2}
    assert read_json(whole.folder / "summary.json")["failures"] == []
    assert missing(plan(spec), tmp_path / "whole") == []
    assert open_study(tmp_path / "whole").plan.levels == plan(spec).levels
    interrupted = tmp_path / "again"
    stopped = []

    def stop(event):
        stopped.append(event)
        if sum(one.kind == "finished" for one in stopped) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(spec, interrupted, workers=1, on_event=stop)
    assert missing(plan(spec), interrupted)
    run_study(spec, interrupted, workers=1)
    assert tables(interrupted) == tables(tmp_path / "whole")


def test_a_dense_master_lives_on_beside_the_weights_and_no_dead_weight_is_stored(tmp_path):
    study = run_study(Spec.parse(TINY | OWN["a pruner that keeps a dense master"]), tmp_path)
    for level in study.plan.levels:
        if level.arm.control or not level.level:
            continue
        entry = study.store.read(level.train.key)
        weights, masks, state = (entry.tensors(name) for name in ("weights", "masks", "state"))
        for name, mask in masks.items():
            assert torch.equal(weights[name] != 0, mask & (state[f"master.{name}"] != 0))
            assert (state[f"master.{name}"][~mask] != 0).any()


def test_levels_from_the_dense_reference_stand_beside_one_round_of_the_control(tmp_path):
    study = run_study(Spec.parse(TINY | OWN["a pruner with targets"]), tmp_path)
    sparse = study.frontier().query("method == 'one-shot' and metric == 'accuracy'").set_index("level")["sparsity"]
    assert sparse[1] == pytest.approx(0.8, abs=1e-5)
    assert sparse[2] == pytest.approx(0.95, abs=1e-5)
    assert all(level.train.parent is None or level.train.parent.level == 0 for level in study.plan.levels)
    assert {(level.level, level.round) for level in study.plan.levels if level.arm.control} == {(1, 1)}


def test_the_recipe_of_a_pruner_runs(tmp_path, monkeypatch, recipe):
    (tmp_path / "mine.py").write_text(recipe("A pruner of your own"))
    monkeypatch.chdir(tmp_path)
    study = run_study(Spec.parse(TINY | yaml.safe_load(recipe("A pruner of your own", "yaml"))), tmp_path / "out")
    sparse = study.frontier().query("method == 'random' and metric == 'accuracy'")["sparsity"]
    assert list(sparse) == pytest.approx([0.0, 0.2, 0.36, 0.488], abs=0.01)


def test_an_own_kind_of_cell_gives_a_figure_of_every_pruned_level(tmp_path):
    study = run_study(Spec.parse(TINY | OWN["a kind of cell"]), tmp_path)
    rows = study.frontier().query("metric == 'mean_margin'")
    assert list(rows["level"]) == [0, 1, 2]
    assert set(rows["n"]) == {40}
    assert set(rows["method"]) == {"progressive"}
    chosen = Spec.parse(TINY | {"cells": [{"kind": "measured:Margins", "levels": [2]}]})
    assert [cell.label for cell in plan(chosen).cells if cell.kind == "margins"] == ["margins of lenet-300-100 seed 0 progressive level 2"]


def test_an_edited_file_has_other_keys_and_a_run_says_that_it_changed(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(PRUNERS.read_text())
    spec = {"pruning": {"method": f"{source}:Regrow", "rounds": 1}}
    before = plan(Spec.parse(TINY | spec))
    source.write_text(PRUNERS.read_text() + "\nCHANGED = True\n")
    after = plan(Spec.parse(TINY | spec))
    changed = {new.label for old, new in zip(before.cells, after.cells, strict=True) if old.key != new.key}
    level = f"lenet-300-100 seed 0 {source}:Regrow level 1"
    assert changed == {f"train {level}", f"fgs@0.1 on {level}"}
    failed = []

    def note(event):
        failed.extend([event] if event.kind == "failed" else [])

    with pytest.raises(StudyError, match="has changed"):
        run_study(Spec.parse(TINY | spec), tmp_path / "out", planned=before, on_event=note)
    assert ["has changed" in event.reason for event in failed] == [True]


def test_models_trainings_and_pruners_span_a_grid_of_arms(tmp_path):
    grid = {
        "models": ["lenet-300-100", {"name": "lenet-300-100", "label": "another"}],
        "training": [TINY["training"], TINY["training"] | OWN["a penalty"]["training"]],
        "pruning": [{"rounds": 1}, {"rounds": 1, "criterion": f"{PRUNERS}:Taylor", "label": "taylor"}],
    }
    planned = plan(Spec.parse(TINY | grid | {"control": {"rounds": [1]}}))
    assert len(planned.arms) == 2 * 2 * 3
    assert len({arm.dense_control for arm in planned.arms}) == 4
    trained = [cell for cell in planned.cells if cell.kind == "train"]
    assert len(trained) == 2 * 4  # per training a reference, two pruned networks and a control; models alike but for their label share them
    with pytest.raises(InputError, match="label"):
        Spec.parse(TINY | grid | {"pruning": [{"rounds": 1}, {"rounds": 2}]})


@pytest.mark.parametrize(
    ("value", "field", "accepted"),
    [
        ({"pruning": {"method": "progresive"}}, "pruning.method", "did you mean progressive"),
        ({"pruning": {"method": f"{PRUNERS}:NoPruner"}}, "pruning.method", "subclass"),
        ({"pruning": {"method": f"{PRUNERS}:Regrow", "evry": 3}}, "pruning.evry", "did you mean pruning.every"),
        (
            {"pruning": {"method": f"{PRUNERS}:OneShot", "sparsity": [0.9], "off": [0, 1]}},
            "pruning",
            "a list, with a value for every level",
        ),
        ({"pruning": {"method": f"{PRUNERS}:OneShot", "sparsity": []}}, "pruning", "a list, with a value for every level"),
        ({"pruning": {"method": f"{PRUNERS}:OneShot", "rounds": 0}}, "pruning.rounds", "an integer >= 1"),
        ({"pruning": {"method": "progressive", "rate": [0.1, 0.2]}}, "pruning.rate", "one value"),
        ({"pruning": {"method": "none.py:Mine"}}, "pruning.method", "none.py"),
        ({"training": {"penalty": f"{OBJECTIVES}:Activations"}}, "training.penalty", "a value: this setting has no default"),
        ({"training": {"objective": {"name": f"{OBJECTIVES}:Noisy", "sgma": 1}}}, "training.objective", "did you mean sigma"),
        ({"cells": [{"kind": "margns"}]}, "cells.kind", "package.module:Class"),
        ({"cells": [{"kind": "measured:Nothing"}]}, "cells.kind", "measured"),
        ({"cells": [{"kind": "measured:Margins", "sample": 3}]}, "cells.sample", "did you mean cells.samples"),
        ({"cells": [{"kind": "train"}]}, "cells.kind", "a field `network`"),
        ({"cells": [{"kind": "measured:Margins", "levels": [9]}]}, "cells.levels", "levels 0 to 2"),
    ],
)
def test_what_cannot_be_used_is_one_line(value, field, accepted):
    with pytest.raises(InputError) as caught:
        Spec.parse(TINY | value)
    assert field in str(caught.value).partition("; accepted")[0]
    assert accepted in str(caught.value)


@pytest.mark.slow
def test_a_killed_run_with_a_pruner_of_ones_own_gives_the_same_bytes(tmp_path):
    spec = TINY | OWN["a pruner that keeps a dense master"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "isogrid", "run", "study.yaml", "--out", "killed", "--workers", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    cells = tmp_path / "killed" / "cells"
    while not list(cells.glob("train-*")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run_study(Spec.read(tmp_path / "study.yaml"), tmp_path / "killed")
    run_study(Spec.read(tmp_path / "study.yaml"), tmp_path / "whole")
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
