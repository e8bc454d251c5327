"""Networks that between them hold every operation that certificates support, with random weights, and samples of their inputs."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from isogrid.core.random import generator


def randomised(net, seed=0, sparsity=0.0):
    """Random weights whose units cross zero, running statistics included; a share of each weight's entries zero. In eval mode."""
    for i, (name, value) in enumerate(net.state_dict().items()):
        if not value.is_floating_point():
            continue
        stream = generator(seed, "certify network", i)
        noise = torch.randn(value.shape, generator=stream)
        if name.endswith("running_var"):
            value.copy_(noise.square() + 0.5)
        elif value.dim() > 1:
            keep = torch.rand(value.shape, generator=stream) >= sparsity
            value.copy_(noise * keep * 1.5 / math.sqrt(max(1.0, value[0].numel() * (1 - sparsity))))
        else:
            value.copy_(noise * 0.3 + (1.0 if name.endswith("weight") else 0.0))
    return net.eval()


class Residual(nn.Module):
    """A block that adds its input, twice, once through a product with a constant and once inside out."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(32, 3)

    def forward(self, x):
        h = x + 0.5 * torch.relu(self.first(x))
        h = 1 - (h - self.second(h).relu()) / 2
        return self.last(F.relu(-h).view(h.shape[0], -1))


class Joined(nn.Module):
    """Branches that are concatenated, sliced, stacked, averaged, compared and clipped."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(32, 5), nn.Linear(32, 5), nn.Linear(11, 3)
        self.register_buffer("ones", torch.ones(5, 1))
        self.register_buffer("shift", torch.tensor([0.1, -0.2, 0.3, 0.0, 0.5]))

    def forward(self, x):
        x = x.flatten(1)
        a, b = self.left(x).clamp(-0.5, 1.0), F.relu6(self.right(x) + self.shift)
        joined = torch.cat([a, b[:, 1:], torch.maximum(a, b)[:, :1], (a @ self.ones)], dim=1)
        return self.last(joined)


class Pooled(nn.Module):
    """Overlapping maxima with padding and dilation, means with and without the padding counted, adaptive ones, a mean over what is left."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, stride=1, padding="same"), nn.Linear(4, 3)

    def forward(self, x):
        h = F.max_pool2d(torch.tanh(self.first(x)), 3, 2, padding=1, ceil_mode=True)
        h = F.avg_pool2d(h, 2, 1, padding=1, count_include_pad=False)
        h = F.adaptive_avg_pool2d(F.leaky_relu(h, 0.1), 2)
        return self.last(h.mean((2, 3)))


def networks(sparsity=0.0):
    """{name: network} on inputs [2, 4, 4] with three classes, one of them with a single output."""
    flat = lambda *layers: nn.Sequential(nn.Flatten(), nn.Linear(32, 8), *layers)  # noqa: E731
    made = {
        "mlp": flat(nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        "in place": flat(nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3)),
        "normalised": flat(nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        "sigmoid": flat(nn.Sigmoid(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        "leaky": flat(nn.LeakyReLU(0.2), nn.Linear(8, 6), nn.PReLU(6), nn.Linear(6, 3)),
        "one output": flat(nn.ReLU(), nn.Linear(8, 1)),
        "convolutions": nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 2, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        "dilated": nn.Sequential(nn.Conv2d(2, 3, 2, dilation=2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3)),
        "residual": Residual(),
        "joined": Joined(),
        "pooled": Pooled(),
        "series": nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 3, 4, stride=3), nn.ReLU(), nn.MaxPool1d(3, 2), nn.Flatten(), nn.LazyLinear(3)),
    }
    for net in made.values():
        net(torch.zeros(2, 2, 4, 4))
    return {name: randomised(net.eval(), seed, sparsity) for seed, (name, net) in enumerate(made.items())}


def inputs(rows=6, seed=0):
    """Samples [rows, 2, 4, 4] in [0, 1], some elements on its faces."""
    x = torch.rand(rows, 2, 4, 4, generator=generator(seed, "certify samples"))
    return (x * 1.3 - 0.15).clamp(0, 1)


def perturbed(x, radius, norm, domain, count, seed=0):
    """`count` points per row of x [B, *S] within radius [B]: [B, count, *S] in float64; in the box where the domain is one."""
    shape = len(x), count, x[0].numel()
    delta = torch.randn(shape, dtype=torch.float64, generator=generator(seed, "certify points"))
    delta[:, ::3] = delta[:, ::3].sign()
    delta[:, 1::3] *= torch.rand(shape, generator=generator(seed, "certify faces"))[:, 1::3] < 0.1
    size = delta.norm(dim=2) if norm == "l2" else delta.abs().amax(2)
    length = torch.rand(shape[:2], dtype=torch.float64, generator=generator(seed, "certify lengths")) ** 0.1
    delta = delta / size.clamp_min(1e-12)[:, :, None] * (length * radius[:, None])[:, :, None]
    point = x.double().flatten(1)[:, None] + delta
    return (point.clamp(0, 1) if domain == "box" else point).reshape(*shape[:2], *x.shape[1:])
