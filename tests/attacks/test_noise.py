"""Noise has exactly the budget's size, spreads evenly over sphere or corners, and is a floor and no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import FGS, PGD, Noise, make
from isogrid.core.errors import InputError
from isogrid.core.norms import NORMS


class Recorded(nn.Module):
    """A constant class 0 that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return torch.stack([torch.ones(len(x)), torch.zeros(len(x))], 1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_draws_have_the_size_of_the_budget_and_no_direction(norm: str) -> None:
    model, x = Recorded(), torch.full((200, 9), 0.5)
    out = Noise(eps=0.3, norm=norm, draws=20, domain="free")(model, x, torch.zeros(200, dtype=torch.long))
    draws = torch.cat([seen for seen in model.seen if len(seen) == 200][1:21]) - 0.5  # after the clean pass
    assert len(draws) == 4000
    torch.testing.assert_close(NORMS[norm].size(draws), torch.full((4000,), 0.3))
    spread = draws.T @ draws / len(draws)  # isotropic: a multiple of the identity
    scale = 0.09 if norm == "linf" else 0.01
    torch.testing.assert_close(spread, scale * torch.eye(9), atol=scale * 0.08, rtol=0)
    assert draws.mean(0).abs().max() < 0.3 * 0.08
    assert not out.success.any()
    assert torch.isinf(out.distance).all()
    assert (out.forwards == 20).all()


def test_per_row_budgets_and_the_box() -> None:
    x, y = torch.rand(50, 9), torch.zeros(50, dtype=torch.long)
    budget = torch.linspace(0, 0.5, 50)
    out = Noise(eps=0.1, draws=1)(Recorded(), x, y, budget=budget)
    assert ((out.x_adv - x).abs().amax(1) <= budget + 1e-6).all()
    assert out.x_adv.min() >= 0
    assert out.x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l2_noise_in_the_box_has_the_budgets_size_where_the_box_allows(dtype: torch.dtype) -> None:
    """Images lie mostly on the faces of the box, where clipping alone would shorten the noise by a quarter."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(100, 300, generator=draw, dtype=dtype) * (torch.rand(100, 300, generator=draw) < 0.2)
    budget = torch.linspace(0, 12, 100, dtype=dtype)
    out = Noise(eps=1.5, norm="l2", draws=3)(Recorded(), x, torch.zeros(100, dtype=torch.long), budget=budget)
    size, reach = (out.x_adv - x).norm(dim=1), torch.maximum(x, 1 - x).norm(dim=1)
    assert ((size - budget).abs() / budget.clamp_min(1e-3) < 1e-4)[budget < 8].all()
    assert (size <= budget * (1 + 1e-5)).all()
    assert reach.min() > 12  # yet along a random direction the nearer face ends it sooner: the far corner of its orthant
    assert (size[budget > 8] > 7.9).all()
    assert 0 <= out.x_adv.min() <= out.x_adv.max() <= 1


def test_more_draws_find_more_and_gradients_find_most() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 4)
    model.bias.data.copy_(-model.weight.data.sum(1) / 2)  # all boundaries pass through the middle of the box
    x = torch.rand(300, 20)
    y = model(x).argmax(1)
    one, many = (float(Noise(eps=0.1, draws=d)(model, x, y).success.float().mean()) for d in (1, 30))
    assert 0 < one < many
    for attack in (FGS(eps=0.1), PGD(eps=0.1)):
        assert many < float(attack(model, x, y).success.float().mean())


def test_a_broken_row_stops_and_rows_are_independent() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.rand(60, 6)
    y = model(x).argmax(1)
    attack = Noise(eps=0.3, norm="l2", draws=12)
    out = attack(model, x, y)
    assert (out.forwards[out.failed] == 12).all()
    assert (out.forwards[out.success] < 12).any()
    part = attack(model, x[10:20], y[10:20], ids=torch.arange(10, 20))
    assert torch.equal(part.success, out.success[10:20])
    torch.testing.assert_close(part.x_adv, out.x_adv[10:20])


@pytest.mark.parametrize("bad", [{"eps": -0.1}, {"eps": float("inf")}, {"draws": 0}, {"norm": "l0"}])
def test_bad_parameters(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        make({"name": "noise"} | bad)
