"""The verdict rule itself, on made-up studies: pure noise, effects of PAPER.md's size, the contrary; and every way not to decide."""

from __future__ import annotations

import collections
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri

from isogrid.study.claims import ALPHA, Evidence, Measure, judge, recommend
from isogrid.study.evidence import primaries, table

TOLERANCE = {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}
LEVELS = tuple(range(15))
FLAT = np.zeros(len(LEVELS))


def curve(*points):
    """A value per level, piecewise linear through (level, value)."""
    return np.interp(LEVELS, *zip(*points, strict=True))


def study(
    rng,
    *,
    seeds=3,
    samples=200,
    twin_levels=(0, 6, 10),
    walk=(0.03, 0.03, 0.03),
    start=0.02,
    together=0.7,
    shared=0.3,
    own=0.3,
    base=(0.94, 0.2, 0.9),
    effect=(FLAT, FLAT, FLAT),
    drift=(FLAT, FLAT, FLAT),
    linear=False,
):
    """A made-up study. Accuracy, r_inf and mean distance start at `base` (seeds differ by `start`), move by `effect` along the levels,
    by `drift` along the rounds of training, sparse network and twin alike, and by a random walk per seed (standard deviation `walk` at
    the last level; correlation `together` between the three figures; the twin has a walk of its own). Each sample is as hard in every seed and level, up to noise of a share `shared` that all seeds
    have in common and one, `own`, that nobody has."""

    def walks():
        steps = rng.normal(size=(4, seeds, len(LEVELS)))
        steps[:, :, 0] = 0
        paths = steps.cumsum(2) / np.sqrt(len(LEVELS) - 1)
        return [scale * (together * paths[3] + np.sqrt(1 - together**2) * paths[k]) for k, scale in enumerate(walk)]

    begin = rng.normal(size=(3, seeds, 1)) * start * np.array([0.3, 1, 1])[:, None, None]
    ease = rng.standard_normal((3, 1, 1, samples), np.float32) * np.float32(np.sqrt(1 - shared**2 - own**2))

    def arrays(levels, paths, effects):
        K = len(levels)
        moved = [begin[k] + paths[k][:, levels] + effects[k][list(levels)] for k in range(3)]
        noise = [
            ease[k] + shared * rng.standard_normal((1, K, samples), np.float32) + own * rng.standard_normal((seeds, K, samples), np.float32)
            for k in range(3)
        ]
        share = [ndtri(np.clip(base[k] + moved[k], 1e-9, 1 - 1e-9))[:, :, None] for k in range(2)]
        correct = (noise[0] < share[0]).astype(float)
        distance = correct * (1 + moved[2])[:, :, None] * np.maximum(base[2] + 0.35 * noise[2], 0.01)
        return correct, (noise[1] < share[1]).astype(float), distance

    sparse = arrays(LEVELS, walks(), np.add(effect, drift))
    twin = [values.copy() for values in arrays(twin_levels, walks(), drift)] if twin_levels else [None] * 3
    if 0 in twin_levels:
        for values, reference in zip(twin, sparse, strict=True):
            values[:, 0] = reference[:, 0]
    common = {"domain": "box", "levels": LEVELS, "twin_levels": twin_levels}
    pgd = Measure(name="pgd@0.1", attack="pgd", norm="linf", eps=0.1, kind="r_inf", values=sparse[1], twin_values=twin[1], **common)
    ddn = Measure(name="ddn", attack="ddn", norm="l2", eps=None, kind="distance", values=sparse[2], twin_values=twin[2], **common)
    return Evidence(
        data="made-up",
        model="network",
        method="progressive",
        linear=linear,
        sparsity={level: 1 - (2 / 3) ** level for level in LEVELS},
        levels=LEVELS,
        correct=sparse[0],
        collapsed=np.zeros((seeds, len(LEVELS)), bool),
        twin_levels=twin_levels,
        twin_correct=twin[0],
        measures=(pgd, ddn),
    )


def verdicts(evidence):
    return {one["claim"]: one["verdict"] for one in judge([evidence], TOLERANCE)}


# Figures that move with training alone, as the linear model's do on mnist-5k: between the attacked rounds in a straight line
DRIFT = (FLAT, curve((0, 0.1), (6, 0.0)), curve((0, 0.25), (6, 0.04), (10, 0.0)))

# accuracy is lost from level 5 on, so that the levels compared were trained less than the twin's attacked rounds
LOSES = (curve((0, 0), (5, 0), (6, -0.06), (14, -0.06)), FLAT, FLAT)

NOISE = {
    "samples only": {"walk": (0.001,) * 3, "start": 0.0},
    "seeds like samples": {},
    "seeds dominate": {"walk": (0.1,) * 3},
    "figures move together": {"walk": (0.1,) * 3, "together": 0.99},
    "wild seeds": {"walk": (0.2,) * 3, "together": 0.99},
    "levels noisy on samples": {"shared": 0.6, "own": 0.1},
    "linear": {"linear": True},
    "linear, wild seeds": {"linear": True, "walk": (0.1,) * 3, "together": 0.99},
    "one claim only": {"twin_levels": (), "together": 0.99, "walk": (0.1,) * 3},
    "one thousand samples": {"samples": 1000},
    "training alone moves linear": {"linear": True, "drift": DRIFT, "effect": LOSES, "walk": (0.003, 0.02, 0.02), "samples": 1000},
    "training alone moves": {"drift": DRIFT, "effect": LOSES, "walk": (0.003, 0.02, 0.02), "samples": 1000},
}


def test_pure_noise_supports_a_claim_in_at_most_five_per_cent_of_the_studies():
    """2,000 studies, ten kinds of noise; `any claim of a study` is counted, and no kind may exceed its own margin either."""
    each, supported, contradicted = 200, collections.Counter(), collections.Counter()
    for index, (kind, settings) in enumerate(NOISE.items()):
        rng = np.random.default_rng([1, index])
        for _ in range(each):
            found = verdicts(study(rng, **settings)).values()
            supported[kind] += "supported" in found
            contradicted[kind] += "contradicted" in found
    for counted in (supported, contradicted):
        assert counted.total() <= stats.binom.ppf(0.99, each * len(NOISE), ALPHA), counted
        assert max(counted.values()) <= stats.binom.ppf(0.999, each, ALPHA), counted


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_pure_noise_of_every_kind_on_its_own(kind, seeds):
    rng, n = np.random.default_rng([2, seeds]), 500
    found = [verdicts(study(rng, seeds=seeds, **NOISE[kind])).values() for _ in range(n)]
    for verdict in ("supported", "contradicted"):
        assert sum(verdict in one for one in found) <= stats.binom.ppf(0.999, n, ALPHA)


PAPER = {
    # "What first measurements here showed": softmax regression, FGS and DeepFool; its seeds differ little, the problem is convex
    1: {
        "linear": True,
        "base": (0.904, 0.274, 0.86),
        "walk": (0.005, 0.01, 0.01),
        "effect": (curve((0, 0), (6, -0.024), (9, -0.066)), curve((0, 0), (6, 0.158), (9, 0.216)), curve((0, 0), (6, -0.226), (9, -0.49))),
    },
    # the two-seed control of equal training (penalty 1e-3): PGD 0.14 -> 0.35, r_2 0.973 -> 1.019; fragile beyond 97 %. Its contrasts
    # scatter by 0.018 and 0.001 between the seeds; those made up here by about 0.02 and 0.005
    2: {
        "base": (0.955, 0.144, 0.973),
        "walk": (0.01, 0.03, 0.005),
        "effect": (
            curve((0, 0), (8, 0), (10, -0.04), (14, -0.5)),
            curve((0, 0), (5, 0.15), (7, 0.21), (9, 0.21), (12, 0.05), (14, -0.1)),
            curve((0, 0), (1, 0.047), (8, 0.047), (10, -0.1), (14, -0.7)),
        ),
    },
    # LeNet-300-100: FGS 0.16 -> 0.356 at 98.3 %, 0.21 at 99.5 %; r_2 0.854 -> 0.785, 0.316; accuracy 0.945 -> 0.529
    3: {
        "base": (0.945, 0.16, 0.854),
        "walk": (0.01, 0.03, 0.03),
        "effect": (
            curve((0, 0), (6, -0.003), (10, -0.019), (13, -0.416)),
            curve((0, 0), (6, 0.146), (10, 0.196), (13, 0.05), (14, 0)),
            curve((0, 0), (6, 0.02), (10, -0.08), (13, -0.63)),
        ),
    },
}


@pytest.mark.parametrize("claim", PAPER)
def test_effects_of_the_papers_size_are_supported_in_at_least_eighty_per_cent(claim):
    rng, n = np.random.default_rng([3, claim]), 100
    found = collections.Counter(verdicts(study(rng, samples=1000, **PAPER[claim]))[claim] for _ in range(n))
    assert found["supported"] >= 0.8 * n, found
    assert found["contradicted"] == 0


CONTRARY = {
    "1: r_inf falls": (1, {"linear": True, "base": (0.94, 0.4, 0.9), "effect": (FLAT, curve((0, 0), (1, -0.2)), FLAT)}),
    "1: r_2 rises": (1, {"linear": True, "effect": (FLAT, curve((0, 0), (1, 0.2)), curve((0, 0), (1, 0.25)))}),
    "2: l2 falls": (2, {"effect": (FLAT, curve((0, 0), (1, 0.15)), curve((0, 0), (1, -0.25)))}),
    "2: both fall": (2, {"base": (0.94, 0.4, 0.9), "effect": (FLAT, curve((0, 0), (1, -0.2)), curve((0, 0), (1, -0.25)))}),
    "3: still rising": (3, {"effect": (curve((0, 0), (13, 0), (14, -0.2)), curve((13, 0.2), (14, 0.6)), curve((13, 0), (14, 0.5)))}),
}


@pytest.mark.parametrize("name", CONTRARY)
def test_contradicting_studies_are_contradicted(name):
    claim, settings = CONTRARY[name]
    rng, n = np.random.default_rng([4, claim]), 40
    found = collections.Counter(verdicts(study(rng, samples=500, walk=(0.01, 0.02, 0.02), **settings))[claim] for _ in range(n))
    assert found["contradicted"] >= 0.8 * n, found
    assert found["supported"] == 0


def test_a_rise_to_the_last_level_contradicts_nothing_while_accuracy_is_kept():
    settings = CONTRARY["3: still rising"][1] | {"effect": (FLAT, *CONTRARY["3: still rising"][1]["effect"][1:])}
    assert verdicts(study(np.random.default_rng(5), samples=500, walk=(0.01, 0.02, 0.02), **settings))[3] == "undecided"


@pytest.fixture
def strong():
    """A study in which claims 2 and 3 are plain."""
    settings = PAPER[2] | {"walk": (0.002, 0.005, 0.002), "samples": 500}
    evidence = study(np.random.default_rng(6), **settings)
    assert verdicts(evidence) == {1: "not applicable", 2: "supported", 3: "supported", 4: "not applicable", 5: "not applicable"}
    return evidence


def change(evidence, index, **changes):
    measures = list(evidence.measures)
    measures[index] = replace(measures[index], **changes)
    return replace(evidence, measures=tuple(measures))


def the(evidence, claim):
    return next(one for one in judge([evidence], TOLERANCE) if one["claim"] == claim)


def test_one_seed_decides_nothing(strong):
    measures = tuple(replace(m, values=m.values[:1], twin_values=m.twin_values[:1]) for m in strong.measures)
    one = replace(strong, correct=strong.correct[:1], collapsed=strong.collapsed[:1], measures=measures)
    for claim in (2, 3):
        assert the(one, claim)["verdict"] == "undecided"
        assert "one seed" in the(one, claim)["reason"]
        assert the(one, claim)["parts"][0]["p"] is None
    assert "One seed" in recommend([one], TOLERANCE)[0]["sentences"][-1]


@pytest.mark.parametrize("twin", [(), (0,)])
def test_no_twin_is_no_control(strong, twin):
    measures = [replace(m, twin_levels=twin, twin_values=m.twin_values[:, : len(twin)] if twin else None) for m in strong.measures]
    found = verdicts(replace(strong, measures=tuple(measures)))
    assert found[2] == "no control"
    assert found[3] == "supported"


def test_claim_two_needs_both_norms(strong):
    alone = replace(strong, measures=strong.measures[:1])
    assert verdicts(alone)[2] == verdicts(alone)[3] == "undecided"
    assert "l2" in the(alone, 2)["reason"]
    assert verdicts(replace(strong, measures=()))[2] == "no control"


def test_collapsed_saturated_void_and_missing_levels_take_no_part(strong):
    collapsed = strong.collapsed.copy()
    collapsed[1, 14] = True
    values = strong.measures[1].values.copy()
    values[0, 3, np.flatnonzero(values[0, 3] > 0)[:20]] = np.inf  # more than 1 % failures in one seed
    values[:, 5, np.flatnonzero(values[:, 5].min(0) > 0)[:1]] = np.inf  # less
    values[2, 4] = np.nan
    evidence = change(replace(strong, collapsed=collapsed), 1, values=values, saturated=(7,))
    rows = table(evidence, evidence.measures[1])
    assert rows.left_out == {14: "collapsed", 7: "saturated", 3: "void", 4: "not measured in every seed"}
    assert rows.failed == 3
    assert np.isfinite(rows.values).all()
    used = the(evidence, 2)["parts"][1]["levels"]
    assert {3, 4, 7, 14}.isdisjoint(used)
    assert the(evidence, 3)["parts"][1]["levels"] == [13]


def test_a_saturated_twin_leaves_the_claim_undecided(strong):
    found = the(change(strong, 0, twin_saturated=(6, 10)), 2)
    assert found["verdict"] == "undecided"
    assert "saturated" in found["reason"]


def test_a_failed_seed_is_left_out(strong):
    values = [m.values.copy() for m in strong.measures]
    for array in values:
        array[1] = np.nan
    evidence = change(change(strong, 0, values=values[0]), 1, values=values[1])
    assert the(evidence, 2)["parts"][0]["seeds"] == 2


def test_levels_that_lost_their_accuracy_are_no_part_of_claim_two(strong):
    used = the(strong, 2)["levels"]
    assert 0 not in used
    assert {1, 5, 8} <= set(used)
    assert {11, 12, 13, 14}.isdisjoint(used)


def test_holm_covers_all_claims_of_the_study(strong):
    alone = the(strong, 2)
    noise = [study(np.random.default_rng([7, k])) for k in range(3)]
    among = next(one for one in judge([strong, *noise], TOLERANCE) if one["claim"] == 2)
    assert among["p"] == alone["p"] <= alone["p_holm"] < among["p_holm"]


def test_primaries_look_at_no_outcome():
    def measure(attack, eps, norm="linf", twin=True, **other):
        values = np.zeros((1, 2, 8))
        kind = "r_inf" if norm == "linf" else "distance"
        fields = {"name": f"{attack}@{eps}", "attack": attack, "norm": norm, "domain": "box", "eps": eps, "kind": kind, "levels": (0, 1)}
        controlled = {"twin_levels": (0, 1), "twin_values": values} if twin else {}
        return Measure(**(fields | {"values": values} | controlled | other))

    offers = [measure("fgs", 0.1), measure("pgd", 0.1), measure("envelope", 0.1, twin=False)]
    assert primaries(offers)["linf"].name == "pgd@0.1"  # the envelope has no twin
    assert primaries([*offers, measure("envelope", 0.2)])["linf"].name == "envelope@0.2"
    assert primaries([*offers, measure("fgs", 0.3, primary=True)])["linf"].name == "fgs@0.3"
    assert primaries([measure("pgd", eps) for eps in (0.2, 0.05, 0.1, 0.4)])["linf"].eps == 0.1
    assert primaries([measure("deepfool", None, "l2", domain="free"), measure("cw", None, "l2")])["l2"].attack == "cw"
    assert primaries([measure("mine", 0.1), measure("fgs", 0.1)])["linf"].attack == "fgs"


def test_secondary_measures_are_reported_and_decide_nothing(strong):
    weak = replace(strong.measures[0], name="fgs@0.1", attack="fgs", values=1 - strong.measures[0].values)
    found = the(replace(strong, measures=(*strong.measures, weak)), 2)
    assert found["verdict"] == "supported"
    assert [part["measure"] for part in found["parts"]] == ["pgd@0.1", "ddn", "fgs@0.1"]
    assert [part["role"] for part in found["parts"]] == ["primary", "primary", "secondary"]


def test_deep_networks_are_judged_once():
    found = verdicts(replace(study(np.random.default_rng(8)), data="cifar10", model="resnet-32"))
    assert found[2] == "not applicable"
    assert found[5] == "undecided"


def test_verdicts_are_plain_json_and_say_what_they_mean(strong):
    found = judge([strong], TOLERANCE)
    json.dumps(found, allow_nan=False)
    assert [one["claim"] for one in found] == [1, 2, 3, 4, 5]
    two = found[1]
    assert two["interval"][0] < two["effect"] < two["interval"][1]
    assert two["control"] == "dense twin of equal training, levels 6, 10"
    assert "supported" in two["statement"]
    assert "r_inf (pgd, eps 0.1, box) +0." in two["statement"]
    assert all(one["reason"] for one in found if one["verdict"] == "not applicable")


MISFITS = [
    {"levels": (1, *range(2, 16))},
    {"collapsed": np.zeros((2, 15), bool)},
    {"correct": np.zeros((3, 4, 10))},
    {"sparsity": {0: 0.0}},
]


@pytest.mark.parametrize("changes", MISFITS)
def test_tables_that_do_not_fit_are_refused(strong, changes):
    with pytest.raises(ValueError, match="accepted"):
        replace(strong, **changes)


def test_a_twin_on_other_samples_is_refused(strong):
    with pytest.raises(ValueError, match="twin"):
        change(strong, 0, twin_values=strong.measures[0].twin_values[:, :, :-1])


# the recommendation


def test_recommendation_finds_the_plain_levels():
    settings = PAPER[2] | {"walk": (0.001, 0.003, 0.001), "start": 0.01, "shared": 0.1, "own": 0.1, "samples": 1000}
    (found,) = recommend([study(np.random.default_rng(12), **settings)], TOLERANCE)
    json.dumps(found, allow_nan=False)
    linf, l2 = found["most_robust"]
    assert linf["norm"] == "linf"
    assert 6 <= linf["level"] <= 10
    assert linf["decided"]
    assert linf["low"] < 0.21 < linf["high"]
    assert 1 <= l2["level"] <= 8
    assert l2["level"] in l2["equal_levels"]
    assert 7 <= found["compromise"]["level"] <= 9
    assert found["compromise"]["decided"]
    assert 8 <= found["highest_sparsity"]["level"] <= 9
    assert found["highest_sparsity"]["stopped_at"] == found["highest_sparsity"]["level"] + 1
    assert 9 <= found["first_fragile"]["level"] <= 10
    assert len(found["sentences"]) == 5


def test_recommendation_says_undecided_where_nothing_is_shown():
    (found,) = recommend([study(np.random.default_rng(9), walk=(0.3,) * 3)], TOLERANCE)
    assert found["highest_sparsity"]["level"] == 0
    assert "Undecided" in found["highest_sparsity"]["sentence"]
    assert not found["compromise"]["decided"]
    assert "undecided" in found["compromise"]["sentence"]


def test_a_collapsed_level_is_fragile_without_a_test():
    evidence = study(np.random.default_rng(10))
    collapsed = evidence.collapsed.copy()
    collapsed[0, 12:] = True
    (found,) = recommend([replace(evidence, collapsed=collapsed)], TOLERANCE)
    assert found["first_fragile"]["level"] == 12
    assert "collapsed" in found["first_fragile"]["sentence"]
    collapsed[:] = True
    (found,) = recommend([replace(evidence, collapsed=collapsed)], TOLERANCE)
    assert "dense reference is collapsed" in found["sentences"][0]


def test_a_saturated_reference_mutes_its_norm(strong):
    (found,) = recommend([change(strong, 0, saturated=(0,))], TOLERANCE)
    assert [one["norm"] for one in found["most_robust"]] == ["l2"]
    assert any("linf: undecided" in sentence for sentence in found["sentences"])


def test_searches_along_the_levels_rarely_err():
    """Truth: every level as good as dense (nothing is fragile), or every sparse level less accurate by just a tolerance (none is kept)."""
    rng, n, wrong = np.random.default_rng(11), 150, collections.Counter()
    quiet = {"walk": (0.004,) * 3, "start": 0.01}
    below = (np.where(np.array(LEVELS) > 0, -TOLERANCE["accuracy"], 0), FLAT, FLAT)
    for _ in range(n):
        wrong["fragile"] += recommend([study(rng, **quiet)], TOLERANCE)[0]["first_fragile"]["level"] is not None
        wrong["kept"] += recommend([study(rng, effect=below, **quiet)], TOLERANCE)[0]["highest_sparsity"]["level"] > 0
    assert max(wrong.values()) <= stats.binom.ppf(0.999, n, 0.05), wrong
