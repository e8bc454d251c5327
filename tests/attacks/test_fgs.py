"""FGS and rFGS: their formulas, exactness on binary linear models, agreement with Foolbox where float32 does not saturate."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from isogrid import data
from isogrid.attacks import FGS, RFGS
from isogrid.core.errors import InputError
from isogrid.core.random import Streams, generator
from isogrid.models import build
from isogrid.training import FitConfig, fit


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small network whose logit gaps stay moderate, and 360 test digits."""
    split = data.load("digits")
    net = build("lenet-300-100", split.train.shape, 10, 0)
    fit(net, split.train.x, split.train.y, FitConfig(epochs=4), seed=0)
    assert (net(split.test.x).amax(1) - net(split.test.x).amin(1)).max() < 40
    return net, split.test.x, split.test.y


def cross_entropy_sign(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    double = net.double()
    leaf = x.double().requires_grad_()
    nn.functional.cross_entropy(double(leaf), y, reduction="sum").backward()
    net.float()
    return leaf.grad.sign().float()


def test_fgs_is_its_formula_on_every_sample(trained):
    net, x, y = trained
    expected = (x + 0.1 * cross_entropy_sign(net, x, y)).clamp(0, 1)
    out = FGS(eps=0.1)(net, x, y)
    same = (out.x_adv - expected).abs() < 1e-6
    assert same.double().mean() > 0.999  # a gradient entry that is zero up to rounding may have either sign
    assert ((out.adversarial == y) == out.robust).all()
    assert (out.forwards == 1).all()
    assert (out.backwards == 1).all()


def test_rfgs_is_its_formula(trained):
    net, x, y = trained
    step = Streams(seed=5, ids=torch.arange(len(y))).sign(tuple(x.shape), "rfgs")
    moved = (x + 0.05 * step).clamp(0, 1)
    expected = (moved + 0.05 * cross_entropy_sign(net, moved, y)).clamp(0, 1)
    out = RFGS(eps=0.1)(net, x, y, seed=5)
    assert ((out.x_adv - expected).abs() < 1e-6).double().mean() > 0.999


def test_a_misclassified_sample_that_is_corrected_counts_in_r_inf_and_is_no_success(trained):
    net, x, y = trained
    wrong = (y + 1) % 10
    out = FGS(eps=0.3)(net, x, wrong)
    corrected = ~out.correct & out.robust
    assert not out.success[corrected].any()
    assert (out.distance[~out.correct] == 0).all()


@pytest.mark.parametrize("domain", ["box", "free"])
def test_fgs_is_exact_on_binary_linear_models(domain):
    g = generator(0, "binary")
    net = nn.Linear(20, 1)
    with torch.no_grad():
        net.weight.copy_(torch.randn(1, 20, generator=g) * torch.logspace(-2, 1, 20))
        net.bias.fill_(-0.5 * net.weight.sum())
    x = torch.rand(400, 20, generator=g)
    y = (net(x)[:, 0] > 0).long()
    side = (2.0 * y - 1)[:, None]
    for eps in (0.02, 0.1, 0.3):
        worst = x - eps * side * net.weight.sign()
        exact = (net(worst.clamp(0, 1) if domain == "box" else worst)[:, 0] * side[:, 0] > 0).double().mean()
        assert FGS(eps=eps, domain=domain)(net, x, y).robust.double().mean() == pytest.approx(exact.item(), abs=1e-9)


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.2])
def test_agrees_with_foolbox_where_gaps_are_moderate(trained, eps):
    foolbox = pytest.importorskip("foolbox")
    net, x, y = trained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, theirs, _ = foolbox.attacks.LinfFastGradientAttack()(foolbox.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    accuracy = (net(theirs).argmax(1) == y).double().mean().item()
    assert FGS(eps=eps)(net, x, y).robust.double().mean().item() == pytest.approx(accuracy, abs=2.1e-3 + 1 / len(y))


def test_a_sample_without_a_gradient_stays_and_is_counted():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(-10.0)
        net[2].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.rand(5, 3, generator=generator(0, "x")), torch.zeros(5, dtype=torch.int64)
    out = FGS(eps=0.1)(net, x, y)
    assert out.zero_gradient.all()
    assert torch.equal(out.x_adv, x)
    assert torch.isinf(out.distance).all()


@pytest.mark.parametrize(
    "make", [lambda: FGS(eps=float("inf")), lambda: FGS(eps=-1), lambda: RFGS(share=1.5), lambda: RFGS(eps=float("nan"))]
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(InputError):
        make()
