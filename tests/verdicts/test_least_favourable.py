"""Verdicts that noise cannot buy: one half of a claim is true beyond doubt, the other is exactly not, and carries the whole error.

Each kind of made-up study is one by which a verdict was once bought: by what training did beyond the control's last attacked round, by
levels chosen on the samples that judge them, by what fails in the control alone, by ties, by many levels.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from isogrid.verdicts.arm import Arm
from isogrid.verdicts.claims import judge
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure
from isogrid.verdicts.recommendation import recommend

TOLERANCE = {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}
LEVELS = tuple(range(15))
FLAT = np.zeros(15)
SEEDS = (2, 3, 5, 8)


def curve(*points):
    """A value per level, piecewise linear through (level, value)."""
    return np.interp(LEVELS, *zip(*points, strict=True))


def said(evidence, claim, verdict):
    """Whether any of the studies' networks has that verdict on the claim."""
    return any(one.claim == claim and one.verdict == verdict for one in judge(evidence, TOLERANCE))


def study(r_inf, distance, correct, *, linear, name="network"):
    """A study of arrays ([S, L, N] of the levels, [S, L - 1, N] of the control at every round) for r_inf, distance and accuracy."""
    seeds, count, _ = r_inf[0].shape
    levels = tuple(range(count))
    common = {"domain": "box", "levels": levels, "control_levels": levels[1:], "strength": 1}
    pgd = Measure(name="pgd@0.1", attack="pgd", norm="linf", eps=0.1, kind="r_inf", values=r_inf[0], control_values=r_inf[1], **common)
    ddn = Measure(name="ddn", attack="ddn", norm="l2", eps=None, kind="distance", values=distance[0], control_values=distance[1], **common)
    return Evidence(
        arm=Arm(data="made-up", model=name, pruner="progressive"),
        linear=linear,
        sparsity={level: 1 - (2 / 3) ** level for level in levels},
        levels=levels,
        correct=correct,
        collapsed=np.zeros((seeds, count), bool),
        measures=(pgd, ddn),
    )


def trained_on(rng, seeds, made_up, **settings):
    return made_up(rng, **({"seeds": seeds, "samples": 300, "walk": (0.003,) * 3, "base": (0.94, 0.3, 0.83)} | settings))


def falls_by_training(rng, seeds, made_up):
    """Claim 3: r_inf truly falls at the end; r_2 falls by training alone, after the last attacked round of the control too."""
    r_inf, training = curve((0, 0), (10, 0.1), (14, -0.25)), curve((0, 0), (6, -0.24), (10, -0.29), (14, -0.33))
    return [trained_on(rng, seeds, made_up, control_levels=(3, 6, 10), effect=(FLAT, r_inf, FLAT), drift=(FLAT, FLAT, training))]


def rises_by_training(rng, seeds, made_up):
    """Claim 2: r_inf truly rises; r_2 rises by training alone, and the control was attacked early."""
    effect, drift = (FLAT, curve((0, 0), (1, 0.2)), FLAT), (FLAT, FLAT, curve((0, 0), (14, 0.3)))
    return [trained_on(rng, seeds, made_up, control_levels=(3, 6), effect=effect, drift=drift)]


def against_by_training(rng, seeds, made_up):
    """Claim 1 contradicted: r_2 truly falls; r_inf falls by training alone."""
    effect, drift = (FLAT, FLAT, curve((0, 0), (1, -0.3))), (FLAT, curve((0, 0), (14, -0.28)), FLAT)
    return [trained_on(rng, seeds, made_up, control_levels=(3, 6), linear=True, effect=effect, drift=drift)]


def accuracy_at_the_edge(rng, seeds, made_up):
    """Claim 1: r_2 truly falls; every level lies at the tolerance's edge in accuracy, and r_inf is nearly accuracy, as its control's is."""
    levels, samples = 13, 150
    ease = rng.normal(size=samples)

    def right(levels, share):
        noise = 0.6 * rng.normal(size=(1, levels, samples)) + 0.1 * rng.normal(size=(seeds, levels, samples))
        return (0.79 * ease + noise < ndtri(share)).astype(float)

    def under_attack(correct):
        return correct * (rng.random(correct.shape) < 0.97)

    def far(correct, size):
        return correct * size * np.maximum(0.9 + 0.1 * rng.normal(size=correct.shape), 0.01)

    sparse, control = np.concatenate([right(1, 0.9), right(levels - 1, 0.88)], axis=1), right(levels - 1, 0.88)
    return [study((under_attack(sparse), under_attack(control)), (far(sparse, 0.7), far(control, 1.0)), sparse, linear=True)]


def the_farthest_fail(rng, seeds, made_up):
    """Claim 2: r_inf truly rises; r_2 is the control's, whose farthest 0.9 % fail."""
    levels, samples = 4, 700
    ease = rng.normal(size=samples)

    def far(levels):
        noise = 0.3 * rng.normal(size=(1, levels, samples)) + 0.3 * rng.normal(size=(seeds, levels, samples))
        return np.exp(0.6 * (0.9 * ease + noise)) * (1 + 0.004 * rng.normal(size=(seeds, levels, 1)))

    def under_attack(levels, share):
        return (rng.random((seeds, levels, samples)) < share).astype(float)

    sparse, control = far(levels), far(levels - 1)
    control[control > np.sort(control, axis=-1)[..., [-7]]] = np.inf
    r_inf = (under_attack(levels, 0.6), under_attack(levels - 1, 0.3))
    return [study(r_inf, (sparse, control), np.ones_like(sparse), linear=False)]


def ties(rng, seeds, made_up):
    """Claim 1 of any of twelve networks: r_2 truly falls; in r_inf a sample or two of fifty differ between level and control."""

    def one(name):
        robust = (rng.random(50) < 0.4).astype(float)

        def noisy(levels):
            flipped = rng.random((seeds, levels, 50)) < 0.015
            return np.where(flipped, 1 - robust, robust)

        def far(levels, size):
            return size * (1 + 0.05 * rng.normal(size=(seeds, levels, 50)))

        return study((noisy(2), noisy(1)), (far(2, 0.5), far(1, 1.0)), np.ones((seeds, 2, 50)), linear=True, name=name)

    return [one(f"network {k}") for k in range(12)]


BOUGHT = {
    "beyond the control, 3 supported": (falls_by_training, 3, "supported"),
    "beyond the control, 2 supported": (rises_by_training, 2, "supported"),
    "beyond the control, 1 contradicted": (against_by_training, 1, "contradicted"),
    "accuracy at the edge": (accuracy_at_the_edge, 1, "supported"),
    "failures": (the_farthest_fail, 2, "supported"),
    "ties": (ties, 1, "supported"),
}


def bought(kind, made_up, each):
    """How many of `each` studies with each number of seeds have the verdict that nothing but noise can bring about."""
    make, claim, verdict = BOUGHT[kind]
    counts = []
    for seeds in SEEDS:
        rng = np.random.default_rng([30, seeds])
        counts.append(sum(said(make(rng, seeds, made_up), claim, verdict) for _ in range(each)))
    return counts


def within(counts, each):
    assert max(counts) <= stats.binom.ppf(0.999, each, ALPHA), counts
    assert sum(counts) <= stats.binom.ppf(0.99, each * len(counts), ALPHA), counts


@pytest.mark.parametrize("kind", BOUGHT)
def test_noise_buys_no_verdict_while_the_other_half_is_true(kind, made_up):
    within(bought(kind, made_up, 40), 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOUGHT)
def test_noise_buys_no_verdict_in_many_studies(kind, made_up):
    within(bought(kind, made_up, 500), 500)


EDGE = tuple(np.where(np.arange(15) == FLAT, 0, -TOLERANCE[name]) for name in ("accuracy", "r_inf", "distance"))
EDGES = {
    "every level at the edge of tolerance": {"effect": EDGE},
    "every level at the edge, wild seeds": {"effect": EDGE, "walk": (0.1,) * 3},
    "every level as good as dense, wild seeds": {"walk": (0.1,) * 3},
}


def named(settings, made_up, each):
    """How many of `each` studies with each number of seeds name a fragile level where none is."""
    counts = []
    for seeds in SEEDS:
        rng = np.random.default_rng([31, seeds])
        studies = (made_up(rng, seeds=seeds, samples=100, **settings) for _ in range(each))
        counts.append(sum(recommend([one], TOLERANCE)[0].first_fragile.level is not None for one in studies))
    return counts


@pytest.mark.parametrize("edge", EDGES)
def test_no_number_of_levels_makes_one_of_them_fragile(edge, made_up):
    within(named(EDGES[edge], made_up, 40), 40)


@pytest.mark.slow
@pytest.mark.parametrize("edge", EDGES)
def test_no_number_of_levels_makes_one_of_them_fragile_in_many_studies(edge, made_up):
    within(named(EDGES[edge], made_up, 500), 500)


def test_no_level_beyond_the_last_attacked_round_of_the_control_is_judged(made_up):
    rng = np.random.default_rng(32)
    [evidence] = falls_by_training(rng, 3, made_up)
    for one in judge([evidence], TOLERANCE):
        assert all(level <= 10 for part in one.parts for level in (*part.levels, *part.at)), one.claim


def test_a_seed_that_lies_apart_is_named(made_up):
    """One bad training of five: the promise is for normal seeds, and what does not look so is said."""
    evidence = made_up(np.random.default_rng(33), seeds=5, walk=(0.003,) * 3, control_levels=LEVELS)
    assert all(part.apart == () for one in judge([evidence], TOLERANCE) if one.claim == 2 for part in one.parts)
    evidence.measures[0].values[3, 1:, :100] = 0.0
    [one] = [one for one in judge([evidence], TOLERANCE) if one.claim == 2]
    assert [part.apart for part in one.parts] == [(3,), ()]
    assert "Seed 3 lies apart from the others in r_inf" in one.statement
