"""A study with complete search: every sample decided or said not to be, the truth beside the envelope, the attacks' blindness told."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from isogrid.attacks.records import to_numpy
from isogrid.certify import BranchAndBound
from isogrid.core.errors import InputError
from isogrid.core.files import read_json
from isogrid.core.typed import typed
from isogrid.report import build_report
from isogrid.report.terminal import print_summary
from isogrid.study.cells import Exact
from isogrid.study.cells.train import trained
from isogrid.study.planning import plan
from isogrid.study.results import Summary
from isogrid.study.run import missing, run_study
from isogrid.study.spec import Spec

EPS = 0.1
BARE = {
    "name": "truth",
    "data": {"name": "digits", "train": 1000, "test": 30},
    "models": ["linear", "lenet-300-100"],
    "training": {"epochs": 15, "retrain_epochs": 8, "batch_size": 64},
    "pruning": {"rounds": 3, "rate": 0.75},
    "control": {"rounds": [3]},
    "attacks": [{"name": "fgs", "eps": EPS}, {"name": "pgd", "eps": EPS, "steps": 10}, {"name": "ddn", "steps": 40}],
    "seeds": 2,
}
PART = {"levels": [1, 3], "seeds": 1, "method": {"nodes": 60}}
SPEC = BARE | {"exact": [PART, PART | {"norms": [], "distances": ["l2"], "samples": 4}]}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "truth"
    run_study(Spec.parse(BARE), folder, workers=1)
    todo = [task.key.split("-")[0] for task in missing(plan(Spec.parse(SPEC)), folder)]
    assert todo == ["exact"] * 4, "two levels of one seed, a budget and a distance each; nothing is trained or attacked again"
    return run_study(Spec.parse(SPEC), folder, workers=1)


@pytest.fixture(scope="module")
def searched(study):
    return {
        (level.level, cell.eps): (cell, study.store.read(cell.key).records)
        for level in study.plan.levels
        for cell in level.others
        if isinstance(cell, Exact)
    }


@pytest.fixture(scope="module")
def summary(study):
    return typed(Summary, read_json(study.folder / "summary.json"), "summary.json")


def test_every_sample_is_certified_or_broken_by_what_the_model_itself_says(study, searched):
    assert set(searched) == {(level, eps) for level in (1, 3) for eps in (EPS, None)}
    for (_, eps), (cell, records) in searched.items():
        lower, upper = records["lower"].to_numpy(), records["upper"].to_numpy()
        assert (lower <= upper * (1 + 1e-5)).all()
        if eps is not None:
            assert set(np.unique(lower)) <= {0.0, EPS}
        for attack in cell.attacks:
            assert (study.store.read(attack.key).records["distance"].to_numpy()[: len(lower)] >= lower * (1 - 1e-5)).all()


@pytest.mark.parametrize("level", [1, 3])
def test_a_budget_is_decided_as_the_method_alone_decides_it(study, searched, level):
    cell, records = searched[level, EPS]
    test = cell.network.data.load().test
    verdicts = BranchAndBound(nodes=60).verify(trained(cell.network, study.store), test.x, test.y, EPS)
    assert bool(verdicts.undecided.any()) == (level == 1), "the dense one's search ends at its limit"
    assert torch.equal(verdicts.certified, torch.from_numpy(records["lower"].to_numpy() == EPS))
    assert (to_numpy(verdicts.broken) == (records["upper"].to_numpy() <= EPS * (1 + 2e-5))).all()


def test_the_truth_is_a_curve_that_has_a_mean_where_all_is_decided(summary, searched):
    curves = {(one.group.metric, one.arm.model): one for one in summary.curves if one.is_truth}
    assert set(curves) == {("r_inf", "lenet-300-100"), ("r_2", "lenet-300-100")}
    for (metric, _), curve in curves.items():
        for point in curve.points:
            records = searched[point.level, EPS if metric == "r_inf" else None][1]
            lower, upper = records["lower"].to_numpy(), records["upper"].to_numpy()
            open_ = (lower < EPS) & (upper > EPS * (1 + 2e-5)) if metric == "r_inf" else lower < upper * 0.99
            assert (point.seeds, point.n, point.undecided) == (1, 30 if metric == "r_inf" else 4, open_.sum())
            assert np.isnan(point.mean) == (point.undecided > 0)
            assert point.low <= point.high
            if not point.undecided:
                assert point.mean == pytest.approx((lower == EPS).mean() if metric == "r_inf" else upper.mean())
    mine = curves["r_inf", "lenet-300-100"]
    envelope = next(one for one in summary.curves if one.is_envelope and not one.control and (one.arm, one.group) == (mine.arm, mine.group))
    assert mine.at(3).mean <= envelope.at(3).by_seed[0]
    assert curves["r_2", "lenet-300-100"].at(1).undecided, "a dense network's distances are not found in 60 bounds"


def test_page_and_terminal_show_it_and_where_it_is_open(study):
    page = build_report(study.folder).read_text(encoding="utf-8")
    assert "Truth, 1 of 2 seeds" in page
    assert "the truth (complete search)" in page
    assert "undecided" in page
    text = io.StringIO()
    print_summary(study.folder, Console(file=text, width=200))
    assert "Truth, 1 of 2 seeds" in text.getvalue()
    rows = study.frontier().query("attack == 'exact'")
    assert set(rows["metric"]) == {"certified_accuracy", "unbroken_accuracy", "certified_radius", "attacked_radius", "exact_share"}


def test_the_audit_looked_where_there_was_truth(summary):
    mine = [one for one in summary.audit_checks if one.code == "IG015" and one.model == "lenet-300-100" and one.method == "progressive"]
    judged = {level for one in mine if one.state != "not checked" for level in one.levels}
    assert judged == {1, 3}


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"method": {"nodes": -1}}, "nodes"),
        ({"method": "crwn"}, "certificate"),
        ({"method": {"norm": "l2"}}, "exact.method.norm"),
        ({"eps": {"linf": [0]}}, "exact.eps.linf"),
        ({"levels": [9]}, "exact.levels"),
        ({"sampels": 9}, "exact.sampels"),
        ([{"levels": [1]}, {"levels": [1, 2], "samples": 5}], "exact"),
    ],
)
def test_wrong_settings_are_named(part, field):
    with pytest.raises(InputError, match=field):
        Spec.parse(BARE | {"exact": part})
