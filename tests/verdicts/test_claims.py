"""The verdict rule itself, on made-up studies: pure noise, effects of PAPER.md's size, the contrary; and every way not to decide."""

from __future__ import annotations

import collections
import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from isogrid.core.typed import plain, typed
from isogrid.metrics.statistics import choosing
from isogrid.verdicts import claims
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.contrasts import Obstacle
from isogrid.verdicts.evidence import ALPHA, Measure, primaries, table
from isogrid.verdicts.results import Verdict
from isogrid.verdicts.wording import OBSTACLES

TOLERANCE = {"r_inf": 0.02, "distance": 0.03, "accuracy": 0.02}
LEVELS = tuple(range(15))
FLAT = np.zeros(len(LEVELS))


def curve(*points):
    """A value per level, piecewise linear through (level, value)."""
    return np.interp(LEVELS, *zip(*points, strict=True))


def judge(evidence, tolerance):
    """As claims.json has it."""
    return plain(claims.judge(evidence, tolerance))


def verdicts(evidence):
    return {one["claim"]: one["verdict"] for one in judge([evidence], TOLERANCE)}


# The dense control of the linear model on mnist-5k, rounds 0 to 14 (FGS and DeepFool, three seeds): its figures fall by training alone
R_INF = np.array([0.149, 0.114, 0.095, 0.082, 0.064, 0.057, 0.051, 0.047, 0.045, 0.042, 0.039, 0.038, 0.037, 0.036, 0.034])
R_2 = np.array([0.708, 0.657, 0.620, 0.593, 0.570, 0.552, 0.538, 0.526, 0.515, 0.505, 0.498, 0.491, 0.485, 0.479, 0.474])
MEASURED = (FLAT, R_INF - R_INF[0], R_2 / R_2[0] - 1)
STRAIGHT = (FLAT, curve((0, 0.0), (6, -0.1)), curve((0, 0.0), (6, -0.2), (10, -0.25)))
# accuracy is lost from level 6 on, so that the levels compared were trained less than the attacked controls
TRAINED = {
    "base": (0.904, 0.149, 0.83),
    "effect": (curve((0, 0), (5, 0), (6, -0.06), (14, -0.06)), FLAT, FLAT),
    "walk": (0.003, 0.01, 0.01),
    "samples": 1000,
}

NOISE = {
    "samples only": {"walk": (0.001,) * 3, "start": 0.0},
    "seeds like samples": {},
    "seeds dominate": {"walk": (0.1,) * 3},
    "figures move together": {"walk": (0.1,) * 3, "together": 0.99},
    "wild seeds": {"walk": (0.2,) * 3, "together": 0.99},
    "levels noisy on samples": {"shared": 0.6, "own": 0.1},
    "linear": {"linear": True},
    "linear, wild seeds": {"linear": True, "walk": (0.1,) * 3, "together": 0.99},
    "control attacked at every round": {"control_levels": LEVELS, "together": 0.99, "walk": (0.1,) * 3},
    "one thousand samples": {"samples": 1000},
    "training moves both, linear": TRAINED | {"linear": True, "drift": MEASURED},
    "training moves both": TRAINED | {"drift": MEASURED},
    "training moves both, straight, linear": TRAINED | {"linear": True, "drift": STRAIGHT},
    "training moves both, straight": TRAINED | {"drift": STRAIGHT},
    "training makes both more robust": TRAINED | {"drift": tuple(-move for move in MEASURED)},
}


@pytest.mark.slow
def test_pure_noise_supports_a_claim_in_at_most_five_per_cent_of_the_studies(made_up):
    """2,000 studies, 15 kinds of noise; `any claim of a study` is counted, and no kind may exceed its own margin either."""
    each, supported, contradicted = 134, collections.Counter(), collections.Counter()
    for index, (kind, settings) in enumerate(NOISE.items()):
        rng = np.random.default_rng([1, index])
        for _ in range(each):
            found = verdicts(made_up(rng, **settings)).values()
            supported[kind] += "supported" in found
            contradicted[kind] += "contradicted" in found
    for counted in (supported, contradicted):
        assert counted.total() <= stats.binom.ppf(0.99, each * len(NOISE), ALPHA), counted
        assert max(counted.values()) <= stats.binom.ppf(0.999, each, ALPHA), counted


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_pure_noise_of_every_kind_on_its_own(kind, seeds, made_up):
    rng, n = np.random.default_rng([2, seeds]), 500
    found = [verdicts(made_up(rng, seeds=seeds, **NOISE[kind])).values() for _ in range(n)]
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
def test_effects_of_the_papers_size_are_supported_in_at_least_eighty_per_cent(claim, made_up):
    rng, n = np.random.default_rng([3, claim]), 100
    found = collections.Counter(verdicts(made_up(rng, samples=1000, **PAPER[claim]))[claim] for _ in range(n))
    assert found["supported"] >= 0.8 * n, found
    assert found["contradicted"] == 0


CONTRARY = {
    "1: r_inf falls": (1, {"linear": True, "base": (0.94, 0.4, 0.9), "effect": (FLAT, curve((0, 0), (1, -0.2)), FLAT)}),
    "1: r_2 rises": (1, {"linear": True, "effect": (FLAT, curve((0, 0), (1, 0.2)), curve((0, 0), (1, 0.25)))}),
    "2: l2 falls": (2, {"effect": (FLAT, curve((0, 0), (1, 0.15)), curve((0, 0), (1, -0.25)))}),
    "2: both fall": (2, {"base": (0.94, 0.4, 0.9), "effect": (FLAT, curve((0, 0), (1, -0.2)), curve((0, 0), (1, -0.25)))}),
    "3: still rising": (3, {"effect": (curve((0, 0), (13, 0), (14, -0.2)), curve((13, 0.2), (14, 0.6)), curve((13, 0), (14, 0.5)))}),
}


# the walk of seeds as first measured: 1 % of r_2 between dense and the last level
BEYOND = {
    "r_2 rises by 5 % and falls by 60 %": curve((0, 0), (3, 0.05), (8, 0.05), (9, -0.05), (14, -0.55)),
    "r_2 is level and falls by 60 %": curve((0, 0), (6, 0), (14, -0.6)),
    "r_2 is level once and falls": curve((0, 0), (1, 0), (14, -0.6)),
    "r_2 rises late": curve((0, 0), (7, -0.05), (9, 0.0), (10, -0.1), (14, -0.3)),
}
RISING = curve((0, 0), (8, 0.13), (14, 0.02))


@pytest.mark.parametrize("name", BEYOND)
def test_what_lies_beyond_the_threshold_contradicts_no_rise_up_to_it(name, made_up):
    """Accuracy is kept to the end, so that every level counts: where some level is as good as its control, claim 2 may be true."""
    rng, n = np.random.default_rng([20, len(name)]), 60
    settings = {"samples": 500, "walk": (0.01,) * 3, "base": (0.94, 0.15, 0.95), "effect": (FLAT, RISING, BEYOND[name])}
    found = collections.Counter(verdicts(made_up(rng, control_levels=LEVELS, **settings))[2] for _ in range(n))
    assert found["contradicted"] <= stats.binom.ppf(0.999, n, ALPHA), found


def test_a_rise_up_to_a_threshold_is_supported_whatever_comes_after(made_up):
    rng, n = np.random.default_rng(21), 40
    settings = {"samples": 1000, "walk": (0.005, 0.01, 0.005), "base": (0.94, 0.15, 0.95)}
    effect = (FLAT, RISING, BEYOND["r_2 rises by 5 % and falls by 60 %"])
    found = collections.Counter(verdicts(made_up(rng, effect=effect, **settings))[2] for _ in range(n))
    assert found["supported"] >= 0.8 * n, found


@pytest.mark.parametrize("falling", [curve((0, 0), (1, -0.05), (14, -0.6)), curve((0, 0), (1, -0.1))])
def test_a_fall_from_the_first_level_on_contradicts_claim_two(falling, made_up):
    rng, n = np.random.default_rng(22), 40
    settings = {"samples": 1000, "walk": (0.005,) * 3, "base": (0.94, 0.15, 0.95), "effect": (FLAT, RISING, falling)}
    judged = [the(made_up(rng, **settings), 2) for _ in range(n)]
    found = collections.Counter(one["verdict"] for one in judged)
    assert found["contradicted"] >= 0.8 * n, found
    assert found["supported"] == 0
    for part in (one["parts"][1] for one in judged if one["verdict"] == "contradicted"):
        assert part["high"] < 0
        assert len(part["at"]) == 1  # the level that is hardest to establish, not the peak


def test_a_late_fall_hides_no_early_rise_of_r_2_in_a_linear_model(made_up):
    """Claim 1 says that r_2 stays level or falls from the first round on: here it is 15 % above the control at levels 1 to 3."""
    effect = (FLAT, curve((0, 0), (6, 0.15)), curve((0, 0), (1, 0.15), (3, 0.15), (5, -0.1), (14, -0.6)))
    rng, n = np.random.default_rng(23), 40
    found = [the(made_up(rng, linear=True, samples=500, walk=(0.005,) * 3, effect=effect), 1) for _ in range(n)]
    assert all(one["verdict"] != "supported" for one in found)
    assert sum(one["verdict"] == "contradicted" for one in found) >= 0.8 * n
    assert set(found[0]["parts"][1]["at"]) <= {1, 2, 3}


@pytest.mark.parametrize("name", CONTRARY)
def test_contradicting_studies_are_contradicted(name, made_up):
    claim, settings = CONTRARY[name]
    rng, n = np.random.default_rng([4, claim]), 40
    found = collections.Counter(verdicts(made_up(rng, samples=500, walk=(0.01, 0.02, 0.02), **settings))[claim] for _ in range(n))
    assert found["contradicted"] >= 0.8 * n, found
    assert found["supported"] == 0


def test_a_rise_to_the_last_level_contradicts_nothing_while_accuracy_is_kept(made_up):
    settings = CONTRARY["3: still rising"][1] | {"effect": (FLAT, *CONTRARY["3: still rising"][1]["effect"][1:])}
    assert verdicts(made_up(np.random.default_rng(5), samples=500, walk=(0.01, 0.02, 0.02), **settings))[3] == "undecided"


@pytest.fixture
def strong(made_up):
    """A study in which claims 2 and 3 are plain."""
    settings = PAPER[2] | {"walk": (0.002, 0.005, 0.002), "samples": 500}
    evidence = made_up(np.random.default_rng(6), **settings)
    assert verdicts(evidence) == {1: "not applicable", 2: "supported", 3: "supported", 4: "not applicable", 5: "not applicable"}
    return evidence


def change(evidence, index, **changes):
    measures = list(evidence.measures)
    measures[index] = replace(measures[index], **changes)
    return replace(evidence, measures=tuple(measures))


def the(evidence, claim):
    return next(one for one in judge([evidence], TOLERANCE) if one["claim"] == claim)


def test_one_seed_decides_nothing(strong):
    measures = tuple(replace(m, values=m.values[:1], control_values=m.control_values[:1]) for m in strong.measures)
    one = replace(strong, correct=strong.correct[:1], collapsed=strong.collapsed[:1], measures=measures)
    for claim in (2, 3):
        assert the(one, claim)["verdict"] == "undecided"
        assert "one seed" in the(one, claim)["reason"]
        assert the(one, claim)["parts"][0]["p"] is None


@pytest.mark.parametrize("control", [(), (0,)])
def test_no_control_is_no_control(strong, control):
    values = [m.control_values[:, : len(control)] if control else None for m in strong.measures]
    measures = tuple(replace(m, control_levels=control, control_values=some) for m, some in zip(strong.measures, values, strict=True))
    found = verdicts(replace(strong, measures=measures))
    assert found[2] == found[3] == "no control"


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


def test_a_saturated_control_leaves_the_claim_undecided(strong):
    found = the(change(strong, 0, control_saturated=(6, 10, 14)), 2)
    assert found["verdict"] == "undecided"
    assert "saturated" in found["reason"]


def test_a_saturated_round_of_the_control_is_no_anchor(strong):
    part = the(change(strong, 0, control_saturated=(6,)), 2)["parts"][0]
    assert part["against"] == [0, 10]
    part = the(change(strong, 0, saturated=(0,)), 2)["parts"][0]
    assert part["against"] == [6, 10]
    assert min(part["levels"]) == 6  # no round before it to interpolate from


@pytest.mark.parametrize("straight", [True, False])
def test_each_level_meets_the_control_at_its_own_round(made_up, straight):
    """Where the control moves on the scale of interpolation, the interpolated control is the true one, however few were attacked."""
    evidence = made_up(np.random.default_rng(15), control_levels=LEVELS, samples=50)
    scale = np.arange(15) if straight else np.log1p(np.arange(15))
    moves = np.random.default_rng(16).normal(size=(3, 1, 50)) * scale[:, None]
    values = evidence.measures[1].values * 0 + 1 + 0.01 * moves
    every = change(evidence, 1, values=values, control_values=values)
    for rounds in ((6, 10, 14), (3, 14), LEVELS):
        some = change(every, 1, control_levels=rounds, control_values=values[:, list(rounds)])
        rows = table(some, some.measures[1])
        assert rows.control_levels == tuple(sorted({0, *rounds}))
        weights = rows.control_weights(straight)
        np.testing.assert_allclose(np.einsum("tl,stn->sln", weights, rows.control), rows.values, atol=1e-12)
        np.testing.assert_allclose(weights.sum(0), 1)
    later = change(every, 1, control_levels=(6,), control_values=values[:, [6]])
    rows = table(later, later.measures[1])
    assert rows.control_weights(straight)[:, 7:].tolist() == [[0.0] * 8] * 2  # what training does later is not known
    assert rows.with_control().levels == (0, 1, 2, 3, 4, 5, 6)


def test_a_control_attacked_at_every_round_needs_no_interpolation(made_up):
    evidence = made_up(np.random.default_rng(17), control_levels=LEVELS, **PAPER[2])
    found = the(evidence, 2)
    assert "interpolated" not in found["control"] + found["statement"]
    assert found["parts"][0]["against"] == found["parts"][0]["levels"]
    assert found["parts"][0]["straight_effect"] is None


def test_a_conclusion_must_hold_on_both_scales_of_interpolation(made_up):
    """r_2 rises by 5.8 % beyond a control that moves with log(1 + k), by 1.7 % beyond straight lines, at a tolerance of 3 %."""
    drift = (FLAT, FLAT, -0.2 * np.log1p(LEVELS) / np.log(7))
    effect = (TRAINED["effect"][0], FLAT, curve((0, 0), (1, 0.05)))
    evidence = made_up(np.random.default_rng(18), linear=True, **(TRAINED | {"effect": effect, "drift": drift, "walk": (0.002,) * 3}))
    found = the(evidence, 1)
    assert found["verdict"] == "undecided"
    assert "what training did between" in found["reason"]
    part = found["parts"][1]
    assert part["low"] > TOLERANCE["distance"]
    assert part["straight_effect"] < part["effect"] - 0.01
    assert part["p_against"] > 0.5


def test_a_fall_by_training_alone_is_none_by_sparsity(strong, made_up):
    falls = (FLAT, curve((0, 0), (14, -0.12)), curve((0, 0), (14, -0.5)))
    evidence = made_up(np.random.default_rng(19), control_levels=LEVELS, base=(0.94, 0.3, 0.9), drift=falls, walk=(0.002,) * 3, samples=500)
    assert verdicts(evidence)[3] == "undecided"
    alone = [replace(m, control_levels=(), control_values=None) for m in evidence.measures]
    found = the(replace(evidence, measures=tuple(alone)), 3)
    assert found["verdict"] == "no control"  # the same fall, which nothing tells from that of training
    assert verdicts(strong)[3] == "supported"


def test_a_norm_without_a_control_to_compare_with_leaves_claim_three_undecided(strong):
    for found in (
        the(change(strong, 0, control_saturated=(6, 10, 14)), 3),
        the(change(strong, 0, control_levels=(), control_values=None), 3),
    ):
        assert found["verdict"] == "undecided"
        assert "linf" in found["reason"]


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


def test_holm_covers_all_claims_of_the_study(strong, made_up):
    alone = the(strong, 2)
    noise = [made_up(np.random.default_rng([7, k])) for k in range(3)]
    among = next(one for one in judge([strong, *noise], TOLERANCE) if one["claim"] == 2)
    assert among["p"] == alone["p"] <= alone["p_holm"] < among["p_holm"]


def test_primaries_look_at_no_outcome():
    def measure(attack, eps, norm="linf", control=True, **other):
        values = np.zeros((1, 2, 8))
        kind = "r_inf" if norm == "linf" else "distance"
        fields = {"name": f"{attack}@{eps}", "attack": attack, "norm": norm, "domain": "box", "eps": eps, "kind": kind, "levels": (0, 1)}
        fields["strength"] = {"envelope": 9, "pgd": 4, "cw": 3, "deepfool": 2, "fgs": 1}.get(attack, 0)
        controlled = {"control_levels": (0, 1), "control_values": values} if control else {}
        return Measure(**(fields | {"values": values} | controlled | other))

    offers = [measure("fgs", 0.1), measure("pgd", 0.1), measure("envelope", 0.1, control=False)]
    assert primaries(offers)["linf"].name == "pgd@0.1"  # the envelope has no control
    assert primaries([*offers, measure("envelope", 0.2)])["linf"].name == "envelope@0.2"
    assert primaries([*offers, measure("fgs", 0.3, primary=True)])["linf"].name == "fgs@0.3"
    assert primaries([measure("pgd", eps) for eps in (0.2, 0.05, 0.1, 0.4)])["linf"].eps == 0.1
    assert primaries([measure("deepfool", None, "l2", domain="free"), measure("cw", None, "l2")])["l2"].attack == "cw"
    assert primaries([measure("mine", 0.1), measure("fgs", 0.1)])["linf"].attack == "fgs"
    # strength before domain: a free attack that is named beats a boxed one that is not, and domain breaks ties
    l2 = [measure("hopskipjump", None, "l2"), measure("deepfool", None, "l2", domain="free")]
    assert primaries(l2)["l2"].attack == "deepfool"
    ties = [measure("envelope", None, "l2", name=domain, domain=domain) for domain in ("free", "box")]
    assert primaries(ties)["l2"].domain == "box"


def test_a_measure_is_named_as_a_reader_knows_it(made_up):
    measure = made_up(np.random.default_rng(0)).measures[0]
    for name, attack, shown in (
        ("shared-envelope-linf-box@0.1", "shared envelope", "shared envelope"),
        ("envelope-linf-box@0.1", "envelope", "envelope"),
        ("pgd@0.1", "pgd", "pgd"),
        ("mine@0.1", "pgd", "mine"),
    ):
        assert replace(measure, name=name, attack=attack).shown == shown


def test_secondary_measures_are_reported_and_decide_nothing(strong):
    weak = replace(strong.measures[0], name="fgs@0.1", attack="fgs", strength=0, values=1 - strong.measures[0].values)
    found = the(replace(strong, measures=(*strong.measures, weak)), 2)
    assert found["verdict"] == "supported"
    assert [part["measure"] for part in found["parts"]] == ["pgd@0.1", "ddn", "fgs@0.1"]
    assert [part["role"] for part in found["parts"]] == ["primary", "primary", "secondary"]


@pytest.mark.parametrize(("data", "model"), [("cifar10", "resnet-32"), ("cifar10:FOLDER", "vgg-like(width=0.25)")])
def test_deep_networks_are_judged_once_at_any_width(made_up, data, model):
    found = verdicts(replace(made_up(np.random.default_rng(8)), arm=Arm(data=data, model=model, pruner="surgery")))
    assert found[2] == "not applicable"
    assert found[5] == "undecided"


def test_verdicts_are_plain_json_and_say_what_they_mean(strong):
    found = judge([strong], TOLERANCE)
    json.dumps(found, allow_nan=False)
    assert plain(typed(tuple[Verdict, ...], found, "claims.json")) == found
    assert [one["claim"] for one in found] == [1, 2, 3, 4, 5]
    two = found[1]
    assert two["interval"][0] < two["effect"] < two["interval"][1]
    rounds = "6, 10" if max(two["levels"]) <= 10 else "6, 10, 14"  # those that the comparison rests on
    assert two["control"].startswith(f"dense control of equal training, round k against level k: attacked at rounds {rounds}; interpolated")
    assert "For it: r_inf (pgd" in two["statement"]
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


def test_a_control_on_other_samples_is_refused(strong):
    with pytest.raises(ValueError, match="control"):
        change(strong, 0, control_values=strong.measures[0].control_values[:, :, :-1])


def test_a_control_that_is_hardly_ever_right_is_no_denominator(strong):
    """Correct on none of the samples that are judged: a relative effect is not defined, and the claim says so."""
    control = strong.measures[1].control_values * choosing(strong.measures[1].control_values.shape[2])
    found = the(change(strong, 1, control_values=control, saturated=()), 2)
    assert found["verdict"] == "undecided"
    assert "l2: the control's distances are all zero" in found["reason"]


def test_whatever_stands_in_the_way_has_words():
    assert set(OBSTACLES) == set(get_args(Obstacle))
