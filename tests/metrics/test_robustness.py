"""The definitions of PAPER.md, against small tables worked out by hand and laws over random ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from isogrid.metrics import robustness as r

INF, NAN = math.inf, math.nan
distances = st.lists(st.one_of(st.just(0.0), st.just(INF), st.floats(0.01, 9)), min_size=1, max_size=30).map(np.array)


def test_r_inf_counts_a_misclassified_sample_that_the_attack_puts_right():
    label, clean, adversarial = [0, 1, 2, 2], [0, 1, 2, 0], [0, 2, 2, 2]
    assert r.accuracy(label, clean) == 0.75
    assert r.r_inf(label, adversarial) == 0.75  # samples 0 and 2 withstand, sample 3 is put right
    success = (np.array(label) == clean) & (np.array(label) != adversarial)
    assert r.success_rate(success, np.array(label) == clean) == pytest.approx(1 / 3)
    assert r.failed_share(success, np.array(label) == clean) == pytest.approx(2 / 3)


def test_r_2_is_the_mean_over_finite_distances_with_failures_beside_it():
    distance = np.concatenate([np.zeros(50), np.full(149, 2.0), [INF]])
    mean = r.mean_distance(distance)
    assert mean.value == pytest.approx(149 * 2.0 / 199)
    assert (mean.failures, mean.attacked, mean.n, mean.void) == (1, 150, 199, False)


@pytest.mark.parametrize(("failures", "void"), [(0, False), (1, False), (2, True)])
def test_r_2_is_void_above_one_per_cent_failures_among_correct_samples(failures, void):
    distance = np.concatenate([np.zeros(900), np.full(100 - failures, 1.0), np.full(failures, INF)])
    mean = r.mean_distance(distance)
    assert mean.void is void
    assert math.isnan(mean.value) is void


def test_a_failure_is_never_counted_as_distance_zero():
    assert r.mean_distance([INF, INF]).void
    assert r.median_distance([INF, 1.0, INF], [True] * 3) == INF
    assert r.median_distance([1.0, 2.0, INF, INF], [True] * 4) == 2.0
    with pytest.raises(ValueError, match="negative"):
        r.mean_distance([-1.0])


def test_no_correct_sample_gives_nan_and_not_a_figure():
    nothing = [False, False]
    assert math.isnan(r.median_distance([0.0, 0.0], nothing))
    assert math.isnan(r.success_rate(nothing, nothing))
    assert math.isnan(r.failed_share(nothing, nothing))
    assert r.mean_distance([0.0, 0.0]).value == 0.0


def test_attack_metrics_have_the_names_of_the_tables():
    arrays = {
        "label": np.array([0, 1, 1]),
        "clean": np.array([0, 1, 0]),
        "adversarial": np.array([1, 1, 0]),
        "success": np.array([True, False, False]),
        "distance": np.array([0.5, INF, 0.0]),
        "zero_gradient": np.array([False, True, False]),
    }
    fixed = r.attack_metrics(**arrays, fixed_budget=True)
    assert fixed == {"r_inf": pytest.approx(1 / 3), "success_rate": 0.5, "failed": 0.5, "zero_gradient": pytest.approx(1 / 3)}
    free = r.attack_metrics(**arrays, fixed_budget=False)
    assert set(free) == {"r_2", "median_distance", "success_rate", "failed", "zero_gradient"}
    assert math.isnan(free["r_2"])
    assert free["median_distance"] == 0.5


@pytest.mark.parametrize("bad", [[], [[1, 2]]])
def test_shapes_are_checked(bad):
    with pytest.raises(ValueError, match="one entry per sample"):
        r.accuracy(bad, bad)
    with pytest.raises(ValueError, match="entries for"):
        r.accuracy([0, 1], [0])


def test_collapsed_and_saturated():
    assert not r.collapsed([1])  # one sample is constant whatever the network does
    assert r.saturated(0, 0, 100) == "floor"
    assert r.saturated(95, 95, 100) == "ceiling"
    assert r.saturated(99, 95, 100) == "ceiling"  # an attack that puts samples right
    assert r.saturated(50, 95, 100) == ""
    # few samples cannot make a level look better measured than it is
    assert (r.saturated(3, 95, 100), r.saturated(30, 950, 1000)) == ("floor", "")
    with pytest.raises(ValueError, match="counts"):
        r.saturated(2, 1, 1)


@given(st.lists(distances, min_size=1, max_size=4).filter(lambda d: len({len(x) for x in d}) == 1), st.floats(0.02, 5))
@settings(max_examples=60, deadline=None)
def test_envelope_laws(parts, eps):
    attacks = [r.Distances(attack=f"a{k}", norm="l2", domain="box", distance=d) for k, d in enumerate(parts)]
    whole = r.envelope(attacks)
    for attack in attacks:
        assert np.all(whole.distance <= attack.distance)
        assert whole.r_inf(eps) <= r.envelope([attack]).r_inf(eps)
    for sample, winner in enumerate(whole.winner):
        if winner:
            assert parts[int(winner[1:])][sample] == whole.distance[sample]
        else:
            assert whole.distance[sample] in (0.0, INF)
    assert np.array_equal(r.envelope(attacks[::-1]).distance, whole.distance)


def test_envelope_r_inf_grants_the_driver_its_rounding():
    eps = 0.1
    distance = np.array([eps * (1 + 5e-6), eps * (1 + 1e-3), 0.0, INF])
    assert r.envelope([r.Distances(attack="pgd", norm="linf", domain="box", distance=distance)]).r_inf(eps) == 0.5


def test_envelope_counts_a_partial_attack_where_it_was_run():
    full = r.Distances(attack="ddn", norm="l2", domain="box", distance=np.array([1.0, 1.0, INF, NAN]))
    part = r.Distances(attack="cw", norm="l2", domain="box", distance=np.array([0.5, NAN, NAN, NAN]))
    both = r.envelope([full, part])
    assert both.distance[:3].tolist() == [0.5, 1.0, INF]
    assert math.isnan(both.distance[3])
    assert both.winner.tolist() == ["cw", "ddn", "", ""]
    assert both.r_inf(0.7) == pytest.approx(2 / 3)


@pytest.mark.parametrize("other", [{"norm": "linf"}, {"domain": "free"}, {"distance": np.zeros(3)}])
def test_envelope_refuses_what_does_not_compare(other):
    one = {"attack": "a", "norm": "l2", "domain": "box", "distance": np.zeros(2)}
    with pytest.raises(ValueError, match="envelope"):
        r.envelope([r.Distances(**one), r.Distances(**(one | other))])
    with pytest.raises(ValueError, match="envelope"):
        r.envelope([])
