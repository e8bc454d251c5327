"""The split of a change of distance: factors that are put in come out, and the parts multiply to the whole."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from isogrid.verdicts.arm import Arm
from isogrid.verdicts.mechanism import FEWEST, mechanisms
from isogrid.verdicts.records import About, Attacked, Family, Level

ARM = Arm(data="made-up", model="m", objective="natural", pruner="progressive")
N = 60


def level(number, seed, gap, slope, distance, right=None):
    right = np.ones(N, bool) if right is None else right
    near = pd.DataFrame({"sample": np.arange(N), "correct": right, "gap_l2": np.where(right, gap, -gap)})
    near = near.assign(slope_l2=slope, local_l2=2 * slope)
    attacks, planned = {}, []
    for name in ("ddn", "cw"):
        about = About(id=name, name=name, norm="l2", domain="box", eps=None, role="strong", gradients=1.0)
        records = pd.DataFrame({"sample": np.arange(N), "distance": distance, "success": np.isfinite(distance)})
        attacks[name] = Attacked(about=about, records=records)
        planned.append(about)
    clean = pd.DataFrame({"label": 0, "prediction": np.where(right, 0, 1)})
    metrics = {"sparsity": number / 10, "collapsed": False}
    told = {"arm": ARM, "seed": seed, "level": number, "round": number, "metrics": metrics, "clean": clean}
    return Level(**told, planned=tuple(planned), attacks=attacks, near=near)


def family(levels):
    pruned = {(one.seed, one.level): one for one in levels}
    return Family(arm=ARM, linear=False, seeds=tuple(sorted({seed for seed, _ in pruned})), pruned=pruned, control={})


def drawn(seed):
    rng = np.random.default_rng(seed)
    gap, slope = rng.uniform(1, 3, N), rng.uniform(2, 4, N)
    return gap, slope, gap / slope * rng.uniform(0.7, 0.9, N)


@pytest.mark.parametrize("seeds", [1, 3])
def test_factors_that_are_put_in_come_out(seeds):
    levels = []
    for seed in range(seeds):
        gap, slope, distance = drawn(seed)
        levels += [level(0, seed, gap, slope, distance), level(3, seed, 0.8 * gap, 0.5 * slope, 1.2 * distance)]
    (found,) = mechanisms(family(levels))
    assert (found.norm, found.level, found.n, found.seeds, found.domain) == ("l2", 3, N, seeds, "box")
    for name, factor in (("margin", 0.8), ("slope", 0.5), ("quotient", 1.6), ("local", 0.5), ("distance", 1.2), ("rest", 1.2 * 0.5 / 0.8)):
        ratio = getattr(found, name)
        assert ratio.effect == pytest.approx(factor - 1, abs=1e-12)
        assert ratio.low == pytest.approx(ratio.high)
        assert ratio.moved == ("fell" if factor < 1 else "rose")


def test_the_parts_multiply_to_the_whole_and_intervals_hold_them():
    rng = np.random.default_rng(1)
    gap, slope, distance = drawn(0)
    noise = [np.exp(0.1 * rng.normal(size=N)) for _ in range(3)]
    (found,) = mechanisms(family([level(0, 0, gap, slope, distance), level(1, 0, gap * noise[0], slope * noise[1], distance * noise[2])]))
    assert (1 + found.margin.effect) / (1 + found.slope.effect) * (1 + found.rest.effect) == pytest.approx(1 + found.distance.effect)
    for ratio, factor in ((found.margin, noise[0]), (found.slope, noise[1])):
        assert ratio.effect == pytest.approx(math.expm1(np.log(factor).mean()))
        half = (math.log1p(ratio.high) - math.log1p(ratio.low)) / 2
        assert half == pytest.approx(1.67 * np.log(factor).std(ddof=1) / math.sqrt(N), rel=0.01)  # Student's t of 59


def test_samples_that_either_level_gets_wrong_take_no_part():
    gap, slope, distance = drawn(0)
    right = np.arange(N) % 2 == 0
    after = np.where(right, 0.5, 7.0) * gap
    (found,) = mechanisms(family([level(0, 0, gap, slope, distance), level(1, 0, after, slope, np.where(right, distance, 0.0), right)]))
    assert found.n == N // 2
    assert found.margin.effect == pytest.approx(-0.5)
    few = np.arange(N) < FEWEST - 1
    assert list(mechanisms(family([level(0, 0, gap, slope, distance), level(1, 0, gap, slope, distance, few)]))) == []


def test_failures_void_the_distance_and_nothing_else():
    gap, slope, distance = drawn(0)
    failed = np.where(np.arange(N) < 3, np.inf, distance)
    (found,) = mechanisms(family([level(0, 0, gap, slope, distance), level(1, 0, gap, 2 * slope, failed)]))
    assert found.distance is None
    assert found.rest is None
    assert found.slope.effect == pytest.approx(1.0)
    assert found.n == N
