"""Weight and activation sparsity in one study: the stored grid says what the curves and the frontier say, and the report shows it."""

from __future__ import annotations

import pytest

from isogrid.core.files import read_json
from isogrid.core.typed import typed
from isogrid.report import build_report
from isogrid.study.results import Summary
from isogrid.study.run import run_study
from isogrid.study.spec import Spec

FIT = {"epochs": 8, "retrain_epochs": 3, "batch_size": 64}
STUDY = {
    "name": "two-axes",
    "data": {"name": "digits", "train": 300, "test": 120},
    "models": ["lenet-300-100"],
    "training": [FIT, *(FIT | {"penalty": {"name": "l1-activations", "weight": weight}} for weight in (3e-3, 1e-3))],
    "pruning": {"rounds": 2, "rate": 0.6},
    "control": {"rounds": "none"},
    "attacks": [{"name": "fgs", "eps": [0.05, 0.1]}, {"name": "pgd", "eps": 0.1, "steps": 5, "loss": "margin"}, {"name": "deepfool"}],
    "seeds": 2,
}
ORDER = ("", "l1-activations(weight=0.001)", "l1-activations(weight=0.003)")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return run_study(Spec.parse(STUDY), tmp_path_factory.mktemp("grid") / "study", workers=1)


def test_a_grid_says_what_the_curves_and_the_frontier_say(study):
    summary = typed(Summary, read_json(study.folder / "summary.json"), "summary.json")
    assert summary.failures == ()
    told = [(one.group.metric, one.group.eps, one.attack) for one in summary.grids]
    assert told == [("accuracy", None, ""), ("r_inf", 0.05, "envelope"), ("r_inf", 0.1, "envelope"), ("r_2", None, "deepfool")]
    frontier = study.frontier().fillna({"penalty": ""}).query("metric == 'activation_sparsity_last'")
    shares = frontier.groupby(["penalty", "level"])["value"].mean()
    for grid in summary.grids:
        assert tuple(row.penalty for row in grid.rows) == ORDER
        for row in grid.rows:
            [curve] = [
                one
                for one in summary.curves
                if (one.arm.penalty, one.group, one.attack) == (row.penalty, grid.group, grid.attack) and not one.control
            ]
            assert row.points == curve.points
            assert row.activations == pytest.approx([shares[row.penalty, point.level] for point in row.points])
        for one in grid.ridge:
            column = {
                row.penalty: point.mean for row in grid.rows for point in row.points if point.level == one.level and point.state == "sound"
            }
            assert column[one.penalty] == max(column.values())
    assert all((one.ridge, one.corner) == ((), None) for one in summary.grids[:1])


def test_the_page_draws_every_grid_and_names_its_corner(study):
    page = build_report(study.folder).read_text(encoding="utf-8")
    assert page.count("Heat map of lenet-300-100") == 4
    assert page.count("corner of weight and activation sparsity in l") + page.count("Weight and activation sparsity, ℓ") == 3
    drawn = {path.name for path in (study.folder / "figures").glob("*-grid-*.svg")}
    assert drawn == {f"lenet-300-100-grid-{end}.svg" for end in ("accuracy", "r_inf-linf-box-0.05", "r_inf-linf-box-0.1", "r_2-l2-free")}


def test_without_penalties_there_is_no_grid(study, tmp_path):
    alone = run_study(Spec.parse(STUDY | {"training": FIT, "seeds": 1}), tmp_path / "alone", workers=1)
    assert read_json(alone.folder / "summary.json")["grids"] == []
