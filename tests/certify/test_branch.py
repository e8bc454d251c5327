"""Branch and bound: complete on what can be enumerated or solved by a MIP, silent where a counterexample is hidden."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.attacks import APGDT, FGS
from isogrid.certify import CERTIFICATES, BranchAndBound
from isogrid.core.random import generator
from isogrid.testing import exact_distance, mip_distance, tiny_network


def wide(seed, sparsity=0.0, inputs=10, hidden=(10, 8), classes=3):
    """Too large to enumerate, small enough for a MIP, with samples and their classes."""
    net = tiny_network(seed, inputs=inputs, hidden=hidden, classes=classes).float()
    if sparsity:
        with torch.no_grad():
            for i, layer in enumerate(m for m in net if isinstance(m, nn.Linear)):
                keep = torch.rand(layer.weight.shape, generator=generator(seed, "wide", i)) >= sparsity
                layer.weight.mul_(keep / (1 - sparsity) ** 0.5)
    x = torch.rand(10, inputs, generator=generator(seed, "wide samples"))
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(
    ("seed", "inputs", "hidden"),
    [
        (0, 2, (6,)),
        pytest.param(1, 3, (4, 4), marks=pytest.mark.slow),
        (2, 2, (5, 3)),
        (3, 3, (9,)),
        pytest.param(4, 2, (4, 5), marks=pytest.mark.slow),
    ],
)
def test_it_is_exact_where_enumeration_is(seed, inputs, hidden, norm, domain):
    net = tiny_network(seed, inputs=inputs, hidden=hidden)
    x = (torch.rand(6, inputs, dtype=torch.float64, generator=generator(seed, "branch")) * 1.2 - 0.1).clamp(0, 1)
    y = net(x).argmax(1)
    truth = exact_distance(net, x, y, norm, domain=domain)
    found = BranchAndBound(norm=norm, domain=domain, gap=1e-4)(net, x, y)
    finite = torch.isfinite(truth)
    if domain == "box":
        assert torch.equal(torch.isfinite(found.radius), finite)
    assert bool((found.radius <= truth * (1 + 1e-9)).all())
    assert torch.allclose(found.radius[finite], truth[finite], rtol=2e-4)
    assert torch.allclose(found.upper[finite], truth[finite], rtol=2e-4)
    assert bool((found.upper[finite] >= truth[finite] * (1 - 1e-9)).all())
    for eps in (float(truth[finite].median()) * 0.99, float(truth[finite].median()) * 1.01):
        said = BranchAndBound(norm=norm, domain=domain).verify(net, x, y, eps)
        assert torch.equal(said.certified, truth > eps)
        assert torch.equal(said.broken, truth <= eps)


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.6])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_it_and_a_mip_never_disagree(seed, sparsity):
    """Twelve networks of ten samples; at eps just below and above the MIP's distance every property is decided, and decided alike."""
    net, x, y = wide(seed, sparsity)
    truth = mip_distance(net, x, y, eps=0.5)
    found = BranchAndBound()(net, x, y)
    near = torch.isfinite(truth) & (truth > 1e-6)
    assert bool(near.any())
    assert bool((found.radius <= truth * (1 + 1e-5) + 1e-7).all())
    assert torch.allclose(found.radius[near], truth[near], rtol=5e-3, atol=3e-6)
    assert bool((found.upper[near] >= truth[near] * (1 - 1e-5)).all())
    for factor in (0.99, 1.01):
        eps = float(truth[near].median()) * factor
        said = BranchAndBound().verify(net, x, y, eps)
        assert not bool(said.undecided.any())
        assert torch.equal(said.certified, truth > eps)


@pytest.mark.parametrize(("seed", "sample", "eps"), [(1, 0, 0.03), (1, 3, 0.03), (2, 1, 0.2)])
def test_a_counterexample_just_within_the_radius_is_found(seed, sample, eps):
    """By the exact solution of a leaf, whose point rounding must leave one, and where some 50 units are undecided."""
    net, x, y = wide(seed, 0.6, inputs=20, hidden=(60, 30))
    x, y = x[sample : sample + 1], y[sample : sample + 1]
    truth = float(mip_distance(net, x, y, eps=eps))
    assert bool(BranchAndBound(nodes=5000).verify(net, x, y, truth * 1.003).broken)


@pytest.mark.parametrize("norm", [pytest.param("l2", marks=pytest.mark.slow), "linf"])
def test_a_spent_budget_leaves_a_bound_that_grows(norm):
    net, x, y = wide(0)
    radii = [BranchAndBound(norm=norm, nodes=nodes)(net, x, y).radius for nodes in (0, 200, 20000)]
    assert bool((radii[0] <= radii[1] * (1 + 2e-3)).all())
    assert bool((radii[1] <= radii[2] * (1 + 2e-3)).all())
    assert float(radii[2].sum()) > float(radii[0].sum()) * 1.05
    said = BranchAndBound(norm=norm, nodes=1).verify(net, x, y, float(radii[2].median()) * 0.98)
    assert bool(said.undecided.any())


def planted(seed, inputs=6, margin=0.6):
    """(net, x, y, distance in l_inf): a spike around a random point switches the class where gradients from x say nothing.

    Two units per direction: the spike is scale (margin - ||x - c||_1) clipped at 0, so the gradient at x is 0.
    """
    stream = generator(seed, "planted")
    centre = torch.rand(inputs, generator=stream) * 0.4 + 0.3
    x = (centre + 0.12 * torch.randn(inputs, generator=stream).sign())[None]
    first, second, last = nn.Linear(inputs, 2 * inputs), nn.Linear(2 * inputs, 1), nn.Linear(1, 2)
    scale = 12.0
    with torch.no_grad():
        eye = torch.eye(inputs)
        first.weight.copy_(torch.cat([eye, -eye]))
        first.bias.copy_(torch.cat([-centre, centre]))
        second.weight.fill_(-scale)
        second.bias.fill_(margin * scale)
        last.weight.copy_(torch.tensor([[0.0], [1.0]]))
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)
    y = net(x).argmax(1)
    reach = (margin * scale - 1.0) / scale  # the spike beats 1 where ||x - c||_1 <= this
    distance = float((x - centre).abs().mean()) - reach / inputs
    return net, x, y, distance


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_a_hidden_counterexample_is_never_certified(seed):
    net, x, y, distance = planted(seed)
    assert int(y[0]) == 0
    eps = distance * 1.02
    assert math.isinf(float(FGS(eps=eps)(net, x, y).distance[0]))  # the gradient at x is 0 on the way there
    assert math.isinf(float(APGDT(eps=eps, steps=10)(net, x, y).distance[0]))
    for cls in CERTIFICATES.values():
        assert not bool(cls().verify(net, x, y, eps).certified.any()), cls.name
        assert float(cls()(net, x, y).radius[0]) <= distance * (1 + 1e-6), cls.name
    assert bool(BranchAndBound().verify(net, x, y, eps).broken.all())
    assert bool(BranchAndBound().verify(net, x, y, distance * 0.98).certified.all())
