"""Square: the published schedule and shapes, linear oracles, what it must never do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS, Square
from isogrid.attacks.square import as_planes, bump, expected_fall, share_of_pixels
from isogrid.core.errors import InputError
from isogrid.core.random import generator


def binary(shape: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(model[1].weight.shape, generator=generator(1, "w")))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    x = torch.rand(24, *shape, generator=generator(2, "x")) * 0.6 + 0.2
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("shape", [(2, 6, 6), (6, 7), (16,), (1, 3, 3, 3)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_shape_stays_in_ball_and_box(shape, norm):
    model, x, y = binary(shape)
    out = Square(eps=0.15 if norm == "linf" else 0.6, norm=norm, queries=60)(model, x, y)
    assert out.success.any()
    assert out.norm.size(out.x_adv - x).max() <= out.eps * (1 + 1e-5)
    assert 0 <= out.x_adv.min() <= out.x_adv.max() <= 1
    assert (out.backwards == 0).all()
    assert out.forwards.max() <= 60


def test_on_a_linear_model_it_comes_close_to_the_optimal_linf_attack_and_never_beats_it():
    model, x, y = binary((1, 5, 5))
    exact = FGS(eps=0.05)(model, x, y)
    out = Square(eps=0.05, queries=1500)(model, x, y)
    assert 0 < exact.success.float().mean() < 1
    assert not (out.success & ~exact.success).any()
    assert out.success.sum() >= exact.success.sum() - 1


def test_the_schedule_halves_where_published():
    assert [share_of_pixels(q, 0.8) for q in (1, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001)] == [
        0.8 / 2**k for k in (0, 0, 1, 1, 2, 3, 4, 5, 6, 7)
    ]
    assert expected_fall(80, 0.8) == 0
    assert expected_fall(5000, 0.8) == 0.8


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 5), (7, 4), (6, 1), (1, 1)])
def test_a_bump_has_unit_size_and_two_signs(height, width):
    pattern = bump(height, width, torch.zeros(1, dtype=torch.float64))
    assert pattern.shape == (height, width)
    assert pattern.square().sum().item() == pytest.approx(1)
    assert height == 1 or (pattern[0].max() > 0 > pattern[-1].min())


def test_planes():
    assert as_planes(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 4, 5)
    assert as_planes(torch.zeros(2, 4, 5)).shape == (2, 1, 4, 5)
    assert as_planes(torch.zeros(2, 7)).shape == (2, 1, 7, 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_are_independent_and_seeds_repeat(norm):
    model, x, y = binary((1, 6, 6))
    attack = Square(eps=0.05 if norm == "linf" else 0.3, norm=norm, queries=80)
    whole, rows = attack(model, x, y), torch.tensor([3, 20])
    torch.testing.assert_close(attack(model, x[rows], y[rows], ids=rows).x_adv, whole.x_adv[rows], rtol=0, atol=1e-5)
    assert torch.equal(attack(model, x, y).x_adv, whole.x_adv)
    assert not torch.equal(attack(model, x, y, seed=1).x_adv, whole.x_adv)


def test_giving_up_hopeless_samples_saves_queries_and_changes_no_verdict():
    model, x, y = binary((1, 6, 6))
    full, thrifty = Square(eps=0.03, queries=500)(model, x, y), Square(eps=0.03, queries=500, prospect=0.8)(model, x, y)
    assert torch.equal(full.success, thrifty.success)
    assert thrifty.forwards.sum() < full.forwards.sum()


@pytest.mark.parametrize("bad", [{"eps": -0.1}, {"queries": 0}, {"share": 0}, {"norm": "l1"}, {"prospect": 0}])
def test_parameters_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Square(**bad)
