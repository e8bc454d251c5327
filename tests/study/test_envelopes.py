"""Laws of the envelopes: over whom, over which samples, and the same figure in the page's curves and in the frontier."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from isogrid.attacks import ATTACKS
from isogrid.study.curves import curves, envelopes, point_of
from isogrid.study.tables import _envelope_rows
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import primaries
from isogrid.verdicts.measures import evidence_of, headlines
from isogrid.verdicts.records import About, Attacked, Family, Level

N = 40
KINDS = {
    "fgs": ("linf", 0.1),
    "pgd": ("linf", 0.1),
    "square": ("linf", 0.1),
    "pgd-l2": ("l2", 3.0),
    "cw": ("l2", None),
    "ddn": ("l2", None),
}


ARM = Arm(data="made-up", model="m", objective="natural", pruner="progressive")


def _about(name):
    norm, eps = KINDS[name]
    strength = ATTACKS[name].strength.get(norm, 0) if name in ATTACKS else 0
    return About(id=name, name=name, norm=norm, domain="box", eps=eps, role="strong", gradients=1.0, strength=strength)


def _attacked(name, samples, rng):
    norm, eps = KINDS[name]
    size = rng.uniform(0.01, 0.2, samples) if norm == "linf" else rng.uniform(0.2, 0.6, samples) * (1 if eps is None else 5)
    success = size <= (eps or math.inf)
    records = pd.DataFrame(
        {
            "sample": np.arange(samples),
            "label": 0,
            "clean": 0,
            "adversarial": success.astype(int),
            "success": success,
            "distance": np.where(success, size, math.inf),
            "zero_gradient": False,
            "broken_gradient": False,
        }
    )
    return Attacked(about=_about(name), records=records)


def _level(arm, seed, number, attacks, rng):
    return Level(
        arm=arm,
        seed=seed,
        level=number,
        round=number,
        metrics={"collapsed": False, "sparsity": 1 - (2 / 3) ** number},
        clean=pd.DataFrame({"label": np.zeros(N, int), "prediction": np.zeros(N, int)}),
        planned=tuple(map(_about, attacks)),
        attacks={name: _attacked(name, n, rng) for name, n in attacks.items()},
    )


def family(sparse, control=None, levels=(0, 1, 2, 3), seeds=(0, 1)):
    """A made-up family: `sparse`, `control` map attacks to their number of samples; a pair (samples, levels) restricts one."""
    rng = np.random.default_rng(0)

    def at(attacks, level):
        pairs = {name: what if isinstance(what, tuple) else (what, levels) for name, what in attacks.items()}
        return {name: n for name, (n, where) in pairs.items() if level in where}

    return Family(
        arm=ARM,
        linear=False,
        seeds=seeds,
        pruned={(s, k): _level(ARM, s, k, at(sparse, k), rng) for s in seeds for k in levels},
        control={(s, k): _level(ARM.dense_control, s, k, at(control, k), rng) for s in seeds for k in levels[1:]} if control else {},
    )


def drawn(one):
    """(method, attack, metric) -> level -> point."""
    found = curves(one, evidence_of(one))
    return {
        ("dense" if c.control else "progressive", c.attack, c.group.metric): {p.level: p for p in c.points} for c in found if c.group.norm
    }


FAMILIES = {
    "everything everywhere": family({"fgs": N, "pgd": N, "cw": N, "ddn": N}, {"fgs": N, "pgd": N, "cw": N, "ddn": N}),
    "few samples": family({"fgs": 12, "pgd": 12}, {"fgs": 12, "pgd": 12}),
    "fixed budget beside minimum norm": family({"pgd-l2": N, "cw": 12}, {"pgd-l2": N, "cw": 12}),
    "the control met fewer": family({"fgs": N, "square": N, "pgd": N}, {"fgs": N, "square": N}),
    "the control met one": family({"fgs": N, "pgd": N}, {"fgs": N}),
    "on some levels only": family({"fgs": N, "pgd": N, "square": (N, (0, 2))}),
    "two attacks on some levels only": family({"fgs": N, "square": (N, (0, 2))}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_headline_lies_below_every_attack_on_every_level(name):
    """Where an attack saw the very samples that the envelope speaks of."""
    found = drawn(FAMILIES[name])
    for (method, attack, metric), points in found.items():
        whole = found.get((method, "envelope", metric), {})
        for level, point in points.items():
            if level in whole and whole[level].n == point.n:
                assert whole[level].mean <= point.mean + 1e-12, (method, attack, level)
    assert {level for key, points in found.items() if key[:2] == ("progressive", "envelope") for level in points} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", FAMILIES)
def test_page_and_frontier_agree(name):
    one = FAMILIES[name]
    for (method, attack, metric), points in drawn(one).items():
        if "envelope" not in attack:
            continue
        for level, point in points.items():
            source = one.pruned if method == "progressive" else one.control
            rows = [row for s in one.seeds for row in _envelope_rows(source[s, level], envelopes(one)) if row[:2] == (metric, attack)]
            assert np.mean([row[5] for row in rows]) == pytest.approx(point.mean)
            assert {row[6] for row in rows} == {point.n}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_contrasts_rest_on_met_the_same_attacks_on_every_level_and_on_the_control(name):
    one = FAMILIES[name]
    for measure in evidence_of(one).measures:
        if "envelope" in measure.attack:
            over = {c.over for c in curves(one, evidence_of(one)) if c.attack == measure.attack.replace(" ", "-")}
            assert all(
                set(some) <= set(level.attacks) for some in over for level in (*one.pruned.values(), *one.control.values()) if level.attacks
            )
            assert not np.isnan(measure.values).all(2).any()
            assert measure.control_values is None or not np.isnan(measure.control_values).all(2).any()


def test_samples_that_no_attack_saw_are_not_broken():
    one = FAMILIES["few samples"]
    points = drawn(one)["progressive", "envelope", "r_inf"]
    assert {point.n for point in points.values()} == {12}
    values = next(m for m in evidence_of(one).measures if m.attack == "envelope").values
    assert np.isnan(values[:, :, 12:]).all()
    assert np.isfinite(values[:, :, :12]).all()


def test_a_distance_speaks_of_samples_that_a_minimum_norm_attack_saw():
    found = drawn(FAMILIES["fixed budget beside minimum norm"])
    whole, alone = (found["progressive", attack, "r_2"] for attack in ("envelope", "cw"))
    assert all(whole[k].n == alone[k].n == 12 and whole[k].mean <= alone[k].mean for k in whole)
    assert found["progressive", "envelope", "robust_accuracy"][0].n == N


def test_an_envelope_that_the_control_has_not_met_goes_by_its_name():
    one = FAMILIES["the control met fewer"]
    assert primaries(evidence_of(one).measures)["linf"].name == "shared-envelope-linf-box@0.1"
    found = drawn(one)
    assert ("dense", "envelope", "r_inf") not in found
    assert set(found["dense", "shared-envelope", "r_inf"]) == {1, 2, 3}
    assert list(headlines(FAMILIES["everything everywhere"])) == []
    assert primaries(evidence_of(FAMILIES["the control met one"]).measures)["linf"].name == "fgs"
    assert primaries(evidence_of(FAMILIES["on some levels only"]).measures)["linf"].attack == "shared envelope"


def test_a_void_mean_is_no_figure_but_its_median_is():
    distance = np.tile(np.linspace(0.1, 1, 20), (3, 1))
    distance[:, 15:] = math.inf
    one = FAMILIES["everything everywhere"]
    point = point_of(evidence_of(one), 1, distance, kind="distance")
    assert (point.void, point.failed, point.attacked) == (True, 15, 60)
    assert math.isnan(point.mean)
    assert math.isnan(point.low)
    assert point.median == pytest.approx(np.median(distance[0]))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.98, 1.0])
def test_intervals_of_shares_stay_within_their_limits(share):
    one = FAMILIES["everything everywhere"]
    values = (np.random.default_rng(1).random((3, 50)) < share).astype(float)
    values[0, :5] = 1 - values[0, :5]
    point = point_of(evidence_of(one), 1, values)
    assert 0 <= point.low <= point.mean <= point.high <= 1


def test_what_the_driver_accepted_within_a_budget_is_within_it_in_any_unit():
    records = pd.DataFrame({"sample": [0, 1, 2], "distance": [0.1275 + 3e-5, np.inf, 0.0]})  # one rounding beyond eps, in a box of 255
    about = dataclasses.replace(_about("fgs"), eps=0.1275)
    made = Attacked(about=about, records=records)
    distance = made.distances(4)
    assert distance[:3].tolist() == [0.1275, np.inf, 0.0]
    assert np.isnan(distance[3])
    assert not distance[0] > about.eps
