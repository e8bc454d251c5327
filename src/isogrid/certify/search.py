"""The search for the largest radius that a bound certifies, per sample, all samples at once. Not here: the bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isogrid.core.errors import InputError

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""(rows [b], radii R [b]) -> r* [b]: with bounds that hold up to R, what is certified is min(R, r*); r* may exceed R as an outlook."""
_STEPS = 40
_INSIDE = 0.05  # a guess keeps this share of the bracket away from its ends


def largest_radius(evaluate: Evaluate, limit: Tensor, tolerance: float, guess: Tensor | None = None) -> Tensor:
    r"""The largest certified radius [B], at most `limit`, up to the share `tolerance`.

    Relaxations made for R hold for every smaller radius, and tighten as R shrinks: r*(R) falls, and the best radius is its fixed point,
    which each evaluation brackets between R and r*(R). The next R is the false position of r*(R) - R; of two in a row on one side the
    other's value counts half (Illinois), for r* falls to nothing within a short way and would hold the position back. Whatever the
    function does, what is returned was certified by one evaluation. r* = 0 or infinite serves for bounds that only say no or yes.
    `guess` [B]: the first R, where one is known; else it follows from R = 0.
    """
    rows = torch.arange(len(limit))
    zero = torch.zeros_like(limit)
    first = evaluate(rows, zero).to(limit) if guess is None else torch.full_like(limit, math.nan)
    low, high = zero.clone(), limit.clone()
    below, above = (zero.clone(), first.clone()), (torch.full_like(limit, math.nan), torch.full_like(limit, math.nan))
    guess, side = torch.minimum(first / 2 if guess is None else guess, limit), torch.zeros_like(limit)
    rows = rows[~(first <= 0) & (limit > 0)]
    for _ in range(_STEPS):
        if len(rows) == 0:
            break
        radius = guess[rows]
        found = evaluate(rows, radius).to(limit)
        low[rows] = torch.maximum(low[rows], torch.minimum(radius, found))
        high[rows] = torch.minimum(high[rows], torch.maximum(radius, found)).clamp_min(low[rows])
        gap, fits = found - radius, found >= radius
        for place, known, other, now in ((fits, below, above, 1.0), (~fits, above, below, -1.0)):
            known[0][rows[place]], known[1][rows[place]] = radius[place], gap[place]
            other[1][rows[place & (side[rows] == now)]] /= 2
            side[rows[place]] = now
        guess[rows] = _guess(low[rows], high[rows], first[rows], *(v[rows] for v in (*below, *above)))
        rows = rows[(high[rows] - low[rows] > tolerance * high[rows]) & (low[rows] < limit[rows])]
    return low


def _guess(low: Tensor, high: Tensor, first: Tensor, below: Tensor, gap_below: Tensor, above: Tensor, gap_above: Tensor) -> Tensor:
    """The false position of the gap r*(R) - R: between what is known on both sides, kept inside; else on from R = 0 and below.

    So a bound that does not depend on R is exact at the second step. A geometric middle where neither line says anything.
    """
    width = high - low
    straight = below + (above - below) * gap_below / (gap_below - gap_above)
    inside = torch.minimum(torch.maximum(straight, low + _INSIDE * width), high - _INSIDE * width)
    onward = below + below * gap_below / (first - gap_below)
    onward = torch.maximum(torch.minimum(onward, high), low + _INSIDE * width)
    middle = torch.where(low > 0, (low * high).sqrt(), high / 4)
    middle = torch.where(high < 4 * low, (low + high) / 2, middle)
    return torch.where(torch.isfinite(straight), inside, torch.where(torch.isfinite(onward) & (below > 0), onward, middle))


def require_tolerance(value: float) -> None:
    """Raise InputError unless a relative tolerance is above 0 and below 1."""
    if not 0 < value < 1:
        raise InputError("tolerance", value, "a number above 0 and below 1")
