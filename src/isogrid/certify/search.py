"""The search for the largest radius that a bound certifies, per sample, all samples at once. Not here: the bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""(rows [b], radii R [b]) -> r* [b]: with bounds that hold up to R, what is certified is min(R, r*); r* may exceed R as an outlook."""
_STEPS = 40
_FIRST = 1 / 4  # share of r*(0) that is tried first
_POWER = 2.0  # of the fall r*(0) - r*(R), until two evaluations tell it
_POWERS = 0.25, 16.0  # between which it is believed
_WITHIN = 0.9  # share of the tolerance that a step goes beyond an end that is as close as that
_NEWTON = 12
_FALL = 1.5  # r*(R) is taken to fall like R^-1.5, where one evaluation is all there is


def largest_radius(evaluate: Evaluate, limit: Tensor, tolerance: float, guess: Tensor | None = None) -> Tensor:
    r"""The largest certified radius [B], at most `limit`, up to the share `tolerance`.

    Relaxations made for R hold for every smaller radius, and tighten as R shrinks: r*(R) falls, and the best radius is its fixed point,
    which each evaluation brackets between R and r*(R). The fall r*(0) - r*(R) is close to c R^p over decades of R, so that the next R
    solves c R^p + R = r*(0) for c and p of the last two evaluations; without r*(0) it is the root of the line through r*(R) - R, and
    after the first evaluation where r* falling like R^-1.5 would meet R. Where an end of the bracket is as close to it as the tolerance,
    the next R lies beyond it by that much, and closes the bracket; where two evaluations have not halved the bracket, it is its middle.
    Whatever the function does, what is returned was certified by one evaluation. r* = 0 or infinite serves for bounds that only say no
    or yes. `guess` [B]: the first R, where one is known; else it follows from R = 0.
    """
    rows = torch.arange(len(limit))
    low, high = torch.zeros_like(limit), limit.clone()
    nothing = torch.full_like(limit, math.nan)
    first = evaluate(rows, low).to(limit) if guess is None else nothing
    last, before = (nothing.clone(), nothing.clone()), (nothing.clone(), nothing.clone())  # evaluations: R and r*(R)
    guess = torch.minimum(first * _FIRST if guess is None else guess, limit)
    widths = torch.full_like(limit, math.inf), torch.full_like(limit, math.inf)  # of the bracket, one and two evaluations ago
    rows = rows[~(first <= 0) & (limit > 0)]
    for _ in range(_STEPS):
        if len(rows) == 0:
            break
        radius = guess[rows]
        found = evaluate(rows, radius).to(limit)
        low[rows] = torch.maximum(low[rows], torch.minimum(radius, found))
        high[rows] = torch.minimum(high[rows], torch.maximum(radius, found)).clamp_min(low[rows])
        for new, old, value in zip(last, before, (radius, found), strict=True):
            old[rows], new[rows] = new[rows], value
        ends = low[rows], high[rows]
        width = ends[1] - ends[0]
        aim = _aim(first[rows], (last[0][rows], last[1][rows]), (before[0][rows], before[1][rows]))
        aim = torch.where((aim > ends[0]) & (width <= widths[1][rows] / 2), torch.minimum(aim, ends[1]), _middle(*ends))
        close = tolerance * ends[1]
        aim = torch.where(aim - ends[0] < close / 2, ends[0] + _WITHIN * close, aim)
        beside = (ends[1] - aim < close / 2) & ~(first[rows] - aim < close)  # a bound that falls less needs no other end
        guess[rows] = torch.where(beside, ends[1] - _WITHIN * close, aim)
        widths[1][rows], widths[0][rows] = widths[0][rows], width
        rows = rows[(width > close) & (ends[0] < limit[rows])]
    return low


def _aim(first: Tensor, last: tuple[Tensor, Tensor], before: tuple[Tensor, Tensor]) -> Tensor:
    """Where r*(R) = R by the last two evaluations (R, r*(R)) and r*(0); no number where they do not say."""
    (radius, found), (other, value) = last, before
    fall, power = first - found, torch.log((first - found) / (first - value)) / torch.log(radius / other)
    power = torch.where(torch.isfinite(power), power, _POWER).clamp(*_POWERS)
    root = torch.minimum(first, radius * (first / fall) ** (1 / power))  # from above
    for _ in range(_NEWTON):
        share = fall * (root / radius) ** power
        root = (root - (share + root - first) / (power * share / root + 1)).clamp_min(0.0)
    gap, rest = found - radius, value - other
    straight = radius - gap * (radius - other) / (gap - rest)
    alone = radius * (found / radius) ** (1 / (1 + _FALL))
    straight = torch.where(torch.isnan(other), alone, straight)
    return torch.where(torch.isfinite(root) & (fall >= 0), root, straight)


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """Of a bracket: the geometric one where its ends are far apart."""
    middle = torch.where(low > 0, (low * high).sqrt(), high / 4)
    return torch.where(high < 4 * low, (low + high) / 2, middle)
