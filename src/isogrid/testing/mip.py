"""The smallest l_inf perturbation of a small ReLU network by mixed-integer programming: an oracle that shares no code with certificates.

What belongs here: the textbook encoding, solved by HiGHS through scipy. What does not: anything that must be fast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from isogrid.core.errors import InputError

Array = np.ndarray[Any, np.dtype[np.float64]]


def mip_distance(net: nn.Sequential, x: Tensor, y: Tensor, *, eps: float, box: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    r"""min { ||d||_inf <= eps : argmax g(x + d) != y } within the box, per sample: float64 [N]; inf where nothing up to eps is found.

    `net`: Flatten, Linear and ReLU in turn. Every unit that intervals leave undecided has a binary phase a: h >= z, h >= 0,
    h <= z - l (1 - a), h <= u a. Source: Tjeng et al. 2019. Raises InputError where the solver gives up.

    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> _ = net[0].weight.data.copy_(torch.eye(2)), net[0].bias.data.zero_()
    >>> round(mip_distance(net, torch.tensor([[0.8, 0.2]]), torch.tensor([0]), eps=1.0).item(), 4)
    0.3
    """
    layers = [m for m in net if isinstance(m, nn.Linear)]
    weights = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in layers]
    found = []
    for point, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
        classes = len(weights[-1][1])
        found.append(min(_closest(weights, point, int(label), k, eps, box) for k in range(classes) if k != label))
    return torch.tensor(found, dtype=torch.float64)


def _closest(weights: list[tuple[Array, Array]], x: Array, y: int, k: int, eps: float, box: tuple[float, float]) -> float:
    """The distance at which class k reaches class y."""
    hidden = [len(bias) for _, bias in weights[:-1]]
    n, units = len(x), sum(hidden)
    total = n + 2 * units + 1  # x', h, phases, t
    low, high = np.maximum(x - eps, box[0]), np.minimum(x + eps, box[1])
    bounds_low, bounds_high = np.zeros(total), np.ones(total)
    bounds_low[:n], bounds_high[:n], bounds_high[-1] = low, high, eps
    rows, least, most = [], [], []

    def demand(row: Array, a: float, b: float) -> None:
        rows.append(row), least.append(a), most.append(b)  # type: ignore[func-returns-value]

    before, start = slice(0, n), n
    for weight, bias in weights[:-1]:
        centre, reach = weight @ (low + high) / 2 + bias, np.abs(weight) @ (high - low) / 2
        below, above = centre - reach, centre + reach
        for i in range(len(bias)):
            h, phase = start + i, start + i + units
            z = np.zeros(total)
            z[before] = weight[i]
            mine = np.zeros(total)
            mine[h] = 1.0
            bounds_high[h] = max(above[i], 0.0)
            if above[i] <= 0:
                bounds_high[h] = 0.0
            elif below[i] >= 0:
                demand(mine - z, bias[i], bias[i])
            else:
                demand(mine - z, bias[i], math.inf)
                gate = np.zeros(total)
                gate[phase] = -below[i]
                demand(mine - z + gate, -math.inf, bias[i] - below[i])
                gate[phase] = -above[i]
                demand(mine + gate, -math.inf, 0.0)
        low, high = below.clip(0), above.clip(0)
        before, start = slice(start, start + len(bias)), start + len(bias)
    weight, bias = weights[-1]
    margin = np.zeros(total)
    margin[before] = weight[y] - weight[k]
    demand(margin, -math.inf, bias[k] - bias[y])
    for i in range(n):
        side = np.zeros(total)
        side[i], side[-1] = 1.0, -1.0
        demand(side, -math.inf, x[i])
        side = np.zeros(total)
        side[i], side[-1] = 1.0, 1.0
        demand(side, x[i], math.inf)
    integral = np.zeros(total)
    integral[n + units : n + 2 * units] = 1
    cost = np.zeros(total)
    cost[-1] = 1.0
    limits = LinearConstraint(np.array(rows), np.array(least), np.array(most))
    found = milp(cost, constraints=limits, integrality=integral, bounds=Bounds(bounds_low, bounds_high))
    if found.status == 2:  # infeasible
        return math.inf
    if found.status != 0:
        raise InputError("net", found.message, "a network small enough for the solver")
    return float(found.x[-1])
