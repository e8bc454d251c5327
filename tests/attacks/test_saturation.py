"""Confident networks: the gradient of the plain cross-entropy is 0 or garbage in float32 there, and must not pass for robustness."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import ATTACKS, FGS, PGD
from isogrid.core.random import generator
from isogrid.testing.bench import converging

N, INPUTS, EPS = 400, 20, 0.08


def cross_entropy_fgs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """FGS as everybody writes it; which rows stay correct."""
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with torch.no_grad():
        return model((x + EPS * gradient.sign()).clamp(0, 1)).argmax(1) == y


@pytest.fixture(scope="module", params=[2, 5], ids=["binary", "multi-class"])
def networks(request):
    """(network, the same with its last layer x100, samples, labels), in float64; confident: gaps of about 5, and of about 500."""
    random = generator(request.param, "saturation")
    net = nn.Sequential(nn.Linear(INPUTS, 64), nn.ReLU(), nn.Linear(64, request.param)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            scale = (2 / parameter.shape[1]) ** 0.5 if parameter.dim() == 2 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * scale)
        net[0].bias.sub_(0.5 * net[0].weight.sum(1))
        net[0].weight.mul_(10)
        net[0].bias.mul_(10)
    confident = copy.deepcopy(net)
    with torch.no_grad():
        confident[2].weight.mul_(100)
        confident[2].bias.mul_(100)
    x = torch.rand(N, INPUTS, generator=random, dtype=torch.float64)
    return net, confident, x, net(x).argmax(1)


def accuracy(attack, net, x, y):
    return float(attack(net, x, y).robust.double().mean())


def single(net, x):
    return copy.deepcopy(net).float(), x.float()


def white_box(fixed):
    """Every registered attack that uses gradients, of that kind, cheaply."""
    chosen = []
    for name, cls in ATTACKS.items():
        attack = converging(cls)
        if attack.gradient_free or (attack.budget is not None) != fixed:
            continue
        cut = {f.name: 20 for f in dataclasses.fields(attack) if fixed and f.name in ("steps", "queries") and getattr(attack, f.name) > 20}
        cut |= {"eps": EPS} if fixed else {}
        chosen.append(pytest.param(dataclasses.replace(attack, **cut), id=name))
    return chosen


def test_the_plain_cross_entropy_fakes_robustness(networks):
    """The trap itself: the same network seems far more robust once its logits are large."""
    net, confident, x, y = networks
    truth = float(cross_entropy_fgs(net, x, y).double().mean())
    faked = float(cross_entropy_fgs(*single(confident, x), y).double().mean())
    assert faked > truth + 0.2


def test_fgs_of_a_confident_network_is_that_of_float64(networks):
    net, confident, x, y = networks
    in_single = accuracy(FGS(eps=EPS), *single(confident, x), y)
    assert in_single == pytest.approx(accuracy(FGS(eps=EPS), confident, x, y), abs=0.005)
    if confident[2].out_features == 2:  # with one rival the direction does not depend on the scale at all
        assert in_single == pytest.approx(float(cross_entropy_fgs(net, x, y).double().mean()), abs=0.005)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_of_a_confident_network_is_that_of_float64(networks, norm, loss):
    _, confident, x, y = networks
    attack = PGD(eps=EPS if norm == "linf" else 0.25, norm=norm, steps=20, loss=loss)
    assert accuracy(attack, *single(confident, x), y) == pytest.approx(accuracy(attack, confident, x, y), abs=0.01)


@pytest.mark.parametrize("attack", white_box(fixed=True))
def test_no_fixed_budget_attack_is_fooled_by_confidence(networks, attack):
    net, confident, x, y = networks
    x, y = x[:150], y[:150]
    reference = accuracy(attack, net, x, y)
    assert accuracy(attack, *single(confident, x), y) <= reference + 0.03


@pytest.mark.parametrize("attack", white_box(fixed=False))
def test_no_minimum_norm_attack_is_fooled_by_confidence(networks, attack):
    net, confident, x, y = networks
    x, y = x[:60], y[:60]
    reference, scaled = attack(net, x, y), attack(*single(confident, x), y)
    assert float(scaled.success.double().mean()) >= float(reference.success.double().mean()) - 0.02
    both = reference.success & scaled.success
    assert float(scaled.distance[both].mean()) <= 1.03 * float(reference.distance[both].mean())


class DeadRunnerUp(nn.Module):
    """Logits (1, 0.9, <w, x> - 1, <w, x> / 2 - 1): neither the label's nor the runner-up's has a gradient; the third class is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones_like(x[:, 0])
        return torch.stack((ones, 0.9 * ones, x @ self.w - 1, x @ self.w / 2 - 1), 1)


@pytest.mark.parametrize("attack", white_box(fixed=False))
def test_a_constant_runner_up_hides_no_sample(attack):
    x = torch.full((4, 8), 0.1) + 0.02 * torch.arange(4.0)[:, None]
    model, y = DeadRunnerUp(), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        gap = 2 - x @ model.w
        exact = gap / model.w.norm(p=2 if attack.threat.name == "l2" else 1)
    out = attack(model, x, y)
    assert bool(out.success.all())
    torch.testing.assert_close(out.distance, exact, rtol=0.021, atol=0)
