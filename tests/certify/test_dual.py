"""The bounds over a region: by enclosure of sampled points for any multipliers, by brute force for the offsets, never worse than CROWN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from isogrid.certify import read_graph
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, backward, margin_rows
from isogrid.certify.dual import Dual
from isogrid.certify.optimise import Ascent, optimised, refined, side_by_side
from isogrid.certify.region import region
from isogrid.certify.stack import stacked
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator

from .networks import inputs, networks, perturbed, randomised

NAMES = list(networks())


def made(name, norm, domain, scale, sparsity=0.0):
    """(graph, bounder, sweep, ball, y) of a network's samples at a radius."""
    net, x = networks(sparsity)[name], inputs()
    graph = read_graph(net, x)
    low, high = (0.0, 1.0) if domain == "box" else (-torch.inf, torch.inf)
    radius = torch.full((len(x),), scale * (4 if norm == "l2" else 1), dtype=torch.float64)
    ball = Ball(x=x.double(), radius=radius, norm=norm_of(norm), low=low, high=high)
    bounder = Bounder(graph=graph, norm=norm_of(norm))
    return graph, bounder, bounder.sweep(ball, "lines"), ball, graph(x.double()).argmax(1)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", NAMES)
def test_a_region_is_the_network_and_every_multiplier_bounds_it(name, norm, domain):
    graph, bounder, found, ball, y = made(name, norm, domain, 0.15)
    points = perturbed(ball.x, ball.radius, norm, domain, 200)
    for row in range(0, len(y), 2):
        rows = margin_rows(graph, y[row : row + 1])[0]
        small = region(bounder, found, row, rows)
        inside = points[row].flatten(1)[:, small.pixels]
        z, h = small.forward(inside)
        margins = inside @ small.C.T + h @ small.Q.T
        truth = graph.values(points[row])[-1].flatten(1) @ rows.T
        assert bool((margins + small.c - small.slack <= truth + 1e-9).all())
        assert torch.allclose(margins + small.c, truth, atol=1e-9)
        assert bool((z >= small.low - 1e-9).all())
        assert bool((z <= small.high + 1e-9).all())
        dual = Dual(small)
        distance = norm_of(norm).size(inside - small.ball.x)
        for (w, ell, delta), block in zip(dual.spans, small.blocks, strict=False):
            assert bool(((z[:, block] - dual.centre[block]).square() @ w <= (ell * distance + delta).square() * (1 + 1e-9) + 1e-12).all())
        crown = dual.first(torch.arange(len(rows)))
        for seed in range(3):
            stream = generator(seed, "certify multipliers")
            wild = replace(
                crown,
                alpha=torch.rand(crown.alpha.shape, generator=stream, dtype=torch.float64),
                sigma=torch.rand(crown.sigma.shape, generator=stream, dtype=torch.float64),
                beta=torch.rand(crown.beta.shape, generator=stream, dtype=torch.float64),
                curve=crown.curve + torch.randn(crown.curve.shape, generator=stream, dtype=torch.float64),
            )
            for chosen in (crown, wild, optimised(dual, wild, ball.radius[row].expand(len(rows)), 3)[0]):
                bound = dual.bound(chosen)
                lower = dual.lowest(bound, ball.radius[row].expand(len(rows)))[0]
                assert bool((lower <= truth).all())
                critical = dual.critical(bound)
                near = distance[:, None] <= critical * (1 - 1e-9)
                assert bool((truth[near] >= 0).all())
            phases = torch.where(torch.rand(wild.phase.shape, generator=stream) < 0.5, 0, torch.where(z[:1] > 0, 1, -1)).to(torch.int8)
            split = replace(wild, phase=torch.where((wild.phase == 0) & ~small.curved, phases, wild.phase))
            agrees = ((split.phase[0] == 0) | ((split.phase[0] > 0) == (z > 0))).all(1)
            lower = dual.lowest(dual.bound(split), ball.radius[row].expand(len(rows)))[0]
            assert bool(agrees[0])
            assert bool((lower <= truth[agrees]).all())


@pytest.mark.parametrize("weight", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("name", ["mlp", "sigmoid"])
def test_offsets_are_minima(name, weight):
    """Against a grid: the closed form is never above it, and close to it."""
    graph, bounder, found, _, y = made(name, "l2", "free", 0.15)
    dual = Dual(region(bounder, found, 0, margin_rows(graph, y[:1])[0]))
    small, block = dual.region, dual.region.blocks[-1]
    stream = generator(1, "certify offsets")
    size = block.stop - block.start
    c, g = (torch.randn(50, size, generator=stream, dtype=torch.float64) for _ in range(2))
    for sign in (-1, 0, 1):
        phase = torch.full((50, size), 0 if bool(small.curved.any()) else sign, dtype=torch.int8)
        share = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        low, high = dual.minus if int(phase[0, 0]) < 0 else dual.plus if int(phase[0, 0]) > 0 else (small.low, small.high)
        z = low[block] + share * (high - low)[block]
        f = torch.where(small.curved[block], z.tanh(), z.clamp_min(0))
        parabola = 0.0 if bool(small.curved.any()) else weight / 2 * (z - dual.centre[block]).square()
        grid = (c[:, None] * f - g[:, None] * z + parabola).amin(1)
        closed = (
            dual.curved_offset(phase, block, c, g, torch.full((50, size), weight, dtype=torch.float64))
            if weight
            else dual.offset(phase, block, c, g)
        )
        assert bool((closed <= grid + 1e-12).all())
        assert float((grid - closed).max()) < 1e-3


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["mlp", "convolutions", "residual"])
def test_the_region_starts_as_crown_and_optimising_only_helps(name, norm):
    graph, bounder, found, ball, y = made(name, norm, "free", 0.05)
    for row in range(3):
        rows = margin_rows(graph, y[row : row + 1])[0]
        form = backward(found, {len(graph.nodes) - 1: margin_rows(graph, y)}, found.relax)
        dual = Dual(region(bounder, found, row, rows))
        first = dual.first(torch.arange(len(rows)))
        bound = dual.bound(dual.crown(first.target))
        crown = form.lowest(ball)[row]
        assert torch.allclose(dual.lowest(bound, ball.radius[row].expand(len(rows)))[0], crown, atol=3e-4)
        before = dual.critical(dual.bound(first))
        after = optimised(dual, first, ball.radius[row].expand(len(rows)), 20)[1]
        assert bool((after >= before * (1 - 1e-5) - 1e-9).all())


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("norm", "domain"), [("l2", "free"), ("linf", "free"), ("linf", "box")])
@pytest.mark.parametrize("name", ["mlp", "sigmoid", "convolutions", "residual"])
def test_gradients_are_those_of_the_bound(name, norm, domain, split):
    """In closed form against recorded operations, and the value is the bound's."""
    graph, bounder, found, ball, y = made(name, norm, domain, 0.15)
    for row in range(3):
        dual = Dual(region(bounder, found, row, margin_rows(graph, y[row : row + 1])[0]))
        stream, start = generator(row, "certify gradients"), dual.first(torch.arange(len(dual.region.C)))
        phase = torch.randint(-1, 2, start.phase.shape, generator=stream, dtype=torch.int8) * split
        names = [name for name in ("alpha", "sigma", "beta", "curve") if getattr(start, name).numel()]
        moving = {
            name: torch.rand(getattr(start, name).shape, generator=stream, dtype=torch.float64) + (start.curve if name == "curve" else 0)
            for name in names
        }
        wild = replace(start, phase=torch.where(dual.region.curved, start.phase, phase), **moving)
        at = ball.radius[row] * (0.2 + torch.rand(len(phase), generator=stream, dtype=torch.float64))
        everything = {name: getattr(wild, name)[None] for name in ("alpha", "sigma", "beta", "curve")}
        mine = Ascent(stacked([dual], [wild], torch.float64)).slope(everything, at[None])
        watched = {name: tensor.clone().requires_grad_() for name, tensor in moving.items()}
        bound = dual.bound(replace(wild, **watched))
        height, loss = dual.lowest(bound, at)
        assert torch.allclose(mine.height[0], height, atol=1e-9)
        assert torch.allclose(mine.loss[0], loss, atol=1e-9)
        assert torch.allclose(mine.curve[0], bound.curve)
        if not names:
            continue
        expected = torch.autograd.grad(height.sum(), list(watched.values()), allow_unused=True)
        for name, gradient in zip(names, expected, strict=True):
            if gradient is not None and name in mine.by:
                assert torch.allclose(mine.by[name][0], gradient, atol=1e-8), name


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["mlp", "sigmoid", "convolutions", "residual"])
def test_refined_bounds_hold_and_are_tighter(name, norm, domain):
    graph, bounder, found, ball, y = made(name, norm, domain, 0.15)
    points = perturbed(ball.x, ball.radius, norm, domain, 300)
    gained = 0.0
    for row in range(3):
        before = Dual(region(bounder, found, row, margin_rows(graph, y[row : row + 1])[0]))
        after = refined(before, 5)
        z = after.region.forward(points[row].flatten(1)[:, after.region.pixels])[0]
        assert bool((z >= after.region.low - 1e-9).all())
        assert bool((z <= after.region.high + 1e-9).all())
        narrower = (before.region.high - before.region.low) - (after.region.high - after.region.low)
        assert bool((narrower >= 0).all())
        gained += float(narrower.sum())
    assert gained > 0


def test_newton_from_a_guess_is_below_the_root_and_near_it():
    x = torch.rand(1, 20, dtype=torch.float64, generator=generator(0, "newton"))
    A = torch.randn(1, 40, 20, dtype=torch.float64, generator=generator(1, "newton"))
    for name in ("l2", "linf"):
        ball = Ball(x=x, radius=torch.ones(1, dtype=torch.float64), norm=norm_of(name), low=0.0, high=1.0)
        value = 0.3 * A.abs().sum(2) * torch.rand(1, 40, dtype=torch.float64, generator=generator(2, "newton")) - ball.centre(A)
        exact = ball.critical(A, value)
        for guess in (exact * 0.7, exact.clamp_max(9) * 1.2, torch.zeros_like(exact)):
            near = ball.critical(A, value, guess=guess)
            assert bool((near <= exact * (1 + 1e-6)).all())
        assert bool((ball.critical(A, value, guess=exact * 0.95)[exact < 9] >= exact[exact < 9] * (1 - 1e-3)).all())


def strided(norm):
    """The bounds of a sample of convolutions whose second layer's units see windows of the first and of the input."""
    x = torch.rand(1, 1, 14, 14, generator=generator(0, "certify strided samples"))
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 3)),
    )
    graph = read_graph(randomised(net), x)
    radius = torch.full((1,), 0.4 if norm == "l2" else 0.08, dtype=torch.float64)
    ball = Ball(x=x.double(), radius=radius, norm=norm_of(norm), low=0.0, high=1.0)
    bounder = Bounder(graph=graph, norm=norm_of(norm))
    found, y = bounder.sweep(ball, "lines"), graph(x.double()).argmax(1)
    return Dual(region(bounder, found, 0, margin_rows(graph, y)[0]))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_what_units_depend_on_gives_their_bounds(norm):
    """The same bounds for the same multipliers, whether the rest of the region is there or not."""
    dual = strided(norm)
    small = dual.region
    for block in small.blocks[1:]:
        for place in small.place[block].unique()[:3]:
            rows = block.start + torch.nonzero(small.place[block] == place).squeeze(1)
            seen, units = small.before(rows)
            P, T, p, drift = (value[rows] for value in (small.P, small.T, small.p, small.drift))
            whole = replace(small, C=torch.cat([P, -P]), Q=torch.cat([T, -T]), c=torch.cat([p, -p]), slack=torch.cat([drift, drift]))
            outer, inner = Dual(whole, dual.spans), Dual(seen, dual.of(units))
            crown = outer.crown(torch.arange(2 * len(rows)))
            stream = generator(int(place), "certify multipliers")
            alpha, sigma = (torch.rand(crown.alpha.shape, generator=stream, dtype=torch.float64) for _ in range(2))
            kept = torch.tensor([bool(((units >= one.start) & (units < one.stop)).any()) for one in small.blocks])
            curve = torch.where(kept, 0.3, -80.0).expand(len(crown.alpha), -1).double() if dual.spans else crown.curve
            many = replace(crown, alpha=alpha, sigma=sigma, curve=curve)
            few = replace(
                inner.crown(many.target), alpha=alpha[:, units], sigma=sigma[:, units], curve=curve[:, kept] if dual.spans else curve
            )
            radius = small.ball.radius.expand(len(many.target))
            expected, found = outer.lowest(outer.bound(many), radius)[0], inner.lowest(inner.bound(few), radius)[0]
            assert len(units) < small.units
            assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_regions_side_by_side_are_as_good_as_alone(norm):
    """Windows of unequal sizes, padded to one shape: the same multipliers come out as for each alone."""
    dual = strided(norm)
    small, alone, duals = dual.region, [], []
    block = small.blocks[1]
    for place in small.place[block].unique():
        rows = block.start + torch.nonzero(small.place[block] == place).squeeze(1)
        duals.append(Dual(small.before(rows)[0]))
    starts = [one.first(torch.arange(len(one.region.C))) for one in duals]
    radii = [small.ball.radius.expand(len(start.target)) for start in starts]
    alone = [optimised(*each, 8, value=True, dtype=torch.float64) for each in zip(duals, starts, radii, strict=True)]
    together = side_by_side(duals, starts, radii, 8, value=True, dtype=torch.float64)
    assert len({one.region.units for one in duals}) > 1
    assert len({len(start.target) for start in starts}) > 1
    for (one, lower), (other, same) in zip(alone, together, strict=True):
        assert torch.allclose(lower, same, atol=1e-9)
        assert torch.allclose(one.alpha, other.alpha, atol=1e-6)
        assert torch.allclose(one.curve, other.curve, atol=1e-6)
