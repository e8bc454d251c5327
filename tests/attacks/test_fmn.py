from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.attacks.ddn import DDN
from isogrid.attacks.driver.base import Domain
from isogrid.attacks.fmn import FMN, inside_ball
from isogrid.core.errors import InputError
from isogrid.core.norms import NORMS


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_reaches_the_exact_distance_on_binary_linear_models(linear_oracle, norm, domain):
    model, x, y, exact = linear_oracle(norm, domain, classes=2)
    out = FMN(converge=True, norm=norm, domain=domain, tolerance=1e-4, steps=300)(model, x, y)
    assert out.success.tolist() == torch.isfinite(exact).tolist()
    ratio = out.distance.double() / exact
    assert (out.distance.double() >= exact * (1 - 1e-5) - 1e-6).all()
    assert ratio.max() < 1.01


def test_always_succeeds_and_is_as_near_as_ddn(small_net):
    model, x, y = small_net
    out, ddn = FMN(converge=True)(model, x, y), DDN(converge=True)(model, x, y)
    assert out.success.all()
    assert out.distance.mean() <= ddn.distance.mean() * 1.03


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_as_published_it_spends_its_passes_and_converging_is_nowhere_farther(small_net, norm):
    model, x, y = small_net
    fixed, short = (FMN(norm=norm, domain="free", converge=form)(model, x, y) for form in (False, True))
    assert (fixed.forwards == 100).all()
    assert short.backwards.float().mean() < 60
    assert short.success.all()
    assert fixed.success.float().mean() >= 0.95
    assert short.distance[fixed.success].mean() <= fixed.distance[fixed.success].mean() * 1.005


class Bend(nn.Module):
    """A margin (1 - x)^2 towards a boundary at 1 that it touches, and crosses only beyond."""

    def forward(self, x):
        gap = torch.where(x[:, 0] < 1, (1 - x[:, 0]).square(), 1 - x[:, 0])
        return torch.stack([gap, 0 * gap], 1)


def test_as_published_it_creeps_towards_a_boundary_that_bends_away_and_converging_does_not():
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    assert not FMN(domain="free")(Bend(), x, y).success.any()
    found = FMN(domain="free", converge=True)(Bend(), x, y)
    assert found.success.all()
    assert found.distance.max() < 1.01


@pytest.mark.parametrize("name", ["l2", "linf"])
@pytest.mark.parametrize("domain", ["box", "free"])
def test_the_ball_rule(name, domain):
    norm, place, box = NORMS[name], inside_ball(NORMS[name]), Domain(name=domain)
    draw = torch.Generator().manual_seed(0)
    x, radius = torch.rand(64, 7, generator=draw), 0.05 + torch.rand(64, generator=draw)
    a, b = (torch.randn(64, 7, generator=draw) for _ in range(2))
    pa, pb = place(x, a, radius, box), place(x, b, radius, box)
    assert (norm.size(pa - x) <= radius * (1 + 1e-5)).all()
    assert (pa == box.clip(pa)).all()
    torch.testing.assert_close(place(x, pa - x, radius, box), pa)  # idempotent
    inside = (box.clip(x + 0.01 * a)) - x
    torch.testing.assert_close(place(x, inside, norm.size(inside) * 1.01, box), x + inside)  # the identity inside: no sphere
    assert ((pa - pb).norm(dim=1) <= (a - b).norm(dim=1) + 1e-6).all()  # non-expansive


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_constant_model_fails_honestly(norm):
    model = nn.Linear(5, 3)
    nn.init.zeros_(model.weight)
    model.bias.data.copy_(torch.tensor([1.0, 0.0, 0.0]))
    out = FMN(converge=True, norm=norm, steps=30)(model, torch.rand(4, 5), torch.zeros(4, dtype=torch.long))
    assert not out.success.any()
    assert torch.isinf(out.distance).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_rows_do_not_see_each_other(small_net, norm):
    model, x, y = small_net
    attack = FMN(converge=True, norm=norm)
    whole, part = attack(model, x, y), attack(model, x[5:9], y[5:9], ids=torch.arange(5, 9))
    torch.testing.assert_close(part.distance, whole.distance[5:9], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"tolerance": 1.0}, {"sharpness": 0.0}, {"norm": "l1"}])
def test_parameters_are_verified(wrong):
    with pytest.raises(InputError):
        FMN(**wrong)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(4))
def test_breaks_every_breakable_sample_of_anisotropic_linear_models(linear_oracle, norm, seed):
    # with several classes it may end at another one than the nearest; weights that differ a hundredfold push most elements to their faces
    model, x, y, exact = linear_oracle(norm, "box", seed)
    out = FMN(converge=True, norm=norm)(model, x, y)
    assert out.success.tolist() == torch.isfinite(exact).tolist()
    assert (out.distance.double() >= exact * (1 - 1e-5) - 1e-6).all()
    assert (out.distance.double() / exact).median() < 1.3
