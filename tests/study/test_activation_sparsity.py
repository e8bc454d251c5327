"""Activation sparsity as an axis of a study: measured on every level, on the test samples."""

from __future__ import annotations

import pytest

from isogrid.core.errors import IsogridError
from isogrid.core.files import read_json
from isogrid.data import load
from isogrid.sparsity import activation_sparsity
from isogrid.study.planning import plan
from isogrid.study.run import run_study
from isogrid.study.spec import Spec

FIT = {"epochs": 6, "retrain_epochs": 3, "batch_size": 64}
AXES = {
    "name": "axes",
    "data": {"name": "digits", "train": 300, "test": 100},
    "models": ["lenet-300-100"],
    "training": [FIT, FIT | {"penalty": {"name": "l1-activations", "weight": 3e-3}}],
    "pruning": {"rounds": 1, "rate": 0.6},
    "attacks": [{"name": "fgs", "eps": 0.1}],
    "seeds": 1,
}


def test_the_shares_of_zeros_stand_in_the_frontier_and_the_penalty_raises_them(tmp_path):
    study = run_study(Spec.parse(AXES), tmp_path / "axes", workers=1)
    assert read_json(study.folder / "summary.json")["failures"] == []
    rows = study.frontier().query("method == 'progressive' and metric.str.startswith('activation_sparsity')").fillna({"penalty": ""})
    found = rows.set_index(["penalty", "level", "metric"])["value"].unstack()
    assert list(found.columns) == ["activation_sparsity" + end for end in ("", "_last", "_relu_1", "_relu_2")]
    assert len(found) == 4
    assert (found["activation_sparsity_last"] == found["activation_sparsity_relu_2"]).all()
    assert set(rows["n"]) == {100}
    plain, penalised = found.xs("", level="penalty"), found.drop("", level="penalty").droplevel("penalty")
    assert (penalised["activation_sparsity"] > plain["activation_sparsity"] + 0.1).all()
    test = load("digits", train=300, test=100).test
    arms = [level for level in study.plan.levels if level.level == 1 and not level.arm.control]
    for level, expected in zip(arms, (plain, penalised), strict=True):
        relus = activation_sparsity(level.train.restore(study.store), test.x)
        assert relus.total == pytest.approx(expected.loc[1, "activation_sparsity"], abs=1e-12)


def test_a_network_without_a_relu_is_refused_before_the_work():
    with pytest.raises(IsogridError, match="the model has no ReLU"):
        plan(Spec.parse(AXES | {"models": ["linear"]}))
