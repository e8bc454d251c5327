"""The largest certified radius is found in few evaluations, whatever falls how fast; never more than was certified."""

from __future__ import annotations

import math

import pytest
import torch

from isogrid.certify.search import largest_radius

SHAPES = {
    "flat": lambda R, a: a + 0 * R,
    "straight": lambda R, a: 3 * a - 2 * R,
    "bent": lambda R, a: a * (2 - (R / a) ** 3),
    "cliff": lambda R, a: torch.where(1.2 * a > R, a * 2.5 - 1.5 * R, -10 * a),
    "steep": lambda R, a: 2 * a - a * torch.exp(8 * (R / a - 1)),
    "no or yes": lambda R, a: torch.where(a >= R, math.inf, 0.0),
}
"""r*(R) with the fixed point a."""


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_fixed_point_is_found_in_few_evaluations(shape, known, tolerance):
    truth = torch.logspace(-6, 2, 41, dtype=torch.float64)
    limit = torch.full_like(truth, 1e4)
    calls, certified = torch.zeros(41), torch.zeros_like(truth)

    def evaluate(rows, radius):
        calls[rows] += 1
        found = SHAPES[shape](radius, truth[rows])
        certified[rows] = torch.maximum(certified[rows], torch.minimum(radius, found))
        return found

    found = largest_radius(evaluate, limit, tolerance, truth * 1.1 if known else None)
    assert bool((found <= certified).all())
    assert bool((found <= truth * (1 + 1e-12)).all())
    assert bool((found >= truth * (1 - tolerance)).all())
    assert float(calls.max()) <= (40 if shape == "no or yes" else 12)


def test_what_holds_everywhere_ends_at_the_limit_and_what_never_does_at_zero():
    limit = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.equal(largest_radius(lambda rows, radius: torch.full_like(radius, math.inf), limit, 1e-3), limit)
    assert torch.equal(largest_radius(lambda rows, radius: 0 * radius - 1, limit, 1e-3), torch.zeros(2, dtype=torch.float64))
