"""Penalties x levels of pruning on made-up studies: what is chosen is where the truth is, and noise buys neither ridge nor corner."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from isogrid.core.typed import plain, typed
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure
from isogrid.verdicts.grid import Place, surface
from isogrid.verdicts.results import Corner, Ridge

TOLERANCE = {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}
PENALTIES, LEVELS = ("", "l1(weight=1)", "l1(weight=2)"), (0, 1, 3, 4)
PLACES = [Place(penalty=penalty, level=level) for penalty in PENALTIES for level in LEVELS]
CELLS = len(PLACES)
FLAT = np.zeros((3, 4))


def grid(rng, effect=FLAT, *, kind="distance", seeds=3, samples=200, scatter=0.02):
    """Evidence over the cells, row by row, and its one measure; `effect` [penalties, levels]."""
    moved = np.asarray(effect).reshape(1, CELLS, 1) + scatter * rng.normal(size=(seeds, CELLS, 1))
    noise = (
        0.9 * rng.normal(size=(1, 1, samples)) + 0.3 * rng.normal(size=(1, CELLS, samples)) + 0.3 * rng.normal(size=(seeds, CELLS, samples))
    )
    values = (
        (1 + moved) * np.exp(0.3 * noise) if kind == "distance" else (noise < ndtri(np.clip(0.3 + moved, 1e-9, 1 - 1e-9))).astype(float)
    )
    levels = tuple(range(CELLS))
    names = {"name": "pgd@0.1", "norm": "linf", "eps": 0.1} if kind == "r_inf" else {"name": "ddn", "norm": "l2", "eps": None}
    measure = Measure(**names, attack="envelope", domain="box", kind=kind, levels=levels, values=values)
    evidence = Evidence(
        arm=Arm(data="made-up", model="network", pruner="progressive"),
        linear=False,
        sparsity=dict.fromkeys(levels, 0.0),
        levels=levels,
        correct=np.ones_like(values),
        collapsed=np.zeros((seeds, CELLS), bool),
        measures=(measure,),
    )
    return evidence


def found_in(evidence, **changes):
    return surface(evidence, replace(evidence.measures[0], **changes), PLACES, TOLERANCE)


@pytest.mark.parametrize("kind", ["r_inf", "distance"])
@pytest.mark.parametrize("scatter", [0.001, 0.02, 0.1])
def test_noise_is_told_from_chance_in_at_most_five_per_cent(kind, scatter):
    corners = ridges = total = 0
    for seeds in (2, 3, 5):
        rng = np.random.default_rng([50, seeds])
        for _ in range(60):
            found = found_in(grid(rng, kind=kind, seeds=seeds, scatter=scatter))
            corners, total = corners + found.corner.decided, total + 1
            ridges += any(one.decided for one in found.ridge)
    assert max(corners, ridges) <= stats.binom.ppf(0.99, total, ALPHA)


HILL = np.array([[0.0, 0.05, 0.1, 0.0], [0.1, 0.2, 0.5, 0.1], [0.05, 0.1, 0.2, 0.3]])


def test_ridge_and_corner_are_where_the_truth_is():
    found = found_in(grid(np.random.default_rng(51), HILL, samples=1000, scatter=0.003))
    corner = found.corner
    assert (corner.penalty, corner.level, corner.decided) == (PENALTIES[1], 3, True)
    assert corner.low < 0.5 < corner.high
    assert [(one.level, one.penalty, one.decided) for one in found.ridge] == [
        (level, PENALTIES[row], True) for level, row in zip(LEVELS, (1, 1, 1, 2), strict=True)
    ]
    for one, level in zip(found.ridge, range(4), strict=True):  # over no penalty at the same sparsity, not over dense
        truth = (1 + HILL[:, level].max()) / (1 + HILL[0, level]) - 1
        assert one.gain.low < truth < one.gain.high
    again = json.loads(json.dumps(plain([corner, list(found.ridge)]), allow_nan=False))
    assert typed(Corner, again[0], "") == corner
    assert typed(tuple[Ridge, ...], again[1], "") == found.ridge


def test_where_no_penalty_is_best_the_ridge_says_so_and_tells_no_gain():
    found = found_in(grid(np.random.default_rng(52), -HILL, samples=1000, scatter=0.003))
    assert {(one.penalty, one.decided) for one in found.ridge[:3]} == {("", False)}
    assert (found.corner.penalty, found.corner.level, found.corner.decided) == ("", 0, False)


def test_cells_that_are_no_evidence_are_not_chosen():
    evidence = grid(np.random.default_rng(53), HILL, samples=1000, scatter=0.003)
    collapsed = evidence.collapsed.copy()
    collapsed[1, PLACES.index(Place(penalty=PENALTIES[1], level=3))] = True
    found = found_in(replace(evidence, collapsed=collapsed))
    assert (found.corner.penalty, found.corner.level) == (PENALTIES[2], 4)
    assert found.ridge[2].penalty == PENALTIES[2]
    values = evidence.measures[0].values.copy()
    values[:, PLACES.index(Place(penalty="", level=3)), ::20] = np.inf  # void: the ridge there has nothing to gain over
    found = found_in(evidence, values=values)
    assert (found.ridge[2].penalty, found.ridge[2].gain, found.ridge[2].decided) == (PENALTIES[1], None, False)
    assert found.ridge[1].decided


def test_without_a_reference_there_is_no_corner_and_it_is_said_why():
    evidence = grid(np.random.default_rng(54), HILL, kind="r_inf")
    found = found_in(evidence, saturated=(0,))
    assert (found.corner, found.mute) == (None, "saturated")
    assert len(found.ridge) == 4
    every = found_in(evidence, values=np.full_like(evidence.measures[0].values, np.nan))
    assert (every.ridge, every.corner, every.mute) == ((), None, "not measured")
