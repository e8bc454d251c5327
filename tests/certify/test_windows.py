"""Bounds by windows are those of the whole graph: same numbers, whatever the geometry; sparse ones and those that stick out included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.certify import read_graph
from isogrid.certify.affine import gradient, spread
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, margin_rows
from isogrid.certify.dual import Dual
from isogrid.certify.optimise import refined
from isogrid.certify.region import region
from isogrid.certify.windows import windows
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator

from .networks import perturbed, randomised


class Block(nn.Module):
    """Branches of other reach that meet, a normalisation before a padded convolution, a padded one after a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(2)
        self.left, self.right, self.after = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        h = self.first(self.scale(x)).relu()
        h = h + self.left(h).tanh() - self.right(h).relu()
        return self.after(h).relu()


class Twisted(nn.Module):
    """Two strides meet in one sum: no window moves alike from place to place."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.after = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 9), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.after(self.left(x)[:, :, ::3, ::3].relu() + self.right(x).relu()).relu()


def bodies(sparsity=0.0):
    """{name: convolutional part} on inputs [2, 12, 12]; series on [2, 24]."""
    made = {
        "strided": nn.Sequential(nn.Conv2d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 4, 2, 1), nn.ReLU()),
        "dilated": nn.Sequential(
            nn.Conv2d(2, 4, 3, dilation=2, padding=(2, 1)), nn.ReLU(), nn.Conv2d(4, 4, (2, 3), 2, bias=False), nn.Tanh()
        ),
        "grouped": nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, 3, groups=4),
            nn.BatchNorm2d(4),
            nn.LeakyReLU(0.1),
        ),
        "deep": nn.Sequential(*(layer for n in (2, 3, 3) for layer in (nn.Conv2d(n, 3, 3, padding=1), nn.ReLU()))),
        "linear": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU()),
        "residual": Block(),
        "pooled": nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, padding=1), nn.MaxPool2d(3, 1)),
        "series": nn.Sequential(nn.Conv1d(2, 3, 4, 2, 1), nn.ReLU(), nn.Conv1d(3, 3, 3, padding=1), nn.ReLU()),
    }
    return {name: randomised(net, seed, sparsity) for seed, (name, net) in enumerate(made.items())}


def samples(name, rows=3):
    shape = (2, 24) if name == "series" else (2, 12, 12)
    return (torch.rand(rows, *shape, generator=generator(0, "windows")) * 1.3 - 0.15).clamp(0, 1)


def read(name, body, rows=3):
    """A graph with a linear end."""
    x = samples(name, rows)
    net = nn.Sequential(body, nn.Flatten(), randomised(nn.Linear(body(x)[0].numel(), 3), 9)).eval()
    return read_graph(net, x), x


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize("name", list(bodies()))
def test_windows_give_the_bounds_of_the_whole(name, sparsity, norm, domain):
    graph, x = read(name, bodies(sparsity)[name])
    low, high = (0.0, 1.0) if domain == "box" else (-math.inf, math.inf)
    radius = torch.tensor([0.0, 0.1, 0.4], dtype=torch.float64) * (3 if norm == "l2" else 1)
    ball = Ball(x=x.double(), radius=radius, norm=norm_of(norm), low=low, high=high)
    cut, whole = (Bounder(graph=graph, norm=norm_of(norm)) for _ in range(2))
    whole.windows = dict.fromkeys(range(len(graph.nodes)))
    found, expected = cut.sweep(ball, "lines"), whole.sweep(ball, "lines")
    close = 1e-5 if (norm, domain) == ("l2", "box") else 1e-10  # the multiplier of a ball cut by a box is sought in float32
    for mine, theirs in zip((*found.low, *found.high), (*expected.low, *expected.high), strict=True):
        assert torch.allclose(mine, theirs, rtol=close, atol=close)


@pytest.mark.parametrize("name", list(bodies()))
def test_they_are_used_and_tighten(name):
    graph, x = read(name, bodies()[name])
    ball = Ball(x=x.double(), radius=torch.full((len(x),), 0.9, dtype=torch.float64), norm=norm_of("l2"), low=0.0, high=1.0)
    cut, plain = (Bounder(graph=graph, norm=norm_of("l2")) for _ in range(2))
    found, intervals = cut.sweep(ball, "lines"), plain.sweep(ball, "intervals")
    assert any(seen is not None for seen in cut.windows.values())
    assert any(bool((a < b - 1e-6).any()) for a, b in zip(intervals.low, found.low, strict=True))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", list(bodies()))
def test_spread_is_the_dual_norm_of_the_gradient(name, norm):
    graph, _ = read(name, bodies()[name])
    found = spread(graph, norm_of(norm))
    assert any(windows(graph, i) is not None for i in found)
    for i, sizes in found.items():
        rows = torch.eye(sizes.numel(), dtype=torch.float64).reshape(-1, *sizes.shape)
        assert torch.allclose(norm_of(norm).dual_size(gradient(graph, i, rows)).view_as(sizes), sizes, rtol=1e-12)


def test_where_windows_do_not_move_alike_there_are_none():
    graph, _ = read("twisted", randomised(Twisted()))
    convolutions = [i for i, node in enumerate(graph.nodes) if node.shape == (3, 4, 4)]
    assert convolutions
    assert all(windows(graph, i) is None for i in convolutions[-3:])


def bounded(name, norm, domain):
    """(region of a sample, the units' values z [N, U] and inputs [N, n] at points of its ball)."""
    graph, x = read(name, bodies(0.3)[name], rows=1)
    low, high = (0.0, 1.0) if domain == "box" else (-math.inf, math.inf)
    radius = torch.tensor([0.3 if norm == "l2" else 0.05], dtype=torch.float64)
    ball = Ball(x=x.double(), radius=radius, norm=norm_of(norm), low=low, high=high)
    bounder = Bounder(graph=graph, norm=norm_of(norm))
    small = region(bounder, bounder.sweep(ball, "lines"), 0, margin_rows(graph, torch.tensor([0]))[0])
    inside = perturbed(ball.x, radius, norm, domain, 200)[0].flatten(1)[:, small.pixels]
    return small, small.forward(inside)[0], inside


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["strided", "residual", "series"])
def test_units_of_one_window_have_a_region_of_their_own(name, norm, domain):
    small, z, inside = bounded(name, norm, domain)
    smaller = 0
    for block in small.blocks[1:]:
        for place in sorted(set(small.place[block].tolist()))[::9]:
            rows = block.start + torch.nonzero(small.place[block] == place).squeeze(1)
            part, units = small.before(rows)
            columns = torch.nonzero((small.pixels[:, None] == part.pixels).any(1)).squeeze(1)
            own, h = part.forward(inside[:, columns])
            assert torch.allclose(own, z[:, units], atol=1e-9)
            margins = inside[:, columns] @ part.C.T + h @ part.Q.T + part.c
            assert torch.allclose(margins, torch.cat([z[:, rows], -z[:, rows]], 1), atol=1e-9)
            smaller += part.units < small.units
            dual, size = Dual(part), norm_of(norm).size(inside[:, columns] - part.ball.x)
            for (w, ell, delta), own_block in zip(dual.spans, part.blocks, strict=False):
                change = (own[:, own_block] - dual.centre[own_block]).square() @ w
                assert bool((change <= (ell * size + delta).square() * (1 + 1e-9) + 1e-12).all())
    assert smaller > 0


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ["strided", "series"])
def test_bounds_refined_window_by_window_hold_and_are_tighter(name, norm, domain):
    small, z, _ = bounded(name, norm, domain)
    after = refined(Dual(small), 5).region
    assert bool((z >= after.low - 1e-9).all())
    assert bool((z <= after.high + 1e-9).all())
    assert bool((after.high - after.low <= small.high - small.low).all())
    assert float((small.high - small.low - after.high + after.low).sum()) > 0
