"""First-order quantities of affine maps are exact; CLEVER finds constant gradients, is seeded, and is no certificate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.theory import clever, free_distance, linearise


def affine(classes=4, n=6):
    net = nn.Linear(n, classes, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(torch.randn(classes, n, generator=generator(1, "w"), dtype=torch.float64) * torch.logspace(-1, 1, n))
        net.bias.copy_(torch.randn(classes, generator=generator(1, "b"), dtype=torch.float64))
    x = torch.rand(40, n, generator=generator(1, "x"), dtype=torch.float64)
    y = net(x).argmax(1)
    y[:5] = (y[:5] + 1) % classes
    return net, x, y


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_reach_of_an_affine_map_is_its_exact_distance(norm):
    net, x, y = affine()
    found = linearise(net, x, y, norm)
    assert torch.allclose(found.reach, free_distance(net.weight, net.bias, x, y, norm), rtol=1e-9)
    right = net(x).argmax(1) == y
    z = net(x)
    gap = z.gather(1, y[:, None]) - z.gather(1, found.other[:, None])
    assert torch.allclose(found.gap, gap[:, 0])
    assert bool((found.gap > 0).equal(right))


def test_a_graph_that_does_not_begin_at_the_input_has_no_slope():
    class OwnGraph(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach().requires_grad_())

    found = linearise(OwnGraph(3, 2), torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), "l2")
    assert found.slope.abs().max() == 0


def test_a_dead_network_is_out_of_reach_and_the_model_is_left_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].bias.copy_(torch.tensor([1.0, 0.0]))
    assert net.training
    found = linearise(net, torch.rand(5, 3), torch.tensor([0, 0, 1, 1, 0]), "l2")
    assert found.reach.tolist() == [float("inf")] * 2 + [0.0, 0.0, float("inf")]
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_clever_of_an_affine_map_is_its_exact_distance(norm):
    net, x, y = affine()
    x, y = x[:12], y[:12]
    found = clever(net, x, y, norm=norm, radius=100.0, batches=4, size=3)
    exact = free_distance(net.weight, net.bias, x, y, norm)
    assert torch.allclose(found.radius, exact.clamp_max(100.0), rtol=1e-6)
    assert clever(net, x, y, norm=norm, radius=1e-4, batches=2, size=1).radius.max() <= 1e-4


def test_clever_depends_on_the_sample_and_the_seed_alone():
    net = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 3))
    for i, p in enumerate(net.parameters()):
        p.data.normal_(generator=generator(i, "p"))
    x = torch.rand(4, 3, generator=generator(0, "x"))
    y = net(x).argmax(1)
    first, again, other = (clever(net, x, y, norm="l2", radius=0.5, batches=3, size=8, seed=seed).radius for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(clever(net, x[:2], y[:2], norm="l2", radius=0.5, batches=3, size=8).radius, first[:2], rtol=1e-4)
    with pytest.raises(InputError, match="clever"):
        clever(net, x, y, norm="l2", radius=0.0)
