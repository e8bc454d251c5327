"""Figures of brackets by hand: what counts as certified, as unbroken, as known."""

from __future__ import annotations

import numpy as np
import pytest

from isogrid.metrics.brackets import bracket_metrics, certified, known, tightness, unbroken

LOWER = np.array([0.0, 0.2, 0.5, 0.5, 0.3, np.inf])
UPPER = np.array([0.0, 0.4, 0.5, np.inf, 0.3 * (1 + 1e-7), np.inf])


def test_samples_are_counted_as_each_end_allows():
    assert certified(LOWER, UPPER, 0.3).tolist() == [False, False, True, True, True, True]
    assert unbroken(UPPER, 0.3).tolist() == [False, True, True, True, False, True]
    assert known(LOWER, UPPER).tolist() == [True, False, True, False, True, True]
    assert tightness(LOWER, UPPER) == pytest.approx([0.5, 1.0, 1.0])


def test_a_misclassified_sample_is_never_certified_and_counts_as_zero():
    found = {(metric, eps): value for metric, eps, value in bracket_metrics(np.array([np.inf, 0.4]), np.array([0.0, 0.5]), [0.1])}
    assert found["certified_accuracy", 0.1] == 0.5
    assert found["unbroken_accuracy", 0.1] == 0.5
    assert found["certified_radius", None] == pytest.approx(0.2)
    assert found["attacked_radius", None] == pytest.approx(0.25)
    assert found["median_certified_radius", None] == 0.4


def test_nothing_is_said_of_tightness_where_nothing_was_broken():
    found = {metric for metric, _, _ in bracket_metrics(np.array([0.1]), np.array([np.inf]), [])}
    assert found == {"certified_radius", "median_certified_radius", "median_attacked_radius", "exact_share"}
