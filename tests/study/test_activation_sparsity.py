"""Activation sparsity as an axis of a study: measured on every level, on the test samples."""

from __future__ import annotations

import pandas as pd
import pytest

from isogrid.core.errors import IsogridError
from isogrid.core.files import read_json
from isogrid.data import load
from isogrid.sparsity import activation_sparsity
from isogrid.study.levels import Finished, families
from isogrid.study.planning import plan
from isogrid.study.run import run_study
from isogrid.study.spec import Spec
from isogrid.verdicts.records import Level

PENALTY = "l1-activations(weight=0.003)"
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
    four = {one["penalty"]: one for one in read_json(study.folder / "claims.json") if one["claim"] == 4}
    assert four[PENALTY]["verdict"] == "not applicable"  # it is judged beside the network without a penalty
    assert four[""]["verdict"] == "undecided"
    assert "linf: no attacked network with a penalty" in four[""]["reason"]
    told = {one["penalty"]: one["zeros"] for one in four[""]["penalised"].values()}
    assert told == pytest.approx({"": plain.loc[0, "activation_sparsity_last"], PENALTY: penalised.loc[0, "activation_sparsity_last"]})


def penalty(weight):
    return {"penalty": {"name": "l1-activations", "weight": weight}}


def test_penalties_line_up_by_weight_where_all_else_is_alike():
    """Another objective, another number of epochs and a penalty on weights are other trainings; two pruners have one axis."""
    other = [
        FIT | penalty(1e-2) | {"epochs": 2},
        FIT | penalty(1e-4) | {"objective": {"name": "trades", "eps": 0.1}},
        FIT | {"penalty": {"name": "l2-weights", "weight": 1e-4}},
    ]
    trainings = [FIT | penalty(1e-2) | {"label": "labelled"}, FIT, *other, FIT | penalty(1e-3)]
    prunings = [{"rounds": 1}, {"rounds": 1, "label": "again"}]
    spec = AXES | {"training": trainings, "pruning": prunings, "control": {"rounds": "none"}, "seeds": 2}
    made = plan(Spec.parse(spec))
    clean = pd.DataFrame({"label": [0], "prediction": [0]})

    def level(planned):
        metrics = {"sparsity": 0.0, "activations": {"activation_sparsity_last": 0.25 + 0.5 * planned.seed}}
        where = {"arm": planned.arm, "seed": planned.seed, "level": planned.level, "round": planned.round}
        return Finished(plan=planned, level=Level(**where, metrics=metrics, clean=clean, planned=(), attacks={}), cells=())

    found = families(made, [level(one) for one in made.levels])
    axes = [one for one in found if one.penalised is not None]
    assert [(one.arm.pruner, one.arm.objective, one.arm.penalty) for one in axes] == [("progressive", "natural", "")]
    along = axes[0].penalised
    assert along.penalties == {0: "", 1: "l1-activations(weight=0.001)", 2: "l1-activations(weight=0.01)"}
    assert along.sparsity(2) == 0.5
    assert along.pruned[1, 2].arm.objective == "labelled"
    assert {along.control[seed, k] is along.pruned[seed, 0] for seed in (0, 1) for k in (1, 2)} == {True}
    without = [one for one in made.levels if not (one.arm.objective == "natural" and not one.arm.penalty and one.level == 0)]
    assert all(one.penalised is None for one in families(made, [level(one) for one in without]))


def test_a_network_without_a_relu_is_refused_before_the_work():
    with pytest.raises(IsogridError, match="the model has no ReLU"):
        plan(Spec.parse(AXES | {"models": ["linear"]}))
