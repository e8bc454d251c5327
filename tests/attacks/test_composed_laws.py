"""The law suite over attacks that are made of something given: callables, transfer, and `minimise` of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isogrid.attacks import FGS, PGD, Transfer, Wrapped, minimise
from isogrid.core.random import generator
from isogrid.testing import ATTACK_LAWS, check_attack


def sign_step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return x + eps * gradient.sign()


def far(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x + 20 * (sign_step(model, x, y, 1.0) - x)


class Source(nn.Module):
    """A network for the laws' images and tables, in whatever precision they come."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5))
        with torch.no_grad():
            for i, parameter in enumerate(self.inner.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator(5, i)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).float()
        return self.inner(nn.functional.pad(flat, (0, 32 - flat.shape[1]))).to(x.dtype)


UNSEEN = {"zero_gradients", "broken_gradients"}
"""What the callable's pitfall says: a zero gradient inside a function is not seen."""
OTHER = {"finds"}
"""What another model's loss suggests need not cross this one's boundary."""
COMPOSED = {
    "callable": (Wrapped(function=sign_step, norm="linf", eps=0.1), UNSEEN),
    "callable-minimum-norm": (Wrapped(function=far, norm="l2"), UNSEEN),
    "minimise-callable": (minimise(Wrapped(function=sign_step, norm="linf", eps=0.1), searches=4), UNSEEN),
    "transfer-fgs": (Transfer(source=Source(), attack=FGS(eps=0.1)), OTHER),
    "transfer-pgd": (Transfer(source=Source(), attack=PGD(eps=0.1, steps=5)), OTHER),
    "minimise-transfer": (minimise(Transfer(source=Source(), attack=FGS(eps=0.1)), searches=4), OTHER | UNSEEN),
}


@pytest.mark.parametrize(
    ("name", "law"), [(name, law) for name, (_, exempt) in COMPOSED.items() for law in ATTACK_LAWS if law not in exempt]
)
def test_law(name: str, law: str) -> None:
    check_attack(COMPOSED[name][0], [law])
