"""Oracles for the minimum-norm attacks: linear models with exact distances, and a small trained network."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from isogrid.core.random import generator


def _least(x: Tensor, w: Tensor, gap: Tensor, norm: str, boxed: bool) -> Tensor:
    """Exact distance to {<w, z - x> = gap}, gap > 0, by bisection over clip(x + t w) or clip(x + t sign w), in float64."""
    step = w if norm == "l2" else w.sign()
    low, high = torch.zeros(len(x), dtype=x.dtype), torch.full((len(x),), 1e6, dtype=x.dtype)

    def at(t: Tensor) -> Tensor:
        z = x + t[:, None] * step
        return z.clamp(0, 1) if boxed else z

    reachable = (w * (at(high) - x)).sum(1) >= gap
    for _ in range(200):
        middle = (low + high) / 2
        over = (w * (at(middle) - x)).sum(1) >= gap
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    delta = at(high) - x
    size = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    return torch.where(reachable, size, math.inf)


@pytest.fixture(scope="session")
def linear_oracle() -> Callable[..., tuple[nn.Module, Tensor, Tensor, Tensor]]:
    """(norm, domain, seed) -> a linear model of anisotropic weights, samples in the box, labels, exact distances."""

    def make(
        norm: str, domain: str, seed: int = 0, n: int = 24, features: int = 12, classes: int = 4
    ) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
        draw = generator(seed, "linear oracle")
        model = nn.Linear(features, classes)
        spread = 10 ** torch.linspace(-1.5, 0.5, features)
        model.weight.data.copy_(torch.randn(classes, features, generator=draw) * spread)
        model.bias.data.copy_(0.1 * torch.randn(classes, generator=draw))
        x = torch.rand(n, features, generator=draw)
        x[: n // 2] = (1.6 * x[: n // 2] - 0.3).clamp(0, 1)  # half of the samples have elements on the faces
        with torch.no_grad():
            y = model(x).argmax(1)
        weight, bias, point = model.weight.data.double(), model.bias.data.double(), x.double()
        exact = torch.full((n,), math.inf, dtype=torch.float64)
        for k in range(classes):
            w = weight[k] - weight[y]
            gap = -((w * point).sum(1) + bias[k] - bias[y])
            size = _least(point, w, gap, norm, domain == "box")
            exact = torch.where(y == k, exact, torch.minimum(exact, size))
        return model, x, y, exact

    return make


@pytest.fixture(scope="session")
def small_net() -> tuple[nn.Module, Tensor, Tensor]:
    """A ReLU network on scikit-learn's 8 x 8 digits, and 96 test samples that it classifies correctly."""
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    draw = generator(0, "small net")
    for _ in range(25):
        for rows in torch.randperm(1500, generator=draw).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(x[1500:]).argmax(1) == y[1500:]
    return model, x[1500:][right][:96], y[1500:][right][:96]
