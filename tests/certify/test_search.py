"""The largest certified radius is found in few evaluations, whatever falls how fast; never more than was certified."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from isogrid.certify import make
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Form
from isogrid.certify.crown import Bounded, by_lines
from isogrid.certify.search import largest_radius
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator

from .networks import inputs, networks, randomised

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
    assert float(calls.max()) <= (40 if shape == "no or yes" else 8)


def test_what_holds_everywhere_ends_at_the_limit_and_what_never_does_at_zero():
    limit = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.equal(largest_radius(lambda rows, radius: torch.full_like(radius, math.inf), limit, 1e-3), limit)
    assert torch.equal(largest_radius(lambda rows, radius: 0 * radius - 1, limit, 1e-3), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "fast-lin", "fast-lip"])
@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_a_search_in_float32_ends_where_one_in_float64_does(name, method, norm):
    net, x = networks()[name].double(), inputs(seed=3).double()
    y = net(x).argmax(1)
    fine, found = (make({"name": method, "norm": norm, "tolerance": tolerance})(net, x, y).radius for tolerance in (1e-6, 1e-3))
    assert torch.allclose(found, fine, rtol=2e-3)


def test_weights_that_float32_cannot_hold_are_certified_in_float64():
    net = randomised(nn.Sequential(nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))).double()
    x = torch.rand(6, 1, 3, dtype=torch.float64, generator=generator(0, "large"))
    y = net(x).argmax(1)
    before = make({"name": "crown", "norm": "l2"})(net, x, y).radius
    with torch.no_grad():
        net[3].weight.mul_(1e60)
        net[3].bias.mul_(1e60)
    assert torch.allclose(make({"name": "crown", "norm": "l2"})(net, x, y).radius, before, rtol=2e-3)


def test_a_bound_that_is_not_a_number_certifies_nothing():
    net, x = networks()["mlp"].double(), inputs(seed=3).double()
    y = net(x).argmax(1)

    @dataclass(frozen=True, kw_only=True)
    class Lost(Bounded):
        name = "lost"

        def evaluation(self, problem):
            good = by_lines(problem)
            return lambda rows, radius: good(rows, radius) * (1.0 if radius.dtype == torch.float32 else math.nan)

    assert bool((Lost(norm="l2")(net, x, y).radius == 0).all())


def test_the_least_margin_of_a_form_is_sought_and_others_are_at_least_as_large():
    stream = generator(0, "forms")
    A = torch.randn(7, 9, 12, dtype=torch.float64, generator=stream)
    constant = torch.rand(7, 9, dtype=torch.float64, generator=stream) * 3 - 0.2
    ball = Ball(
        x=torch.rand(7, 12, dtype=torch.float64, generator=stream), radius=torch.ones(7).double(), norm=norm_of("l2"), low=0.0, high=1.0
    )
    whole, found = ball.critical(A, constant), Form(A=A, constant=constant).critical(ball)
    assert torch.allclose(found.amin(1), whole.amin(1), rtol=1e-9)
    assert bool((found <= whole + 1e-6).all())
