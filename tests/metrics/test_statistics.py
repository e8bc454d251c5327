"""Coverage by simulation with known variance components, laws over random tables, and what the parts promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from isogrid.metrics.statistics import apart, choosing, complete_seeds, crossed, held_out_means, holm, impute_failures, judging, relative

shapes = st.tuples(st.integers(1, 4), st.integers(2, 12))
tables = shapes.flatmap(lambda shape: arrays(float, shape, elements=st.floats(-4, 4).map(lambda v: round(v, 3))))


def most(n: int, p: float) -> int:
    """The count that a binomial(n, p) exceeds with probability 1e-3."""
    return int(stats.binom.ppf(0.999, n, p))


def table(rng, seeds, samples, a, b, e):
    """Seeds x samples with variance components a (seeds), b (samples), e (the rest) and mean 0."""
    parts = zip((a, b, e), ((seeds, 1), (1, samples), (seeds, samples)), strict=True)
    return sum(math.sqrt(variance) * rng.normal(size=shape) for variance, shape in parts)


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize(
    ("a", "b", "e"), [(0, 1, 0), (0, 0, 1), (1, 0, 0), (0.001, 1, 1), (0.01, 1, 1), (0.1, 1, 1), (0.01, 0.05, 1), (0.005, 1, 0.01)]
)
def test_intervals_cover_whatever_part_dominates(seeds, a, b, e):
    rng, n, p = np.random.default_rng(seeds), 1000, 0.05
    outside = 0
    for _ in range(n):
        estimate = crossed(table(rng, seeds, 60, a, b, e))
        outside += estimate.value > estimate.half_width(p)
    assert outside <= most(n, p)


def test_intervals_are_exact_where_one_part_dominates_and_never_far_too_wide():
    rng, n, p = np.random.default_rng(1), 1500, 0.05
    for parts in ((1, 0, 0), (0, 1, 0.01)):
        outside = sum(e.value > e.half_width(p) for e in (crossed(table(rng, 3, 60, *parts)) for _ in range(n)))
        assert outside >= stats.binom.ppf(0.001, n, p)


def test_variance_components_are_unbiased():
    rng = np.random.default_rng(2)
    a, b, e, S, N = 0.02, 1.0, 0.5, 4, 50
    estimates = [crossed(table(rng, S, N, a, b, e)) for _ in range(1500)]
    assert np.mean([x.seed_part for x in estimates]) == pytest.approx(a / S + e / (S * N), rel=0.06)
    assert np.mean([x.sample_part for x in estimates]) == pytest.approx(b / N, rel=0.03)
    assert np.var([x.value for x in estimates]) == pytest.approx(a / S + b / N + e / (S * N), rel=0.12)


def test_treating_all_values_as_independent_would_not_cover():
    """The error that the crossed model is there to avoid: without it, half of the intervals miss."""
    rng, n = np.random.default_rng(3), 400
    missed = 0
    for _ in range(n):
        d = table(rng, 3, 100, 0.02, 1, 0.2)
        missed += abs(d.mean()) > 1.96 * d.std() / math.sqrt(d.size)
    assert missed > 0.3 * n


def test_one_seed_is_an_interval_over_samples_only():
    d = np.random.default_rng(4).normal(size=(1, 40))
    estimate = crossed(d)
    assert estimate.over_samples_only
    low, high = estimate.interval(0.95)
    expected = stats.t.interval(0.95, 39, d.mean(), stats.sem(d[0]))
    assert (low, high) == pytest.approx(expected)
    assert estimate.p_greater() == pytest.approx(stats.ttest_1samp(d[0], 0, alternative="greater").pvalue)


def test_seeds_alone_give_students_t_with_seeds_minus_one_degrees_of_freedom():
    seeds = np.array([0.3, 0.5, 0.1])
    estimate = crossed(np.repeat(seeds[:, None], 8, axis=1))
    assert estimate.df == 2
    assert estimate.p_greater() == pytest.approx(stats.ttest_1samp(seeds, 0, alternative="greater").pvalue)


def test_satterthwaite_matches_its_formula():
    d = np.random.default_rng(5).normal(size=(3, 20)) + np.random.default_rng(6).normal(size=(1, 20))
    S, N = d.shape
    rows, columns = d.mean(1), d.mean(0)
    a = N * np.var(rows, ddof=1)
    b = S * np.var(columns, ddof=1)
    e = np.sum((d - rows[:, None] - columns + d.mean()) ** 2) / ((S - 1) * (N - 1))
    expected = (a + b - e) ** 2 / (a**2 / (S - 1) + b**2 / (N - 1) + e**2 / ((S - 1) * (N - 1)))
    assert crossed(d).df == pytest.approx(expected)
    assert crossed(d).se == pytest.approx(math.sqrt((a + b - e) / (S * N)))


@given(tables, st.floats(-3, 3), st.floats(0.1, 5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_crossed_laws(d, shift, scale, order):
    one = crossed(d)
    moved = crossed(scale * d + shift)
    assert moved.value == pytest.approx(scale * one.value + shift, abs=1e-9)
    assert moved.se == pytest.approx(scale * one.se, abs=1e-6)
    rows, columns = list(range(d.shape[0])), list(range(d.shape[1]))
    order.shuffle(rows)
    order.shuffle(columns)
    assert crossed(d[rows][:, columns]).se == pytest.approx(one.se, abs=1e-9)
    assert crossed(-d).p_greater() == pytest.approx(one.p_less(), abs=1e-9)
    assert one.half_width(0.01) >= one.half_width(0.05) >= one.half_width(0.5) == pytest.approx(0, abs=1e-12)
    assert crossed(d, chosen=d.shape[0] > 1).se >= one.se - 1e-12


@given(tables, st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_p_values_and_intervals_say_the_same(d, bound):
    estimate = crossed(d)
    p, q = estimate.p_greater(bound), estimate.p_less(bound)
    assert 0 <= p <= 1
    if estimate.se < 1e-9:
        return
    assert p + q == pytest.approx(1)
    for level in (0.01, 0.05, 0.2):
        if abs(p - level) > 1e-6:
            assert (p < level) == (estimate.interval(1 - 2 * level)[0] > bound)


def test_a_tie_between_seeds_is_no_certainty():
    """Three seeds that each gain one sample of fifty have one mean: their scatter is 0, and that of what they gained is not."""
    gains = np.zeros((3, 50))
    gains[[0, 1, 2], [4, 11, 30]] = 1
    estimate = crossed(gains)
    assert (estimate.seed_part, estimate.sample_part) == pytest.approx((0, 0), abs=1e-30)
    assert estimate.p_greater() == pytest.approx(stats.norm.sf(0.02 / np.sqrt(2 / 98 / 150)))  # MS_rest = 2 / 98
    assert estimate.interval(0.9)[0] < 0.02 / 10
    assert crossed(np.ones((3, 50))).p_greater() == 0.0  # every sample of every seed
    assert crossed(np.zeros((3, 50))).p_greater() == 1.0


@given(tables)
@settings(max_examples=60, deadline=None)
def test_no_interval_is_shorter_than_one_that_needs_no_seeds(d):
    estimate = crossed(d)
    for p in (0.2, 0.05, 1e-6):
        assert estimate.half_width(p) >= stats.norm.isf(p) * math.sqrt(estimate.rest_part + estimate.sample_part) - 1e-9


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_normal_seed_seldom_lies_apart_and_a_bad_training_does(seeds):
    rng, n = np.random.default_rng(11), 1000
    assert sum(apart(rng.normal(size=seeds)) is not None for _ in range(n)) <= most(n, 0.05)
    bad = rng.normal(size=(200, seeds))
    bad[:, 1] -= 100
    assert sum(apart(one) == 1 for one in bad) >= 180
    assert apart(7 + 0.01 * bad[0]) == apart(bad[0])
    assert apart(np.full(seeds, 0.3)) is None
    assert apart(bad[0, :2]) is None


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((3, 1)), np.zeros((0, 4)), np.full((2, 2), math.inf), np.full((2, 2), math.nan)])
def test_what_is_no_table_of_finite_values_is_refused(bad):
    with pytest.raises(ValueError, match="crossed"):
        crossed(bad)


def test_relative_effect_covers_the_true_ratio():
    rng, n, p = np.random.default_rng(7), 600, 0.05
    outside = [0, 0]
    for _ in range(n):
        t = 1 + table(rng, 3, 150, 0.0005, 0.1, 0.02)
        x = 1.05 * t + table(rng, 3, 150, 0.0005, 0.0, 0.02)
        estimate = relative(x, t)
        outside[0] += estimate.value - estimate.half_width(p) > 0.05
        outside[1] += estimate.value + estimate.half_width(p) < 0.05
    assert max(outside) <= most(n, p)
    with pytest.raises(ValueError, match="relative"):
        relative(x, np.zeros_like(x))


def test_relative_effect_does_not_depend_on_the_unit():
    rng = np.random.default_rng(8)
    x, t = 1 + 0.1 * rng.normal(size=(2, 3, 30))
    assert relative(7 * x, 7 * t).se == pytest.approx(relative(x, t).se)
    assert relative(x, t).value == pytest.approx(x.mean() / t.mean() - 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_laws(p):
    adjusted = holm(p)
    assert all(a >= raw for a, raw in zip(adjusted, p, strict=True))
    assert max(adjusted) <= 1
    assert min(adjusted) == pytest.approx(min(1, len(p) * min(p)))
    assert [adjusted[i] for i in np.argsort(p, kind="stable")] == sorted(adjusted)
    assert holm(p[::-1]) == adjusted[::-1]


def test_holm_of_no_claims():
    assert holm([]) == []


def test_choices_and_judgements_share_no_sample_whatever_cycle_the_classes_run_in():
    for cycle in (2, 4, 10):
        chosen = choosing(1000)
        classes = np.arange(1000) % cycle
        shares = np.bincount(classes[chosen], minlength=cycle) / np.bincount(classes, minlength=cycle)
        assert np.all(np.abs(shares - 0.25) < 0.06)
    values = np.random.default_rng(9).normal(size=(3, 4, 100))
    changed = values.copy()
    changed[..., ~chosen[:100]] += 5
    changed[0] += 7
    assert np.allclose(held_out_means(changed)[0], held_out_means(values)[0])
    assert judging(values).shape == (3, 4, int((~chosen[:100]).sum()))


@pytest.mark.parametrize("seeds", [2, 3, 6])
@pytest.mark.parametrize(("seed_noise", "shared", "walk"), [(0.0, 0.5, False), (0.05, 0.3, True), (1.0, 0.1, True), (1.0, 0.1, False)])
def test_a_peak_chosen_on_other_seeds_does_not_look_like_a_fall(seeds, seed_noise, shared, walk):
    """Pure noise: the last of ten levels against the best of the others, chosen; the part of the seeds needs its correction."""
    rng, n, p = np.random.default_rng(10), 400, 0.05
    falls = 0
    for _ in range(n):
        noise = rng.normal(size=(seeds, 10, 1)) * seed_noise
        noise = noise.cumsum(1) / 3 if walk else noise
        x = noise + rng.normal(size=(1, 1, 60)) + shared * rng.normal(size=(1, 10, 60)) + 0.1 * rng.normal(size=(seeds, 10, 60))
        peak = held_out_means(x[:, :-1]).argmax(-1)
        falls += crossed(judging(x[:, -1] - x[np.arange(seeds), peak]), chosen=True).p_less() <= p
    assert falls <= most(n, p)


def test_imputed_failures_leave_r_2_as_defined():
    d = np.array([[0.0, 1.0, math.inf, 2.0], [1.0, 1.0, 1.0, 1.0]])
    imputed = impute_failures(d)
    assert imputed[0].mean() == pytest.approx(1.0)
    assert np.array_equal(imputed[1], d[1])
    assert math.isinf(d[0, 2])  # the input is left alone
    assert np.isinf(impute_failures(np.full((1, 3), math.inf))).all()
    assert impute_failures(d, largest=True)[0].tolist() == [0.0, 1.0, 2.0, 2.0]
    assert np.isinf(impute_failures(np.full((1, 3), math.inf), largest=True)).all()
    assert np.isnan(impute_failures(np.array([[math.nan, 1.0, math.inf]]), largest=True)[0, 0])


def test_a_seed_counts_where_it_was_measured_in_every_table():
    a, b = np.zeros((3, 2, 4)), np.zeros((3, 1, 4))
    a[0] = math.nan
    b[2] = math.nan
    b[1, 0, 0] = math.nan
    assert complete_seeds(a, b).tolist() == [False, True, False]
