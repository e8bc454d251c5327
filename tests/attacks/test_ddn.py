from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from isogrid.attacks.ddn import DDN, on_sphere
from isogrid.attacks.driver.base import Domain
from isogrid.core.errors import InputError


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("seed", [0, 1])
def test_reaches_the_exact_distance_on_binary_linear_models(linear_oracle, domain, seed):
    model, x, y, exact = linear_oracle("l2", domain, seed, classes=2)
    out = DDN(converge=True, domain=domain, tolerance=1e-4, steps=300)(model, x, y)
    assert out.success.tolist() == torch.isfinite(exact).tolist()
    ratio = out.distance.double() / exact
    assert (out.distance.double() >= exact * (1 - 1e-5) - 1e-6).all()
    assert ratio.max() < 1.01


def test_fixed_steps_spend_exactly_their_passes(linear_oracle):
    model, x, y, exact = linear_oracle("l2", "box")
    out = DDN()(model, x, y)
    assert (out.forwards == 100).all()
    assert (out.distance.double() / exact).median() < 1.03


def test_convergence_costs_less_and_is_not_weaker(small_net):
    model, x, y = small_net
    fixed = DDN()(model, x, y)
    short = DDN(converge=True)(model, x, y)
    assert short.success.all()
    assert short.distance.mean() <= fixed.distance.mean() * 1.001
    assert short.backwards.float().mean() < 60


@pytest.mark.parametrize("unit", [0.05, 100.0])
def test_does_not_depend_on_the_unit_of_the_logits(small_net, unit):
    model, x, y = small_net
    scaled = copy.deepcopy(model)
    scaled[-1].weight.data.mul_(unit), scaled[-1].bias.data.mul_(unit)
    a, b = DDN(converge=True)(model, x, y), DDN(converge=True)(scaled, x, y)
    assert b.success.all()
    assert abs(b.distance.mean() / a.distance.mean() - 1) < 2e-3


def test_grows_the_radius_until_the_boundary_is_met():
    # f = 9 - tanh-like wall: the gradient at x promises a boundary 50 times too near
    class Wall(nn.Module):
        def forward(self, x):
            far = x.flatten(1).sum(1)
            return torch.stack([torch.where(far < 6, 1 - 0.9 * far.clamp(max=1) + 0 * far, 6.1 - far) + 0.001 * (6 - far), 0 * far], 1)

    x = torch.full((3, 16), 0.01)
    out = DDN(converge=True)(Wall(), x, torch.zeros(3, dtype=torch.long))
    assert out.success.all()


def test_a_constant_model_fails_honestly():
    model = nn.Linear(5, 3)
    nn.init.zeros_(model.weight)
    model.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    out = DDN(converge=True, steps=30)(model, torch.rand(4, 5), torch.zeros(4, dtype=torch.long))
    assert not out.success.any()
    assert torch.isinf(out.distance).all()
    assert out.zero_gradient.all()


def test_a_sample_with_a_zero_gradient_walks_at_random_and_can_be_broken():
    class Plateau(nn.Module):  # flat within 0.05 of the centre, then falling
        def forward(self, x):
            r = (x - 0.5).flatten(1).abs().amax(1)
            return torch.stack([1 - 4 * (r - 0.05).clamp(min=0), 0 * r], 1)

    out = DDN(converge=True)(Plateau(), torch.full((4, 6), 0.5), torch.zeros(4, dtype=torch.long))
    assert out.zero_gradient.all()
    assert out.success.all()


def test_rows_do_not_see_each_other(small_net):
    model, x, y = small_net
    whole, part = DDN(converge=True)(model, x, y), DDN(converge=True)(model, x[5:9], y[5:9], ids=torch.arange(5, 9))
    torch.testing.assert_close(part.distance, whole.distance[5:9], atol=1e-4, rtol=1e-3)


def test_the_sphere_rule():
    x, delta = torch.rand(6, 10), torch.randn(6, 10)
    radius = torch.tensor([0.01, 0.02, 0.05, 0.5, 1.0, 3.0])
    free = on_sphere(x, delta.clone(), radius, Domain(name="free")) - x
    torch.testing.assert_close(free.norm(dim=1), radius, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(on_sphere(x, free.clone(), radius, Domain(name="free")) - x, free, rtol=1e-4, atol=1e-6)
    boxed = on_sphere(x, delta, radius, Domain())
    assert boxed.min() >= 0
    assert boxed.max() <= 1
    assert ((boxed - x).norm(dim=1) <= radius * (1 + 1e-5)).all()
    assert (on_sphere(x, torch.zeros_like(x), radius, Domain()) == x).all()


def test_is_not_weaker_than_foolbox(small_net):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = small_net
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        _, found, broken = foolbox.attacks.DDNAttack(steps=100)(peer, x, y, epsilons=None)
    assert broken.all()
    theirs = (found - x).norm(dim=1).mean()
    assert DDN(converge=True)(model, x, y).distance.mean() <= theirs * 1.001
    assert DDN()(model, x, y).distance.mean() <= theirs * 1.005


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"tolerance": 1.0}, {"sharpness": -1.0}, {"gamma": 0.0}, {"init_norm": 0.0}])
def test_parameters_are_verified(wrong):
    with pytest.raises(InputError):
        DDN(**wrong)


@pytest.mark.parametrize("seed", range(4))
def test_breaks_every_breakable_sample_of_anisotropic_linear_models(linear_oracle, seed):
    # with several classes it may end at another one than the nearest; weights that differ a hundredfold push most elements to their faces
    model, x, y, exact = linear_oracle("l2", "box", seed)
    out = DDN(converge=True)(model, x, y)
    assert out.success.tolist() == torch.isfinite(exact).tolist()
    assert (out.distance.double() >= exact * (1 - 1e-5) - 1e-6).all()
    assert (out.distance.double() / exact).median() < 1.3
