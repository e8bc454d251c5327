"""Exact smallest adversarial perturbations of tiny ReLU networks: the oracle that attacks and certificates are measured with.

What belongs here: exhaustive methods for networks of a dozen units. What does not: anything that scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.norms import L2, Norm, norm as norm_of
from isogrid.core.random import generator

Array = np.ndarray[Any, np.dtype[np.float64]]
Planes = tuple[Array, Array]  # normals a [P, n] and levels c [P] of hyperplanes a.d = c

MAX_UNITS: Final = 16
"""Hidden units in all: the number of activation patterns doubles with each."""
_ON_BOUNDARY: Final = 1e-9  # a margin this small, relative to the logits, is a tie: the candidates are computed to meet it exactly
_SINGULAR: Final = 1e-10  # normalised hyperplanes whose determinant is below this have no common point worth looking at
_PROBES: Final = 512
_BLOCK: Final = 65536  # candidates computed at once, about


def exact_distance(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    norm: str | Norm,
    *,
    domain: Literal["box", "free"] = "box",
    box: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    r"""The exact min { ||d|| : argmax g(x + d) != y } of a tiny ReLU network, per sample: float64 [N].

    `net`: a Sequential of Linear and ReLU (and Flatten, Identity), at most two hidden layers and MAX_UNITS hidden units; `x` [N, *S]
    with up to about 4 inputs, `y` [N]; `norm` l2 or linf. 0 for a misclassified sample, inf where the domain holds no adversarial
    point. Method: on each linear region the problem is convex, and its optimum is determined by the constraints that are active
    there: in l2 it is the least-norm point on the intersection of j <= n hyperplanes (class boundary, unit boundaries, box faces),
    in linf a vertex of the epigraph (j hyperplanes, and n + 1 - j coordinates with |d_i| = t). All such points of all activation
    patterns are computed, and the network itself says which of them are adversarial; the smallest is the optimum. Units that keep
    their sign within a radius known to suffice are not branched on. Raises InputError for a network that it cannot enumerate.
    Pitfall: the cost grows as 2^units times inputs choose n; meant for tests.

    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> _ = net[0].weight.data.copy_(torch.eye(2)), net[0].bias.data.zero_()
    >>> x, y = torch.tensor([[0.8, 0.2]]), torch.tensor([0])
    >>> round(exact_distance(net, x, y, "l2").item(), 4), round(exact_distance(net, x, y, "linf").item(), 4)
    (0.4243, 0.3)
    """
    layers = _layers(net)
    points = x.detach().flatten(1).double().cpu().numpy()
    limits = box if domain == "box" else (-math.inf, math.inf)
    l2 = norm_of(norm) is L2
    found = [_Sample(layers, point, int(label), limits, l2).distance() for point, label in zip(points, y.tolist(), strict=True)]
    return torch.tensor(found, dtype=torch.float64, device=x.device)


def _layers(net: nn.Sequential) -> list[tuple[Array, Array]]:
    """(weight [out, in], bias [out]) per Linear, checked."""
    linear: list[tuple[Array, Array]] = []
    expect_relu = False
    for module in net:
        if isinstance(module, (nn.Flatten, nn.Identity)):
            continue
        if isinstance(module, nn.ReLU) != expect_relu or not isinstance(module, (nn.ReLU, nn.Linear)):
            raise InputError("net", type(module).__name__, "Linear and ReLU in turn, ending in Linear")
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().double().cpu().numpy()
            bias = np.zeros(len(weight)) if module.bias is None else module.bias.detach().double().cpu().numpy()
            linear.append((weight, bias))
        expect_relu = not expect_relu
    if not linear or not expect_relu:
        raise InputError("net", f"{len(net)} modules", "Linear and ReLU in turn, ending in Linear")
    hidden = [len(bias) for _, bias in linear[:-1]]
    if len(hidden) > 2 or sum(hidden) > MAX_UNITS:
        raise InputError("net", f"hidden layers of {hidden} units", f"at most two hidden layers and {MAX_UNITS} units in all")
    if len(linear[-1][1]) == 1:  # a single output z stands for the logits (0, z)
        weight, bias = linear[-1]
        linear[-1] = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros(1), bias])
    return linear


@dataclass(slots=True)
class _Sample:
    """One sample's search: `limits` of the domain, the norm (l2 or linf), the best adversarial point so far."""

    layers: list[tuple[Array, Array]]
    x: Array
    y: int
    limits: tuple[float, float]
    l2: bool

    def distance(self) -> float:
        if int(self.logits(np.zeros((1, len(self.x))))[0].argmax()) != self.y:
            return 0.0
        best = self.probed()
        for planes, targets in self.pieces(best):
            for points in self.candidates(planes, targets):
                best = min(best, self.shortest(points, best))
        return best

    def logits(self, d: Array) -> Array:
        """Logits [M, C] at x + d, d [M, n]."""
        h = self.x + d
        for weight, bias in self.layers[:-1]:
            h = np.maximum(h @ weight.T + bias, 0.0)
        weight, bias = self.layers[-1]
        z: Array = h @ weight.T + bias
        return z

    def size(self, d: Array) -> Array:
        length: Array = np.linalg.norm(d, axis=1) if self.l2 else np.abs(d).max(1)
        return length

    def shortest(self, d: Array, below: float) -> float:
        """The smallest size of the adversarial points among d [M, n] that are shorter than `below`; inf if none is."""
        d = d[np.isfinite(d).all(1)]
        d = d[self.size(d) < below]
        slack = 1e-12 * (1 + np.abs(self.x).max(initial=0.0))
        inside = ((self.x + d >= self.limits[0] - slack) & (self.x + d <= self.limits[1] + slack)).all(1)
        d = d[inside]
        if not len(d):
            return math.inf
        z = self.logits(d)
        own = z[:, self.y].copy()
        z[:, self.y] = -math.inf
        gap = own - z.max(1)
        tie = _ON_BOUNDARY * (1 + np.abs(own))
        broken = d[gap <= tie]
        return float(self.size(broken).min()) if len(broken) else math.inf

    def probed(self) -> float:
        """An upper bound from random rays: only there to bound the search, never the answer unless it is exact."""
        n = len(self.x)
        rays = torch.randn(_PROBES, n, dtype=torch.float64, generator=generator(0, "exact rays")).numpy()
        rays /= np.linalg.norm(rays, axis=1, keepdims=True) if self.l2 else np.abs(rays).max(1, keepdims=True)
        low, high = self.limits
        top = math.inf
        for radius in np.geomspace(1e-3, 16.0 if math.isinf(high) else (high - low) * math.sqrt(n), 48):
            d = np.clip(self.x + radius * rays, low, high) - self.x
            top = min(top, self.shortest(d, math.inf))
            if math.isfinite(top):
                break
        return top

    def pieces(self, radius: float) -> Iterator[tuple[Planes, Planes]]:
        """Per pattern of all but the last hidden layer that is possible within `radius`: (unit boundaries, class boundaries)."""
        groups: list[tuple[Planes, list[tuple[Array, Array]]]] = [
            ((np.empty((0, len(self.x))), np.empty(0)), [(np.eye(len(self.x)), self.x)])
        ]
        for layer in self.layers[:-1]:
            groups = [self.branches(planes, *before, *layer, radius) for planes, maps in groups for before in maps]
        weight, bias = self.layers[-1]
        others = [k for k in range(len(bias)) if k != self.y]
        for planes, maps in groups:
            slopes = np.concatenate([(weight[others] - weight[self.y]) @ matrix for matrix, _ in maps])
            levels = np.concatenate([(weight[self.y] - weight[others]) @ offset + bias[self.y] - bias[others] for _, offset in maps])
            yield planes, (slopes, levels)

    def branches(
        self, planes: Planes, matrix: Array, offset: Array, weight: Array, bias: Array, radius: float
    ) -> tuple[Planes, list[tuple[Array, Array]]]:
        """The next layer's unit boundaries added, and its (M, v), h = M d + v, under each of its patterns."""
        slopes, values = weight @ matrix, weight @ offset + bias
        dual = np.linalg.norm(slopes, axis=1) if self.l2 else np.abs(slopes).sum(1)
        turns = np.abs(values) <= dual * radius * (1 + 1e-9) if math.isfinite(radius) else dual > 0
        edges = np.concatenate([planes[0], slopes[turns]]), np.concatenate([planes[1], -values[turns]])
        maps = []
        for signs in itertools.product((False, True), repeat=int(turns.sum())):
            on = values > 0
            on[turns] = signs
            maps.append((slopes * on[:, None], values * on))
        return edges, maps

    def candidates(self, planes: Planes, targets: Planes) -> Iterator[Array]:
        """Every point that can be a region's optimum, in arrays [M, n]: `count` hyperplanes, the class boundary one of them or not."""
        n = len(self.x)
        limits = [limit for limit in self.limits if math.isfinite(limit)]
        normals = np.concatenate([planes[0], *[np.eye(n) for _ in limits]])
        levels = np.concatenate([planes[1], *[limit - self.x for limit in limits]])
        solve = _least_norm if self.l2 else _vertices
        for count in range(1, n + 1):
            rest = _subsets(len(levels), count - 1)
            for start in range(0, len(targets[1]), step := max(1, _BLOCK // max(1, len(rest)))):
                part = slice(start, start + step)
                yield solve(_joined(targets[0][part], normals[rest]), _joined(targets[1][part], levels[rest]))
            alone = _subsets(len(levels), count)
            yield solve(normals[alone], levels[alone])


def _subsets(size: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Every `count`-element subset of range(size): [K, count], one empty row for count = 0."""
    return np.array(list(itertools.combinations(range(size), count)), dtype=np.int64).reshape(math.comb(size, count), count)


def _joined(first: Array, rest: Array) -> Array:
    """Every row of first [T, ...] put before every group of rest [K, j, ...]: [T * K, 1 + j, ...]."""
    shape = (len(first), len(rest), 1, *first.shape[1:])
    left = np.broadcast_to(first[:, None, None], shape)
    right = np.broadcast_to(rest[None], (len(first), *rest.shape))
    return np.concatenate([left, right], 2).reshape(len(first) * len(rest), 1 + rest.shape[1], *first.shape[1:])


def _least_norm(normals: Array, levels: Array) -> Array:
    """The least-norm point of each { d : A d = c }: A [M, j, n], c [M, j] -> [M', n]; dependent rows are left out."""
    size = np.linalg.norm(normals, axis=2)
    usable = (size > 0).all(1)
    normals, levels = normals[usable] / size[usable, :, None], levels[usable] / size[usable]
    gram = normals @ normals.transpose(0, 2, 1)
    usable = np.abs(np.linalg.det(gram)) > _SINGULAR
    normals, levels, gram = normals[usable], levels[usable], gram[usable]
    d = np.zeros((len(levels), normals.shape[2]))
    for _ in range(2):  # the second pass refines what the squared condition number of the Gram matrix costs
        rest = levels - (normals @ d[:, :, None])[:, :, 0]
        d += (normals.transpose(0, 2, 1) @ np.linalg.solve(gram, rest[:, :, None]))[:, :, 0]
    return d


def _vertices(normals: Array, levels: Array) -> Array:
    """Points with A d = c and |d_i| = t on n + 1 - j coordinates: A [M, j, n], c [M, j] -> [M', n]."""
    j, n = normals.shape[1:]
    found = []
    for tied in itertools.combinations(range(n), n + 1 - j):
        loose = [i for i in range(n) if i not in tied]
        for signs in itertools.product((1.0,), *[(-1.0, 1.0)] * (len(tied) - 1)):  # t may come out negative: that is -signs
            column = normals[:, :, tied] @ np.array(signs)
            system = np.concatenate([normals[:, :, loose], column[:, :, None]], 2)
            size = np.linalg.norm(system, axis=2)
            usable = (size > 0).all(1)
            system, right = system[usable] / size[usable, :, None], levels[usable] / size[usable]
            usable = np.abs(np.linalg.det(system)) > _SINGULAR
            solution = np.linalg.solve(system[usable], right[usable, :, None])[:, :, 0]
            d = np.empty((len(solution), n))
            d[:, loose], d[:, tied] = solution[:, :-1], solution[:, -1:] * np.array(signs)
            found.append(d)
    return np.concatenate(found)
