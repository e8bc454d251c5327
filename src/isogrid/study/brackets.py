"""The brackets of a study: per level what is certified and what attacks reached, on the same samples. Not here: drawing, judging."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from isogrid.metrics.brackets import certified, known, tightness, unbroken
from isogrid.metrics.statistics import crossed
from isogrid.study.results import At, Bracket, BracketPoint, Ends
from isogrid.verdicts.records import Bracketed, Family, Level

Array = np.ndarray[Any, np.dtype[np.float64]]
GRID = 40
"""Points of a curve of certified accuracy."""


def brackets(family: Family) -> Iterator[Bracket]:
    """One per norm and domain, of the pruned levels and of the control's rounds; points in the order of their levels."""
    for control, source in ((False, family.pruned), (True, family.control)):
        places = dict.fromkeys(place for level in source.values() for place in level.brackets)
        for norm, domain in places:
            found: dict[int, list[tuple[Level, Bracketed]]] = {}
            for (_, number), level in sorted(source.items()):
                if (norm, domain) in level.brackets:
                    found.setdefault(number, []).append((level, level.brackets[norm, domain]))
            top = _top([one for members in found.values() for _, one in members])
            points = tuple(_point(number, members, top) for number, members in sorted(found.items()))
            yield Bracket(arm=family.arm, control=control, norm=norm, domain=domain, points=points)


def _top(all_: Sequence[Bracketed]) -> float:
    """Where curves end: a little beyond the largest median of an end, and of the budgets."""
    medians = [float(np.median(end)) for one in all_ for end in (one.lower, one.upper)]
    return 1.5 * max([*(value for value in medians if math.isfinite(value)), *(eps for one in all_ for eps in one.budgets)], default=1.0)


def _point(number: int, members: Sequence[tuple[Level, Bracketed]], top: float) -> BracketPoint:
    lower, upper = (np.stack([getattr(one, end) for _, one in members]) for end in ("lower", "upper"))
    pooled, tight = (lower.ravel(), upper.ravel()), tightness(lower.ravel(), upper.ravel())
    grid = np.linspace(0.0, top, GRID + 1)[1:].tolist() if top > 0 else []
    return BracketPoint(
        level=number,
        sparsity=float(np.mean([level.metrics["sparsity"] for level, _ in members])),
        n=lower.shape[1],
        seeds=len(members),
        collapsed=any(level.metrics["collapsed"] for level, _ in members),
        lower=_ends(np.where(upper > 0, lower, 0.0)),
        upper=_ends(upper),
        tightness=float(np.median(tight)) if len(tight) else math.nan,
        exact=float(known(*pooled).mean()),
        at=tuple(_at(lower, upper, eps) for eps in members[0][1].budgets),
        curve=tuple((eps, float(certified(*pooled, eps).mean()), float(unbroken(upper, eps).mean())) for eps in grid),
    )


def _at(lower: Array, upper: Array, eps: float) -> At:
    return At(
        eps=eps,
        certified=_ends(certified(lower, upper, eps).astype(np.float64)),
        attacked=_ends((unbroken(upper, eps) & (upper > 0)).astype(np.float64)),
    )


def _ends(values: Array) -> Ends:
    """The mean over seeds and samples with its interval; none where more than 1 % are infinite (an attack failed, or nothing breaks)."""
    failed = np.isinf(values)
    if failed.mean() > 0.01:
        return Ends(mean=math.nan)
    values = np.where(failed, values[~failed].mean(), values)
    if values.shape[1] < 2:
        return Ends(mean=float(values.mean()))
    low, high = crossed(values).interval()
    return Ends(mean=float(values.mean()), low=max(low, 0.0), high=high)
