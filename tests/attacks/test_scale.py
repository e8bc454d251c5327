"""Logits of any unit: searches see them in one in which nothing overflows or vanishes, verdicts and margins are in the model's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import APGDCE, ATTACKS, DDN, FGS, PGD, CarliniWagner
from isogrid.attacks.driver.base import Attack, margin
from isogrid.attacks.driver.subject import ordinary
from isogrid.testing.bench import converging, network, samples
from tests.attacks.test_laws import quick


class Times(nn.Module):
    """A network's logits in another unit."""

    def __init__(self, model: nn.Module, unit: float) -> None:
        super().__init__()
        self.model, self.unit = model, unit

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.unit


def gradient_attacks() -> list[Attack]:
    converge = [converging(cls) for cls in ATTACKS.values() if cls.name != "callable"]
    published = [DDN(), CarliniWagner(steps=100, c0=0.1), PGD(), APGDCE(), FGS()]
    return [quick(a) for a in (*converge, *published) if a.role in ("weak", "strong") and a.name != "autoattack"]


@pytest.mark.parametrize("attack", gradient_attacks(), ids=lambda a: f"{a.name}-{a.threat.name}-{getattr(a, 'converge', '')}")
@pytest.mark.parametrize("unit", [2.0**110, 2.0**70, 2.0**-70, 2.0**-110])
def test_the_unit_of_the_logits_neither_overflows_nor_vanishes(attack, unit):
    model = network()
    x, y = samples(model)
    expected, found = attack(Times(model, 32.0), x, y), attack(Times(model, unit), x, y)
    assert torch.equal(found.clean, expected.clean)
    assert not found.broken_gradient.any()
    assert torch.equal(found.zero_gradient, expected.zero_gradient)
    assert int(found.success.sum()) >= int(expected.success.sum()) - 1
    both = found.success & expected.success & found.correct
    assert found.distance[both].median() <= 1.05 * expected.distance[both].median()
    z = model(found.x_adv).detach() * unit
    assert torch.allclose(found.margin / unit, margin(z, y) / unit, rtol=1e-3, atol=1e-3)  # the model's own unit


def test_ordinary_logits_are_left_as_they_are():
    z = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0], [2e-6, 0.0, 0.0], [5e5, 0.0, -1e5], [1e7, 1e7, 1e7 + 3], [1.0, 0.0, -1e9]])
    assert ordinary(z).tolist() == [1.0] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_logits_are_multiplied_with_powers_of_two(dtype):
    info = torch.finfo(dtype)
    z = torch.tensor([[3e9, 0, -1], [1e-9, 3e-10, 0], [info.max, -info.max, 0], [info.tiny, 0, 0], [info.max, info.max, 0]], dtype=dtype)
    scale = ordinary(z)
    assert bool((torch.frexp(scale).mantissa == 0.5).all())
    size = (z * scale[:, None]).abs().amax(1)
    assert torch.isfinite(size).all()
    assert bool(((size[:2] >= 8) & (size[:2] < 16)).all())


def test_a_row_is_scaled_by_itself():
    model = network()
    x, y = samples(model)
    mixed = Times(model, 2.0**100)
    alone = torch.cat([DDN(steps=10)(mixed, x[i : i + 1], y[i : i + 1], ids=torch.tensor([i])).x_adv for i in range(4)])
    assert torch.allclose(DDN(steps=10)(mixed, x, y).x_adv[:4], alone, atol=1e-5)
