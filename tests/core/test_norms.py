"""Balls and their geometry: what every attack and certificate takes for granted."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from isogrid.core.errors import InputError
from isogrid.core.norms import L2, LINF, NORMS, norm, rows
from isogrid.core.random import generator

cases = st.builds(dict, seed=st.integers(0, 2**31), n=st.integers(1, 30), scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]))
both = pytest.mark.parametrize("ball", [L2, LINF], ids=repr)


def draw(seed, n, scale):
    """Rows [8, n] of mixed sizes, one of them zero, and a radius per row, one of them zero."""
    random = generator(seed, "norms")
    delta = torch.randn(8, n, generator=random, dtype=torch.float64) * scale * torch.logspace(-2, 2, 8, dtype=torch.float64)[:, None]
    delta[3] = 0
    radius = torch.rand(8, generator=random, dtype=torch.float64) * scale
    radius[5] = 0
    return delta, radius


@both
@settings(deadline=None, max_examples=50)
@given(cases)
def test_projection(ball, values):
    delta, radius = draw(**values)
    projected = ball.project(delta, radius)
    assert bool((ball.size(projected) <= radius * (1 + 1e-12)).all()), "outside the ball"
    assert torch.allclose(ball.project(projected, radius), projected, rtol=1e-12, atol=0), "not idempotent"
    inside = ball.size(delta) <= radius
    assert torch.equal(projected[inside], delta[inside]), "not the identity inside the ball"
    assert bool(torch.isfinite(projected).all())
    other = delta.flip(0)
    apart = torch.linalg.vector_norm(projected - ball.project(other, radius), dim=1)
    assert bool((apart <= torch.linalg.vector_norm(delta - other, dim=1) * (1 + 1e-12)).all()), "expands distances"


@both
@settings(deadline=None, max_examples=50)
@given(cases)
def test_projection_is_the_closest_point(ball, values):
    """The obtuse-angle criterion of a projection onto a convex set: <delta - P, q - P> <= 0 for every q of the ball."""
    delta, radius = draw(**values)
    projected = ball.project(delta, radius)
    for i in range(5):
        point = torch.randn(delta.shape, generator=generator(i, "points"), dtype=torch.float64)
        point = point / rows(ball.size(point), point) * rows(radius, point)
        angle = ((delta - projected) * (point - projected)).sum(1)
        assert bool((angle <= 1e-9 * (1e-300 + delta.square().sum(1) + radius.square())).all())


@both
@settings(deadline=None, max_examples=50)
@given(cases)
def test_dual_and_steepest(ball, values):
    g, _ = draw(**values)
    steepest = ball.steepest(g)
    nonzero = g.abs().amax(1) > 0
    assert torch.allclose(ball.size(steepest)[nonzero], torch.ones(int(nonzero.sum()), dtype=torch.float64))
    assert bool((steepest[~nonzero] == 0).all())
    assert torch.allclose((g * steepest).sum(1), ball.dual_size(g), rtol=1e-9, atol=0), "<g, steepest> is not the dual norm"
    for i in range(5):  # Hoelder
        point = torch.randn(g.shape, generator=generator(i, "hoelder"), dtype=torch.float64)
        assert bool(((g * point).sum(1).abs() <= ball.dual_size(g) * ball.size(point) * (1 + 1e-12)).all())


@both
def test_axioms_and_shapes(ball):
    a, b = (torch.randn(5, 2, 3, generator=generator(i, "axioms"), dtype=torch.float64) for i in (0, 1))
    assert ball.size(a).shape == (5,)
    assert torch.allclose(ball.size(-3 * a), 3 * ball.size(a))
    assert bool((ball.size(a + b) <= ball.size(a) + ball.size(b) + 1e-12).all())
    assert ball.project(a, torch.ones(5)).shape == a.shape
    assert ball.steepest(a).dtype == ball.project(a, torch.ones(5, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e-44])
def test_steepest_of_a_tiny_float32_gradient_is_not_lost(size):
    """The square of 1e-30 is 0 in float32: a direction must come out all the same."""
    steepest = L2.steepest(torch.tensor([[size, 0.0]]))
    assert steepest.tolist() == [[1.0, 0.0]]


def test_names():
    assert norm("l2") is L2
    assert norm(LINF) is LINF
    assert set(NORMS) == {"l2", "linf"}
    with pytest.raises(InputError, match="did you mean linf"):
        norm("inf")
