"""What the laws are run on: small networks, samples, and the comparison of outcomes. No law is stated here."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.attacks import Attack, AttackOutcome
from isogrid.core.random import generator
from isogrid.testing.law import demand

MARGIN_TOLERANCE: Final = 1e-5
"""Verdicts may differ between two runs only where a logit margin is smaller than this."""
DISTANCE_TOLERANCE: Final = 1e-4
"""Distances of two runs that both succeed may differ by this (absolute, and relative for distances above 1)."""
SHAPE: Final = (1, 6, 6)
ROWS: Final = 16


def randomness() -> tuple[bytes, bytes, object]:
    """The global random state of torch, numpy and python, to compare before and after."""
    state = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), np.asarray(state[1]).tobytes(), random.getstate()  # type: ignore[index]


def network(dtype: torch.dtype = torch.float32, outputs: int = 4) -> nn.Sequential:
    """A small ReLU network with logit gaps of about 1 and boundaries at l2 distances of about 0.3 from samples in [0, 1]."""
    n = math.prod(SHAPE)
    first = nn.Linear(n, 24)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(24, outputs))
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            fan = parameter.shape[1] if parameter.dim() == 2 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator(0, "law network", i)) * 2 / math.sqrt(fan))
        first.bias.sub_(0.5 * first.weight.sum(1))
    return net.to(dtype)


def tiny_network(seed: int, inputs: int = 2, hidden: Sequence[int] = (6,), classes: int = 3) -> nn.Sequential:
    """A random ReLU network whose units and decision boundaries cross the unit box: what `exact_distance` can enumerate, in float64.

    >>> tiny_network(0, hidden=(4, 3))(torch.full((5, 2), 0.5, dtype=torch.float64)).shape
    torch.Size([5, 3])
    """
    sizes = [inputs, *hidden, classes]
    modules: list[nn.Module] = [nn.Flatten()]
    centre = torch.full((1, inputs), 0.5, dtype=torch.float64)
    for i, (width, following) in enumerate(pairwise(sizes)):
        stream = generator(seed, "tiny network", i)
        layer: nn.Linear = nn.utils.skip_init(nn.Linear, width, following, dtype=torch.float64)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            layer.weight.copy_(torch.randn(following, width, generator=stream, dtype=torch.float64) * math.sqrt(2 / width))
            shift = (0.25 if i < len(hidden) else 0.05) * torch.randn(following, generator=stream, dtype=torch.float64)
            layer.bias.copy_(shift - (layer.weight @ nn.Sequential(*modules)(centre)[0]))
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


class _Fortress(nn.Module):
    """`network`, but wherever the first element is below 1/4 it predicts class 0 with no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.inner(x)
        constant = z.new_tensor([1e3] + [0.0] * (z.shape[1] - 1))
        return torch.where((x.flatten(1)[:, 0] < 0.25)[:, None], constant + 0 * z, z)


def fortress(guards: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
    """A model and samples of which the first is as breakable as any, and the `guards` others nearly unbreakable."""
    model = _Fortress()
    x = samples(model.inner)[0][[0, *[1] * guards]].clone()
    x[0, 0, 0, 0], x[1:, 0, 0, 0] = 0.9, 0.0
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def samples(model: nn.Module, dtype: torch.dtype = torch.float32, n: int = ROWS) -> tuple[Tensor, Tensor]:
    """Samples with pixels exactly at 0 and 1; every fifth label is wrong."""
    x = (torch.rand(n, *SHAPE, generator=generator(0, "law samples"), dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1).to(dtype)
    with torch.no_grad():
        z = model(x)
    z = nn.functional.pad(z, (1, 0)) if z.shape[1] == 1 else z
    y = z.argmax(1)
    y[::5] = (y[::5] + 1) % z.shape[1]
    return x, y


def same(first: AttackOutcome, second: AttackOutcome, when: str) -> None:
    """Equal verdicts unless a margin is tiny; equal distances where both succeed."""
    sure = (first.margin.abs() >= MARGIN_TOLERANCE) & (second.margin.abs() >= MARGIN_TOLERANCE)
    other = torch.nonzero(sure & (first.success != second.success)).flatten().tolist()
    demand(not other, f"{when}: the verdict changed for rows {other}")
    both = first.success & second.success
    a, b = first.distance[both].double(), second.distance[both].double()
    apart = (a - b).abs() > DISTANCE_TOLERANCE * a.clamp_min(1)
    rows = torch.nonzero(both).flatten()[apart].tolist()
    demand(not rows, f"{when}: the distance changed for rows {rows}: {a[apart].tolist()} against {b[apart].tolist()}")


def truthful(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, out: AttackOutcome, budget: Tensor | None = None) -> None:
    """Every field of the outcome agrees with an evaluation and a measurement made here."""
    with torch.no_grad():
        z = model(out.x_adv)
        clean = model(x)
    z, clean = (nn.functional.pad(v.reshape(len(x), -1), (1, 0)) if v.numel() == len(x) else v for v in (z, clean))
    correct = clean.argmax(1) == y
    top = z.topk(2, 1).values
    sure = top[:, 0] - top[:, 1] >= MARGIN_TOLERANCE
    demand(bool((out.correct == correct).all()), "the clean prediction is not the model's")
    demand(bool((z.argmax(1) == out.adversarial)[sure].all()), "`adversarial` is not what the model predicts on x_adv")
    demand(bool((out.adversarial != y)[out.success].all()), "a success whose prediction is the true class")
    demand(not bool((out.success & ~correct).any()), "a sample misclassified from the start counted as a success")
    demand(bool((out.distance[~correct] == 0).all()), "a sample misclassified from the start must have distance 0")
    demand(bool(torch.isinf(out.distance[correct & ~out.success]).all()), "a failure must have distance inf")
    demand(bool((out.distance[out.success] > 0).all()), "a success at distance 0")
    size = attack.threat.size(out.x_adv.double() - x.double())
    measured = torch.allclose(out.distance[out.success].double(), size[out.success], rtol=1e-4, atol=1e-6)
    demand(measured, "the distance is not that of x_adv")
    demand(bool(torch.isfinite(out.x_adv).all()), "x_adv holds NaN or infinite values")
    if out.domain.name == "box":
        low, high = out.x_adv.min().item(), out.x_adv.max().item()
        demand(low >= out.domain.low and high <= out.domain.high, f"x_adv leaves the box: [{low}, {high}]")
    limit = torch.full_like(size, attack.budget) if budget is None and attack.budget is not None else budget
    if limit is not None:
        over = torch.nonzero(size > out.domain.allowed(limit.to(x))).flatten().tolist()
        demand(not over, f"rows {over} exceed the budget")
    white_box = not attack.gradient_free
    demand(bool((out.forwards >= 0).all()) and (white_box or bool((out.backwards == 0).all())), "queries counted wrongly")


def take(out: AttackOutcome, rows: Tensor) -> AttackOutcome:
    """The outcome of some rows."""
    per_row = {f.name: getattr(out, f.name)[rows] for f in fields(out) if isinstance(getattr(out, f.name), Tensor)}
    return replace(out, **per_row)


def converging(cls: type[Attack], **fixed: Any) -> Attack:
    """The attack in its converging form where it has one: in a hundredth of the time that some published forms take."""
    form = {"converge": True} if "converge" in {f.name for f in fields(cls)} else {}
    return cls(**form | fixed)
