"""A study with certificates and Lipschitz constants: brackets hold, claims are judged at both ends, the report says why."""

from __future__ import annotations

import html
import io
import math
import shutil

import numpy as np
import pytest
from rich.console import Console

from isogrid.core.errors import InputError
from isogrid.core.files import read_json, write_json
from isogrid.core.typed import typed
from isogrid.report import build_report
from isogrid.report.terminal import print_summary
from isogrid.study.cells import Certificate, Exact, Lipschitz
from isogrid.study.planning import plan
from isogrid.study.results import Summary
from isogrid.study.run import missing, run_study
from isogrid.study.spec import Spec

N = 40
BARE = {
    "name": "brackets",
    "data": {"name": "digits", "train": 400, "test": 60},
    "models": ["linear", "lenet-300-100"],
    "training": {"epochs": 5, "retrain_epochs": 2, "batch_size": 64},
    "pruning": {"rounds": 2, "rate": 0.7},
    "control": {"rounds": [1, 2]},
    "attacks": [
        {"name": "pgd", "eps": 0.1, "steps": 10},
        {"name": "fgs", "eps": 0.1},
        {"name": "ddn", "steps": 40},
        {"name": "fmn", "norm": "l2", "steps": 40},
    ],
    "seeds": 2,
}
SPEC = BARE | {
    "certify": {"methods": ["crown-ibp", "norm-product"], "samples": N, "eps": {"l2": [0.2]}},
    "lipschitz": {"samples": N, "seeds": 1, "clever": 2},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "brackets"
    run_study(Spec.parse(BARE), folder, workers=1)
    todo = {task.key.split("-")[0] for task in missing(plan(Spec.parse(SPEC)), folder)}
    assert todo == {"certificate", "lipschitz"}, "certificates retrain and attack nothing"
    return run_study(Spec.parse(SPEC), folder, workers=1)


@pytest.fixture(scope="module")
def summary(study):
    return typed(Summary, read_json(study.folder / "summary.json"), "summary.json")


def test_every_bracket_holds_and_is_the_stored_records(study, summary):
    assert summary.failures == ()
    assert {(one.norm, one.control) for one in summary.brackets} == {("linf", False), ("linf", True), ("l2", False), ("l2", True)}
    assert {one.arm.model for one in summary.brackets} == {"lenet-300-100"}, "of affine models the theory has the exact distances"
    stored = {}
    for level in study.plan.levels:
        for cell in level.others:
            if isinstance(cell, Certificate) and not level.arm.control:
                records = study.store.read(cell.key).records
                assert (records["radius"] <= records["upper"] * (1 + 1e-5)).all()
                assert (records["radius"] > 0).sum() > N / 2
                stored[cell.norm, level.seed, level.level] = records
    for one in (one for one in summary.brackets if not one.control):
        assert [point.level for point in one.points] == [0, 1, 2]
        for point in one.points:
            assert (point.n, point.seeds) == (N, 2)
            records = [stored[one.norm, seed, point.level] for seed in (0, 1)]
            means = [np.where(each["upper"] > 0, each["radius"], 0.0).mean() for each in records]
            assert point.lower.mean == pytest.approx(np.mean(means))
            assert not point.lower.mean > point.upper.mean
            assert [at.eps for at in point.at] == ([0.2] if one.norm == "l2" else [0.1])
            assert all(at.certified.mean <= at.attacked.mean for at in point.at)
            assert all(low <= high for _, low, high in point.curve)
            assert all(a[1] >= b[1] for a, b in zip(point.curve, point.curve[1:], strict=False))


def test_the_frontier_has_both_ends(study):
    rows = study.frontier().query("attack == 'certificate'").set_index(["method", "seed", "level", "norm", "metric"])["value"]
    lower, upper = (rows.xs(name, level="metric") for name in ("certified_radius", "attacked_radius"))
    assert (lower.xs("l2", level="norm") <= upper.xs("l2", level="norm")).all()
    assert set(rows.index.get_level_values("method")) == {"progressive", "dense"}
    robust = study.frontier().query("attack == 'envelope' and metric == 'r_inf' and method == 'progressive' and model == 'lenet-300-100'")
    certified = rows.xs("certified_accuracy", level="metric").xs("linf", level="norm").xs("progressive")
    for row in robust.itertuples():
        assert certified[row.seed, row.level] <= row.value + 0.2  # of 40 samples against 60


def test_claims_are_judged_at_both_ends(study):
    claims = [one for one in read_json(study.folder / "claims.json") if one["model"] == "lenet-300-100"]
    proved = {one["claim"]: one for one in claims if one["end"] == "certified"}
    assert set(proved) == {2, 3}
    assert all(part["attack"] == "certificate" for one in proved.values() for part in one["parts"])
    assert {part["norm"] for part in proved[2]["parts"] if part["role"] == "primary"} <= {"linf", "l2"}
    assert all(part["attack"] != "certificate" for one in claims if one["end"] == "attacked" for part in one["parts"])


def test_lipschitz_constants_keep_their_order_and_random_masks_their_theorem(study):
    rows = study.frontier().query("attack == 'lipschitz'").set_index(["level", "metric", "norm"])["value"]
    for level in (0, 1, 2):
        of = rows[level]
        assert of["constant_eclipse", "l2"] <= of["constant_spectral", "l2"] * (1 + 1e-6) <= of["constant_frobenius", "l2"] * (1 + 1e-5)
        assert of["constant_absolute", "linf"] <= of["constant_row_sum", "linf"] * (1 + 1e-6)
        for norm, everywhere in (("l2", "constant_spectral"), ("linf", "constant_absolute")):
            assert of["median_slope", norm] <= of["median_local", norm] <= of[everywhere, norm] * (1 + 1e-6)
            assert 0 < of["median_stable", norm] <= 1
            assert of["median_clever_estimate", norm] > 0
    for level in (1, 2):
        of = rows[level]
        assert of["mask_frobenius_bernoulli", "l2"] <= of["mask_frobenius_expected", "l2"] * 1.05  # two draws
        assert of["mask_spectral_retrained", "l2"] == pytest.approx(of["constant_spectral", "l2"])
        assert of["mask_frobenius_expected", "l2"] < rows[0]["constant_frobenius", "l2"]


def test_the_split_multiplies_and_is_in_the_report(study, summary):
    found = {(one.norm, one.level): one for one in summary.mechanism}
    assert set(found) == {(norm, level) for norm in ("linf", "l2") for level in (1, 2)}
    for (norm, _), one in found.items():
        assert (one.distance is not None) == (norm == "l2")
        if one.distance is not None:
            whole = (1 + one.margin.effect) / (1 + one.slope.effect) * (1 + one.rest.effect)
            assert whole == pytest.approx(1 + one.distance.effect)
    page = build_report(study.folder).read_text(encoding="utf-8")
    assert "Brackets" in page
    assert "Between certificate and attack" in page
    assert (study.folder / "figures" / "lenet-300-100-bracket-l2-box.svg").is_file()
    assert (study.folder / "figures" / "lenet-300-100-certified-linf-box.png").is_file()
    text = io.StringIO()
    print_summary(study.folder, Console(file=text, width=200))
    assert "certified – attacked" in text.getvalue()
    assert "at the sparsest level" in text.getvalue()


def test_a_study_in_which_no_level_stands_has_a_page(study, tmp_path):
    folder = tmp_path / "collapsed"
    shutil.copytree(study.folder, folder)
    told = read_json(folder / "summary.json")
    for bracket in told["brackets"]:
        bracket["points"] = [point | {"collapsed": True} for point in bracket["points"]]
    write_json(folder / "summary.json", told)
    assert "Between certificate and attack" in build_report(folder).read_text(encoding="utf-8")


def test_what_is_written_is_read_again(study, summary):
    point = next(one for one in summary.brackets if one.norm == "linf").points[0]
    assert math.isnan(point.upper.mean), "an attack of one budget measures no distances"
    cells = {type(cell) for level in study.plan.levels for cell in level.others}
    assert {Certificate, Lipschitz} <= cells


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"certify": {"methods": ["crwn"]}}, "certificate"),
        ({"certify": {"methods": [{"name": "crown", "norm": "l2"}]}}, "certify.methods.norm"),
        ({"certify": {"norms": ["l1"]}}, "certify.norms"),
        ({"certify": {"levels": [7]}}, "certify.levels"),
        ({"certify": {"sampels": 10}}, "certify.sampels"),
        ({"lipschitz": {"radii": {"l2": 0}}}, "lipschitz.radii"),
        ({"lipschitz": {"samples": 1}}, "lipschitz.samples"),
    ],
)
def test_wrong_settings_are_named(part, field):
    with pytest.raises(InputError, match=field):
        Spec.parse(BARE | part)


HALF = """
from torch import nn
class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).bfloat16()
    def forward(self, x): return self.net(x.bfloat16())
"""


def test_a_network_that_certificates_do_not_read_is_studied_without_them_and_told(tmp_path):
    (tmp_path / "half.py").write_text(HALF)
    name = f"{tmp_path}/half.py:Half"
    asked = {part: value for part, value in SPEC.items() if part != "control"} | {"exact": {"levels": [1]}, "seeds": 1}
    planned = plan(Spec.parse(asked | {"models": [name, "lenet-300-100"]}))
    half, readable = planned.networks
    assert "torch.bfloat16" in half.unproved
    assert readable.unproved == ""
    proved = {level.arm.model for level in planned.levels for cell in level.others if isinstance(cell, Certificate | Exact | Lipschitz)}
    assert proved == {"lenet-300-100"}
    assert {level.arm.model for level in planned.levels if level.attacks} == {half.spec.title, "lenet-300-100"}
    run_study(Spec.parse(asked | {"models": [name], "pruning": {"rounds": 1}}), tmp_path / "out", workers=1)
    assert half.unproved in html.unescape(build_report(tmp_path / "out").read_text(encoding="utf-8"))


PARAMETRISED = """
from torch import nn
def normed(): return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))
"""


def test_masks_of_the_dense_network_are_of_the_weights_as_they_work(tmp_path):
    """Under weight_norm the parameter is another tensor than the weight that the network computes with."""
    (tmp_path / "net.py").write_text(PARAMETRISED)
    settings = {part: value for part, value in SPEC.items() if part not in ("control", "certify")} | {
        "models": [f"{tmp_path}/net.py:normed"]
    }
    run_study(Spec.parse(settings), tmp_path / "out", workers=1)
    told = typed(Summary, read_json(tmp_path / "out" / "summary.json"), "summary.json")
    assert not told.failures
    assert told.mechanism
