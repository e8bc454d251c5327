"""The exact oracle itself: against a dense grid in two dimensions, against closed forms, and its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.norms import norm as norm_of
from isogrid.core.random import generator
from isogrid.testing import exact_distance, tiny_network
from isogrid.theory import box_distance, free_distance

STEPS = 500


def on_grid(net, x, y, norm, domain):
    """The smallest adversarial point of a grid that holds the box's faces, and the grid's step."""
    low, high = (0.0, 1.0) if domain == "box" else (-0.5, 1.5)
    axis = torch.linspace(low, high, STEPS + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        broken = grid[net(grid).argmax(1) != y]
    sizes = norm_of(norm).size(broken - x)
    return (sizes.min().item() if len(sizes) else math.inf), (high - low) / STEPS


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("hidden", [(6,), (5, 4)])
def test_equals_a_brute_force_grid(hidden, norm, domain):
    compared = 0
    for seed in range(6):
        net = tiny_network(seed, hidden=hidden)
        x = torch.rand(3, 2, dtype=torch.float64, generator=generator(seed, "points"))
        y = net(x).argmax(1)
        exact = exact_distance(net, x, y, norm, domain=domain)
        for point, label, found in zip(x, y, exact, strict=True):
            reference, step = on_grid(net, point, label, norm, domain)
            if domain == "free" and found > 0.45:
                continue  # beyond the grid
            if math.isfinite(reference):
                # an adversarial wedge may be thinner than the grid: the grid is never below, and at most a few steps above
                assert found <= reference + 1e-9
                assert reference <= found + 4 * step
                compared += 1
            else:
                assert found > 0.99 or not math.isfinite(found)
    assert compared >= 10


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_equals_the_closed_form_of_linear_models(norm):
    net = tiny_network(5, inputs=3, hidden=(), classes=4)
    x = torch.rand(12, 3, dtype=torch.float64, generator=generator(5, "points"))
    y = torch.arange(12) % 4
    y[3:] = net(x).argmax(1)[3:]
    W, b = net[1].weight, net[1].bias
    assert torch.allclose(exact_distance(net, x, y, norm, domain="free"), free_distance(W, b, x, y, norm), rtol=1e-9)
    assert torch.allclose(exact_distance(net, x, y, norm, domain="box"), box_distance(W, b, x, y, norm), rtol=1e-9)


def test_dead_units_and_unbreakable_samples():
    net = tiny_network(0, hidden=(3,), classes=2)
    with torch.no_grad():
        net[1].bias.fill_(-100.0)  # dead in the box: constant logits there
        net[3].weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
        net[3].bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.full((2, 2), 0.5, dtype=torch.float64)
    assert exact_distance(net, x, torch.tensor([0, 1]), "l2").tolist() == [math.inf, 0.0]
    assert exact_distance(net, x[:1], torch.tensor([0]), "l2", domain="free").item() > 10


def test_single_output_is_two_logits():
    net = tiny_network(3, hidden=(4,), classes=1)
    x = torch.rand(4, 2, dtype=torch.float64, generator=generator(3, "points"))
    y = (net(x)[:, 0] > 0).long()
    padded = nn.Sequential(*net[:-1], nn.Linear(4, 2, dtype=torch.float64))
    with torch.no_grad():
        padded[3].weight.copy_(torch.cat([torch.zeros_like(net[3].weight), net[3].weight]))
        padded[3].bias.copy_(torch.cat([torch.zeros(1, dtype=torch.float64), net[3].bias]))
    assert torch.equal(exact_distance(net, x, y, "linf"), exact_distance(padded, x, y, "linf"))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(2, 3), nn.ReLU()),
        nn.Sequential(),
        nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 2)),
        nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(2, 2), nn.ReLU())], nn.Linear(2, 2)),
    ],
)
def test_refuses_what_it_cannot_enumerate(net):
    with pytest.raises(InputError):
        exact_distance(net, torch.rand(1, 2), torch.tensor([0]), "l2")
