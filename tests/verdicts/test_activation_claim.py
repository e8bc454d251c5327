"""Claim 4 on made-up studies: dense networks by the rising weight of a penalty, each against the one without, of the same seed."""

from __future__ import annotations

import collections
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from isogrid.core.typed import plain, typed
from isogrid.report.verdicts import claim_row
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.claims import judge
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure
from isogrid.verdicts.results import Verdict
from isogrid.verdicts.wording import OBSTACLES, PENALISED_OBSTACLES

TOLERANCE = {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}
PENALTIES = {0: "", **{k: f"l1-activations(weight={w})" for k, w in enumerate((1e-5, 3e-5, 1e-4, 1e-3), 1)}}
SHARES = dict(enumerate((0.31, 0.4, 0.52, 0.7, 0.9)))
FLAT = np.zeros(5)
SEEDS = (2, 3, 5, 8)


def axis(rng, *, seeds=3, samples=200, scatter=0.01, r_inf=FLAT, r_2=FLAT, accuracy=FLAT):
    """A study whose penalised networks differ from the one without a penalty by the given effects and, independently of each other and of
    it, by what seeds scatter; of its levels of pruning nothing was measured."""
    ease, shared = rng.normal(size=(3, 1, 1, samples)), rng.normal(size=(3, 1, 5, samples))

    def moved(effect):
        return np.asarray(effect)[None, :, None] + scatter * rng.normal(size=(seeds, 5, 1))

    def noise(kind):
        return 0.9 * ease[kind] + 0.3 * shared[kind] + 0.3 * rng.normal(size=(seeds, 5, samples))

    def right(kind, effect, share):
        return (noise(kind) < ndtri(np.clip(share + moved(effect), 1e-9, 1 - 1e-9))).astype(float)

    return study(right(0, accuracy, 0.95), right(1, r_inf, 0.3), (1 + moved(r_2)) * np.exp(0.3 * noise(2)))


def study(correct, robust, distance):
    """The study of these arrays [S, 5, N], of the network without a penalty and of four with rising ones."""
    arm, seeds = Arm(data="made-up", model="network", pruner="progressive"), len(correct)
    levels = tuple(range(5))
    common = {"domain": "box", "levels": levels, "control_levels": levels[1:], "strength": 1}

    def measure(values, **names):
        return Measure(values=values, control_values=np.repeat(values[:, :1], 4, axis=1), **names, **common)

    measures = (
        measure(robust, name="pgd@0.1", attack="pgd", norm="linf", eps=0.1, kind="r_inf"),
        measure(distance, name="ddn", attack="ddn", norm="l2", eps=None, kind="distance"),
    )
    along = Evidence(
        arm=arm,
        linear=False,
        sparsity=SHARES,
        levels=levels,
        correct=correct,
        collapsed=np.zeros((seeds, 5), bool),
        control_levels=levels[1:],
        control_correct=np.repeat(correct[:, :1], 4, axis=1),
        measures=measures,
        penalties=PENALTIES,
    )
    own = {"levels": (0,), "sparsity": {0: 0.0}, "correct": correct[:, :1], "collapsed": np.zeros((seeds, 1), bool)}
    return Evidence(arm=arm, linear=False, activations=along, **own)


def four(found):
    return next(one for one in judge([found], TOLERANCE) if one.claim == 4)


TRUE = np.array([0.0, 0.06, 0.12, 0.2, 0.1])
NOTHING = {"nothing": {}, "wild seeds": {"scatter": 0.08}, "quiet seeds": {"scatter": 0.001}}
ONE_NORM = {"r_inf alone": {"r_inf": 2 * TRUE}, "r_2 alone": {"r_2": TRUE}}


@pytest.mark.parametrize("kind", NOTHING | ONE_NORM)
def test_an_effect_that_is_not_there_in_both_norms_supports_claim_four_in_at_most_five_per_cent(kind):
    counts, each = [], 60
    for seeds in SEEDS:
        rng = np.random.default_rng([40, seeds])
        found = [four(axis(rng, seeds=seeds, **(NOTHING | ONE_NORM)[kind])).verdict for _ in range(each)]
        counts.append(found.count("supported"))
        if kind in NOTHING:
            assert found.count("contradicted") <= stats.binom.ppf(0.999, each, ALPHA)
    assert max(counts) <= stats.binom.ppf(0.999, each, ALPHA), counts
    assert sum(counts) <= stats.binom.ppf(0.99, each * len(SEEDS), ALPHA), counts


def test_an_effect_in_both_norms_is_found_though_it_falls_beyond_its_peak():
    rng, n = np.random.default_rng(41), 40
    fallen = TRUE - np.array([0, 0, 0, 0, 0.3])
    found = collections.Counter(four(axis(rng, samples=1000, r_inf=TRUE, r_2=fallen)).verdict for _ in range(n))
    assert found["supported"] >= 0.8 * n, found


def test_a_fall_at_every_penalty_contradicts_it():
    rng, n = np.random.default_rng(42), 40
    found = collections.Counter(four(axis(rng, samples=1000, scatter=0.005, r_inf=-TRUE, r_2=TRUE)).verdict for _ in range(n))
    assert found["contradicted"] >= 0.8 * n, found


@pytest.fixture
def strong():
    return axis(np.random.default_rng(43), samples=1000, scatter=0.003, r_inf=TRUE, r_2=TRUE)


def test_it_speaks_of_penalties_and_activations_not_of_rounds(strong):
    found = four(strong)
    assert found.verdict == "supported"
    assert found.control == "the network without a penalty, of the same seed and training (31.0 % of activations zero)"
    assert "l1-activations(weight=0.0001) (70.0 % of activations zero)" in found.statement
    assert "level" not in found.statement + found.control
    assert "round" not in found.statement + found.control
    assert [found.penalised[level].zeros for level in found.levels] == [SHARES[level] for level in found.levels]
    row = claim_row(typed(Verdict, plain(found), "claims.json"))
    assert "l1-activations(weight=1e-05), 40.0 % zero" in row.levels
    assert all("weight=0.0001), 70.0 % zero" in part.measure for part in row.parts)


def test_networks_that_lost_their_accuracy_take_no_part():
    lost = np.array([0, 0, 0, 0, -0.3])
    found = four(axis(np.random.default_rng(44), samples=1000, scatter=0.003, r_inf=TRUE, r_2=TRUE, accuracy=lost))
    assert {1, 3} <= set(found.levels) <= {1, 2, 3}
    none = axis(np.random.default_rng(44), samples=1000, accuracy=np.array([0, -0.3, -0.3, -0.3, -0.3]))
    assert (four(none).verdict, four(none).reason.count("no attacked network with a penalty")) == ("undecided", 2)


def test_without_penalties_it_does_not_apply_and_says_what_would_make_it(strong):
    found = four(replace(strong, activations=None))
    assert found.verdict == "not applicable"
    assert "--penalties" in found.reason


def test_holm_counts_it_among_the_claims_of_the_study(strong, made_up):
    alone, among = four(strong), four(replace(made_up(np.random.default_rng(45)), activations=strong.activations))
    assert among.p == alone.p == alone.p_holm < among.p_holm


def test_words_of_its_own_belong_to_known_obstacles():
    assert set(PENALISED_OBSTACLES) <= set(OBSTACLES)
