from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.attacks import DDN, FMN
from isogrid.attacks.driver.base import log_odds
from isogrid.attacks.steps.annealed import FREE_REACH
from isogrid.attacks.steps.losses import log_odds_slope
from isogrid.core.norms import L2
from isogrid.core.random import generator
from isogrid.testing import exact_distance, tiny_network
from isogrid.testing.bench import fortress

ATTACKS = [DDN, FMN, lambda **options: FMN(norm="linf", **options)]
CONVERGING = [DDN(converge=True), FMN(converge=True), FMN(norm="linf", converge=True)]


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize(("seed", "inputs", "hidden", "classes"), [(47, 3, (5,), 2), (49, 4, (4,), 2)])
def test_in_the_free_domain_no_success_lies_beyond_the_reach(make, seed, inputs, hidden, classes):
    # without a limit the radius doubled at each failure, and the mean distance ended at 1e22 times the optimum
    net = tiny_network(seed, inputs=inputs, hidden=hidden, classes=classes)
    x = torch.rand(2, inputs, dtype=torch.float64, generator=generator(seed, "tiny samples"))
    y = net(x).argmax(1)
    attack = make(domain="free", converge=True)
    out = attack(net, x, y, seed=seed)
    limit = FREE_REACH * attack.threat.size(torch.ones_like(x))
    assert bool((out.distance[out.success] <= limit[out.success] * (1 + 1e-9)).all())
    exact = exact_distance(net, x, y, attack.threat, domain="free")
    assert bool((out.distance >= exact * (1 - 1e-6)).all())


class Far(nn.Module):
    """Class 1 from x_0 = `edge` on: a linear score, so that every attack knows the way."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        self.edge = edge

    def forward(self, x):
        score = x[:, 0] - self.edge
        return torch.stack([0 * score, score], 1)


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize("converge", [True, False])
def test_what_lies_beyond_the_reach_is_a_failure_and_what_lies_within_is_found(make, converge):
    x, y = torch.full((3, 4), 0.5), torch.zeros(3, dtype=torch.long)
    attack = make(domain="free", converge=converge)
    size = attack.threat.size(torch.ones(1, 4)).item()
    near, far = (attack(Far(0.5 + share * FREE_REACH * size), x, y) for share in (0.9, 1.1))
    assert near.success.all()
    assert near.distance.max() <= 0.9 * FREE_REACH * size * 1.01
    assert not far.success.any()
    assert bool(torch.isinf(far.distance).all())


class Island(nn.Module):
    """Class 1 in a corner of the box only; elsewhere the score falls towards the opposite corner, so that gradients lead away."""

    def forward(self, x):
        middle = x.mean(1)
        score = torch.where(middle > 0.6, middle - 0.6, 0.05 * (0.3 - middle) - 0.1)
        return torch.stack([0 * score, score], 1)


@pytest.mark.parametrize("make", ATTACKS)
def test_a_row_that_gradients_mislead_starts_again_elsewhere(make):
    x = 0.2 * torch.rand(6, 2, generator=generator(0, "island"))
    out = make(converge=True)(Island(), x, torch.zeros(6, dtype=torch.long))
    assert out.success.all()
    assert (out.backwards <= 100).all()


def test_the_slope_is_that_of_the_log_odds():
    z = 30 * torch.randn(50, 7, dtype=torch.float64, generator=generator(0, "slope"))
    y = torch.arange(50) % 7
    leaf = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_odds(leaf, y).sum(), leaf)
    torch.testing.assert_close(log_odds_slope(z, y), slope)
    assert math.isfinite(slope.sum().item())


@pytest.mark.parametrize("attack", CONVERGING, ids=["ddn", "fmn-l2", "fmn-linf"])
def test_logits_that_are_a_view_of_the_input_are_read_before_it_moves(attack):
    x, y = torch.tensor([[0.7, 0.3], [0.6, 0.35], [0.2, 0.9]]), torch.tensor([0, 0, 1])
    exact = (x[:, 0] - x[:, 1]).abs() / (2**0.5 if attack.threat is L2 else 2)
    assert torch.allclose(attack(nn.Flatten(), x, y).distance, exact, rtol=2e-3)


@pytest.mark.parametrize("attack", CONVERGING, ids=["ddn", "fmn-l2", "fmn-linf"])
def test_a_tie_that_the_driver_counts_as_misclassified_is_a_success(attack):
    """An output that is dead, as pruning leaves them, ties with the true class and wins by its index."""

    class Dead(nn.Module):
        def forward(self, x):
            z = torch.relu(x.sum(1) - 1.0)
            return torch.stack([0 * z, z], 1)

    x, y = torch.tensor([[0.7, 0.6], [0.9, 0.8]]), torch.tensor([1, 1])
    exact = (x.sum(1) - 1) / (2**0.5 if attack.threat is L2 else 2)
    found = attack(Dead(), x, y)
    assert found.success.all()
    assert (found.distance <= 1.02 * exact).all()


class Plateau(nn.Module):
    """Class 1 where the mean of x exceeds 0.3; below 0.25 no gradient: the first success is a random point of the box, far too far."""

    def forward(self, x):
        rise = torch.relu(x.mean(1) - 0.25) * 20 - 1
        return torch.stack([-rise, rise], 1)


@pytest.mark.parametrize("make", ATTACKS)
def test_a_first_success_far_beyond_the_boundary_comes_all_the_way_back(make):
    # with a radius that shrank by the same few per cent a step, 100 steps did not reach the boundary in l_inf
    x, y = torch.full((4, 50), 0.1), torch.zeros(4, dtype=torch.long)
    out = make(converge=True)(Plateau(), x, y)
    optimum = 0.2 * make().threat.size(torch.ones(1, 50)).item()
    assert bool((out.distance >= optimum * (1 - 1e-5)).all())
    assert bool((out.distance <= optimum * 1.001).all())
    assert out.backwards.double().mean() < 60


@pytest.mark.parametrize("make", ATTACKS)
@pytest.mark.parametrize("options", [{"converge": True}, {"converge": True, "tolerance": 0.02}])
def test_a_row_is_done_when_it_is_done_whoever_else_is_not(make, options):
    model, x, y = fortress()
    ids = torch.arange(len(y))
    attack = make(**options)
    alone, among = attack(model, x[:1], y[:1], ids=ids[:1]), attack(model, x, y, ids=ids)
    assert torch.allclose(alone.distance, among.distance[:1], rtol=1e-4)
    assert abs(int(among.forwards[0] - alone.forwards[0])) <= 3  # rounding may end a cycle otherwise
    assert among.forwards[0] < 60
