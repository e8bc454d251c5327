"""What brackets say of a whole set of samples: the minimal perturbation of each lies between its `lower` and its `upper` end.

What belongs here: arrays [N] -> figures. What does not: how ends are found, comparing levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from isogrid.core.norms import allowed

Array = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
EXACT = 0.01
"""Ends that differ by at most this share of the upper one count as one: the distance is known."""


def certified(lower: Array, upper: Array, eps: float) -> Bools:
    """bool [N]: proved robust at eps; a misclassified sample (upper end 0) is not, whatever its radius."""
    found: Bools = (lower >= eps) & (upper > 0)
    return found


def unbroken(upper: Array, eps: float) -> Bools:
    """bool [N]: no attack reached it within eps."""
    found: Bools = upper > allowed(eps)
    return found


def tightness(lower: Array, upper: Array) -> Array:
    """lower / upper of the samples that have a distance (upper end above 0 and finite)."""
    broken = (upper > 0) & np.isfinite(upper)
    found: Array = np.minimum(lower[broken] / upper[broken], 1.0)
    return found


def decided(lower: Array, upper: Array, eps: float | None) -> Bools:
    """bool [N]: nothing is left to know: certified or broken at eps; without one the distance is known."""
    return known(lower, upper) if eps is None else certified(lower, upper, eps) | ~unbroken(upper, eps)


def known(lower: Array, upper: Array) -> Bools:
    """bool [N]: the ends differ by EXACT at most, or agree that there is no perturbation."""
    found: Bools = (upper == lower) | (lower >= upper * (1 - EXACT))
    return found


def bracket_metrics(lower: Array, upper: Array, budgets: Sequence[float]) -> Iterator[tuple[str, float | None, float]]:
    """(metric, eps, value): the means of both ends as r_2 counts them (misclassified: 0), their medians over samples classified correctly,
    how tight the brackets are, the share that is exact; certified and unbroken accuracy at each of `budgets`.

    Means are over the samples whose end is finite.
    """
    right = upper > 0
    for name, ends in (("certified_radius", lower), ("attacked_radius", upper)):
        ends = np.where(right, ends, 0.0)
        finite = ends[np.isfinite(ends)]
        if len(finite):
            yield name, None, float(finite.mean())
        if right.any():
            yield f"median_{name}", None, float(np.median(ends[right]))
    tight = tightness(lower, upper)
    if len(tight):
        yield "tightness", None, float(np.median(tight))
    yield "exact_share", None, float(known(lower, upper).mean())
    for eps in budgets:
        yield "certified_accuracy", eps, float(certified(lower, upper, eps).mean())
        yield "unbroken_accuracy", eps, float((unbroken(upper, eps) & right).mean())
