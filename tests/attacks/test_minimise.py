"""`minimise` against exact distances of linear models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.attacks import APGDCE, FGS, PGD, DeepFool, Minimise, config_of, make, minimise
from isogrid.core.errors import InputError
from isogrid.core.random import generator


def binary(n: int = 40) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    model = nn.Linear(8, 2)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 8, generator=generator(1, "w")) * torch.logspace(-0.5, 0.5, 8))
        model.bias.copy_(-model.weight.sum(1) / 2)
        x = torch.rand(n, 8, generator=generator(4, "x"))
        z = model(x)
        gap, w = (z[:, 1] - z[:, 0]).abs(), model.weight[1] - model.weight[0]
    return model, x, z.argmax(1), gap / w.abs().sum(), gap / w.norm()


@pytest.mark.parametrize("eps", [1e-300, 1e-6, 1e-3, 0.01, 100.0, 1e300])
@pytest.mark.parametrize("searches", [4, 15])
def test_the_first_radius_may_be_any_number_of_doublings_away(eps, searches):
    """Doublings are bounded by the size of the domain; they take nothing from the bisection."""
    model, x, y, exact, _ = binary()
    out = minimise(FGS(eps=eps, domain="free"), searches=searches)(model, x, y)
    assert out.success.all()
    assert searches < 15 or (out.distance / exact).max() < 1.01
    box = minimise(FGS(eps=eps), searches=searches)(model, x, y)
    assert box.success.all()


@pytest.mark.parametrize("eps", [0.01, 1.0])
@pytest.mark.parametrize("attack", [FGS, pytest.param(APGDCE, marks=pytest.mark.slow), PGD])
def test_it_reaches_the_exact_linf_distance_from_any_first_radius(attack, eps):
    model, x, y, exact, _ = binary()
    out = minimise(attack(eps=eps, domain="free"))(model, x, y)
    assert out.success.all()
    assert (out.distance / exact).max() < 1.01
    assert (out.distance / exact).min() > 1 - 1e-4


def test_it_reaches_the_exact_l2_distance():
    model, x, y, _, exact = binary()
    out = minimise(PGD(eps=0.1, norm="l2", domain="free", rel_step=0.2))(model, x, y)
    assert out.success.all()
    assert (out.distance / exact).max() < 1.02
    assert (out.distance / exact).min() > 1 - 1e-4


def test_it_drives_apgd_to_the_exact_linf_distance():
    model, x, y, exact, _ = binary(12)
    out = minimise(APGDCE(eps=0.1, steps=30, domain="free"))(model, x, y)
    assert (out.distance / exact).max() < 1.01
    assert (out.distance / exact).min() > 1 - 1e-4


def test_a_sample_that_cannot_be_broken_is_an_honest_failure():
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    out = minimise(PGD(eps=0.3))(model, torch.rand(4, 3, generator=generator(0, "x")), torch.zeros(4, dtype=torch.int64))
    assert not out.success.any()
    assert (out.distance == math.inf).all()


def test_configuration_round_trip():
    attack = minimise(APGDCE(eps=0.2), searches=4)
    assert make(config_of(attack)) == attack


def test_parameters_are_checked():
    with pytest.raises(InputError, match="attack"):
        minimise(DeepFool())
    with pytest.raises(InputError, match="domain"):
        Minimise(attack=PGD(domain="free"))
    with pytest.raises(InputError, match="tolerance"):
        minimise(PGD(), tolerance=0.0)
