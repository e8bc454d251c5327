"""HopSkipJump: a minimum-norm attack that sees nothing but predicted classes. What does not belong here: any use of logits' values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Problem, Role
from isogrid.attacks.driver.kinds import FORWARD, MinimumNorm
from isogrid.attacks.driver.parameters import choice, whole
from isogrid.core.norms import L2, NORMS, Norm, rows as per_row
from isogrid.core.random import Streams

PROBE_BLOCK, SINGLE_BLOCK = 64, 8
"""Queries reach the model in blocks of these heights, the last one padded: a matrix product rounds differently at other heights, and
a walk along a decision boundary amplifies one flipped decision. So a sample's path does not depend on who shares the batch."""
GROUP = 8
"""Directions drawn and evaluated together: bounds the memory, and fixes the order of every sum."""
HALVINGS = 30
BLENDS = (1.0, 0.75, 0.5, 0.3)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HopSkipJump(MinimumNorm):
    r"""HopSkipJump: walk along the decision boundary on predicted classes alone, towards the clean sample.

    Round t: with phi(x') = +1 where x' is misclassified, else -1, and u_j uniform on the unit l2 sphere,

        g = sum_j (phi(x_t + delta u_j) - mean phi) u_j,   B_t = probes * sqrt(t) directions,   delta = ||x_t - x||_2 / d,

    then x_t + xi v with v the steepest direction of g in `norm`, xi = ||x_t - x|| / sqrt(t) halved until misclassified, then bisection
    on the radius back to the boundary. The start is `start` where that is misclassified, else noise (uniform, or corners of the box)
    blended with x, `trials` times. A row never spends more than `queries` predictions; the shortest point it met is the candidate.

    Raises InputError for parameters out of range. Source: Chen, Jordan & Wainwright 2020; here delta is measured in l2 in both norms, and
    the bisection stops at 2^-12 to 2^-20 of the radius, because in float32 the published l_inf constants drown in rounding.
    Pitfall: with few queries its distance is far above the minimum; it is a check against masked gradients, not a measure.

    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> out = HopSkipJump(queries=1000)(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
    >>> out.success.item(), 0.141 < out.distance.item() < 0.143, out.backwards.item()
    (True, True, 0)
    """

    name: ClassVar[str] = "hopskipjump"
    role: ClassVar[Role] = "gradient-free"
    strength: ClassVar[Mapping[str, int]] = {}  # with these queries it is a check, no measure
    state_copies: ClassVar[int] = 12 * GROUP

    norm: Literal["l2", "linf"] = choice("l2", NORMS)
    queries: int = whole(5000)
    probes: int = whole(100)
    trials: int = whole(64)

    def expected_gradients(self) -> float:
        return FORWARD * self.queries

    def search(self, problem: Problem) -> Tensor:
        oracle = _Oracle(problem=problem, left=torch.full_like(problem.rows, self.queries))
        best = problem.x.clone()
        shortest = best.new_full((problem.n,), math.inf, dtype=torch.float64)
        rows, at = self._begin(oracle)
        bits = min(20, max(12, math.ceil(1.5 * math.log2(problem.x[0].numel()))))
        step = 0
        while True:
            at = oracle.approach(at, rows, bits)
            size = _size(problem.norm, at - problem.x[rows])
            better = size < shortest[rows]
            best[rows[better]], shortest[rows[better]] = at[better], size[better]
            count = int(self.probes * math.sqrt(step + 1))
            affordable = (oracle.left[rows] >= count + 1 + bits) & (size > 0)
            rows, at, size = rows[affordable], at[affordable], size[affordable]
            if not len(rows):
                return best
            direction = _direction(oracle, at, rows, step, count)
            at = _jump(oracle, at, rows, direction, size / math.sqrt(step + 1), reserve=bits)
            step += 1

    def _begin(self, oracle: _Oracle) -> tuple[Tensor, Tensor]:
        """(rows, misclassified points) for those rows where a start was found."""
        problem = oracle.problem
        x, domain = problem.x, problem.domain
        at = x.clone()
        found = torch.zeros(problem.n, dtype=torch.bool, device=x.device)
        everyone = torch.arange(problem.n, device=x.device)
        for trial in range(-1, self.trials):
            rows = everyone[~found & (oracle.left > 0)]
            if not len(rows):
                break
            if trial >= 0:
                streams, shape = problem.streams.take(rows), tuple(x[rows].shape)
                noise = streams.uniform(shape, self.name, "start", trial, dtype=x.dtype)
                if trial % 2:  # corners: a network may give one class to all grey noise, and its samples would find no start
                    noise = noise.round()
                share = BLENDS[trial // 2 % len(BLENDS)]
                points = x[rows] + share * (domain.low + (domain.high - domain.low) * noise - x[rows])
            elif problem.start is not None:
                points = domain.clip(problem.start[rows])
            else:
                continue
            wrong = oracle.adversarial(points, rows, SINGLE_BLOCK)
            at[rows[wrong]], found[rows[wrong]] = points[wrong], True
        return everyone[found], at[found]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Oracle:
    """Is a point misclassified? The only question asked; `left` [B] counts down the queries of each row."""

    problem: Problem
    left: Tensor

    def adversarial(self, points: Tensor, rows: Tensor, block: int) -> Tensor:
        """bool [b] for `points` [b, *S] of `rows` [b], which may repeat."""
        wrong = []
        for part, owner in zip(torch.split(points, block), torch.split(rows, block), strict=True):
            missing = block - len(part)
            padded = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            predicted = self.problem.logits(padded, owner)[: len(part)].argmax(1)
            wrong.append(predicted != self.problem.y[owner])
        self.left.index_add_(0, rows, torch.full_like(rows, -1))
        return torch.cat(wrong)

    def approach(self, at: Tensor, rows: Tensor, bits: int) -> Tensor:
        """Misclassified points near the boundary on the way from `at` (misclassified) to the clean sample, by `bits` bisections."""
        norm, clean = self.problem.norm, self.problem.x[rows]
        delta = at - clean
        size = _size(norm, delta)
        inside, outside = torch.zeros_like(size), torch.ones_like(size)
        at = at.clone()
        for _ in range(bits):
            able = torch.nonzero(self.left[rows] > 0).squeeze(1)
            if not len(able):
                break
            middle = (inside[able] + outside[able]) / 2
            radius = (middle * size[able]).to(at.dtype)
            points = clean[able] + norm.project(delta[able], radius)
            wrong = self.adversarial(points, rows[able], SINGLE_BLOCK)
            at[able[wrong]], outside[able[wrong]] = points[wrong], middle[wrong]
            inside[able[~wrong]] = middle[~wrong]
        return at


def _size(norm: Norm, delta: Tensor) -> Tensor:
    """Norms [b] in float64, where a sum's rounding (it may depend on the number of rows) is far below one float32 step."""
    return norm.size(delta.double())


def _sphere(streams: Streams, like: Tensor, count: int, *purpose: object) -> Tensor:
    """`count` directions a row, [b, count, *S], of l2 norm 1 and nearly isotropic.

    An element is a sum of four random bytes: a third of a normal deviate's cost, and an excess kurtosis of -0.3 only.
    """
    b, elements = len(like), count * like[0].numel()
    words = streams.bits((b, -(-elements // 2)), *purpose)
    bell = words.view(torch.int8).view(b, 4, -1).to(like.dtype).sum(1)[:, :elements].add_(2.0)
    flat = bell.reshape(b, count, -1)
    length = flat.double().square().sum(2, keepdim=True).sqrt().clamp_min(1e-300).to(like.dtype)
    return (flat / length).view(b, count, *like.shape[1:])


def _direction(oracle: _Oracle, at: Tensor, rows: Tensor, step: int, count: int) -> Tensor:
    """The steepest direction [b, *S] out of the right class at `at`, from `count` predictions a row around it."""
    problem = oracle.problem
    streams, domain = problem.streams.take(rows), problem.domain
    delta = (_size(L2, at - problem.x[rows]) / at[0].numel()).to(at.dtype)
    radius = delta.view(-1, *([1] * at.dim()))
    signed = torch.zeros_like(at, dtype=torch.float64)
    plain = torch.zeros_like(signed)
    votes = torch.zeros(len(rows), dtype=torch.float64, device=at.device)
    for first in range(0, count, GROUP):
        k = min(GROUP, count - first)
        points = domain.clip(at[:, None] + radius * _sphere(streams, at, k, HopSkipJump.name, "probe", step, first))
        moved = ((points - at[:, None]) / radius).double()  # what the domain left of the direction
        wrong = oracle.adversarial(points.flatten(0, 1), rows.repeat_interleave(k), PROBE_BLOCK).view(-1, k)
        phi = wrong.double() * 2 - 1
        for j in range(k):
            signed += per_row(phi[:, j], at) * moved[:, j]
            plain += moved[:, j]
        votes += phi.sum(1)
    mean = votes / count
    unanimous = mean.abs() == 1  # then the baseline would cancel everything: the mean direction says more
    gradient = torch.where(per_row(unanimous, at), signed, signed - per_row(mean, at) * plain)
    return problem.norm.steepest(gradient).to(at.dtype)


def _jump(oracle: _Oracle, at: Tensor, rows: Tensor, direction: Tensor, length: Tensor, reserve: int) -> Tensor:
    """`at` moved along `direction` by `length` [b], halved until misclassified; unmoved where no length is, or `reserve` is reached."""
    at = at.clone()
    here = torch.arange(len(rows), device=at.device)
    for halving in range(HALVINGS):
        here = here[oracle.left[rows[here]] > reserve]
        if not len(here):
            break
        stride = (length[here] * 0.5**halving).to(at.dtype)
        points = oracle.problem.domain.clip(at[here] + per_row(stride, at) * direction[here])
        wrong = oracle.adversarial(points, rows[here], SINGLE_BLOCK)
        at[here[wrong]] = points[wrong]
        here = here[~wrong]
    return at


__all__ = ["HopSkipJump"]
