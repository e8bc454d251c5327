"""The brackets of a study, drawn and in words: between what is certified and what attacks reached lies the truth.

What belongs here: figures and rows of brackets. What does not: why a level is robust (mechanism.py), curves of attacks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from isogrid.report.figures import WIDTH, level_axis
from isogrid.report.style import CONTROL_COLOUR, SERIES, Drawing, finish, new_figure, slugify
from isogrid.report.tables import Tables
from isogrid.report.words import MISSING, eps_text, norm_label, number, percent
from isogrid.study.results import Bracket, BracketPoint, Ends
from isogrid.verdicts.arm import Arm

_LOWER, _UPPER = SERIES[2][0], SERIES[0][0]


@dataclass(frozen=True, slots=True, kw_only=True)
class BracketRow:
    """One level: what is known of its accuracy under a budget and of its mean distance, from below and from above."""

    level: int
    sparsity: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BracketTable:
    """The brackets of an arm, a row a level; `columns` name what stands between the two ends."""

    columns: tuple[str, ...]
    rows: tuple[BracketRow, ...]
    note: str


def of(study: Tables, arm: Arm, *, control: bool = False) -> tuple[Bracket, ...]:
    """The brackets of an arm or of the control beside it."""
    return tuple(one for one in study.summary.brackets if one.arm == arm and one.control == control)


def span(low: Ends, high: Ends) -> str:
    """The bracket of a mean: `0.31 – 0.94`, one number where the ends agree to what is shown, an open end where one has no mean.

    >>> span(Ends(mean=0.3), Ends(mean=0.9)), span(Ends(mean=0.3), Ends(mean=0.3)), span(Ends(mean=0.3), Ends(mean=math.nan))
    ('0.300 – 0.900', '0.300', '≥ 0.300')
    """
    below, above = number(low.mean), number(high.mean)
    if math.isnan(high.mean):
        return MISSING if math.isnan(low.mean) else f"≥ {below}"
    return above if below == above else f"{below} – {above}"


def bracket_table(study: Tables, arm: Arm) -> BracketTable | None:
    """What the brackets of an arm say level by level; None where nothing was certified."""
    found = of(study, arm)
    if not found:
        return None
    columns, cells = list[str](), dict[int, list[str]]()
    levels = {point.level: point.sparsity for one in found for point in one.points}
    for one in found:
        budgets = list(dict.fromkeys(at.eps for point in one.points for at in point.at))
        columns += [f"accuracy, {norm_label(one.norm)} {eps_text(eps)}" for eps in budgets]
        columns += [f"mean {norm_label(one.norm)} distance", f"{norm_label(one.norm)} tightness"]
        points = {point.level: point for point in one.points}
        for level in levels:
            cells.setdefault(level, []).extend(_cells(points.get(level), budgets))
    rows = tuple(BracketRow(level=k, sparsity=percent(s), cells=tuple(cells[k])) for k, s in sorted(levels.items()))
    counts = {point.n for one in found for point in one.points}
    seeds = {point.seeds for one in found for point in one.points}
    note = (
        f"On the first {max(counts)} test samples, {_seeds(max(seeds))}: certified – attacked. Tightness: the median of certified over "
        "attacked distance, 1 where the truth is known."
    )
    return BracketTable(columns=tuple(columns), rows=rows, note=note)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _cells(point: BracketPoint | None, budgets: Sequence[float]) -> Iterator[str]:
    if point is None:
        yield from [MISSING] * (len(budgets) + 2)
        return
    by_eps = {at.eps: at for at in point.at}
    yield from (span(by_eps[eps].certified, by_eps[eps].attacked) if eps in by_eps else MISSING for eps in budgets)
    yield span(point.lower, point.upper)
    yield number(point.tightness, 2)


def drawings(study: Tables, arm: Arm, folder: Path | None) -> Iterator[Drawing]:
    """Per norm: the bracket along the levels, then certified and attacked accuracy against the size of the perturbation."""
    for one in of(study, arm):
        control = next((other for other in of(study, arm, control=True) if (other.norm, other.domain) == (one.norm, one.domain)), None)
        for budget in dict.fromkeys(at.eps for point in one.points for at in point.at):
            yield _along(study, arm, one, control, budget, folder)
        if any(math.isfinite(point.upper.mean) for point in one.points):
            yield _along(study, arm, one, control, None, folder)
        if standing := [point for point in one.points if not point.collapsed and point.curve]:
            yield _curves(study, one, standing, folder)


def _ends(point: BracketPoint, budget: float | None) -> tuple[Ends, Ends] | None:
    if budget is None:
        return point.lower, point.upper
    return next(((at.certified, at.attacked) for at in point.at if at.eps == budget), None)


def _along(study: Tables, arm: Arm, one: Bracket, control: Bracket | None, budget: float | None, folder: Path | None) -> Drawing:
    figure = new_figure(WIDTH, 2.75)
    axes = figure.subplots()
    if control is not None:
        _band(axes, control, budget, (CONTROL_COLOUR, CONTROL_COLOUR), beside={p.level: p.sparsity for p in one.points})
    _band(axes, one, budget, (_LOWER, _UPPER))
    level_axis(axes, [point.sparsity for point in one.points])
    axes.set_ylim(bottom=0.0)
    quantity = f"mean {norm_label(one.norm)} distance" if budget is None else f"accuracy, {norm_label(one.norm)} {eps_text(budget)}"
    axes.set_title(quantity)
    keys = [
        Line2D([], [], color=_UPPER, lw=1.6, marker="o", ms=4, label="attacked: no more than this"),
        Line2D([], [], color=_LOWER, lw=1.6, marker="^", ms=4, label="certified: no less than this"),
        Patch(color=_LOWER, alpha=0.16, lw=0, label="the truth lies here"),
    ]
    if control is not None:
        keys.append(Line2D([], [], color=CONTROL_COLOUR, lw=1.0, ls=(0, (4, 2)), label="dense control, equal training"))
    figure.legend(handles=keys, loc="outside lower center", ncols=2)
    n, seeds = max(point.n for point in one.points), max(point.seeds for point in one.points)
    told = "; ".join(f"{percent(p.sparsity)} sparse {span(*ends)}" for p in one.points if (ends := _ends(p, budget)) is not None)
    return finish(
        figure,
        folder,
        slug=slugify(study.title(arm), "bracket", one.norm, one.domain, budget),
        title=f"Bracket: {quantity}, domain {one.domain}",
        alt=f"Certified and attacked {quantity} of {study.title(arm)}: {told}.",
        caption=f"The first {n} test samples, {_seeds(seeds)}; bars: 95 % intervals. No attack can end below the lower line, no "
        "certificate above the upper one.",
    )


def _band(axes: Axes, one: Bracket, budget: float | None, colours: tuple[str, str], beside: dict[int, float] | None = None) -> None:
    """Both ends along the levels; a control (`beside`: the levels' sparsities) stands where the level of its training does."""
    pairs = [(point, ends) for point in one.points if (ends := _ends(point, budget)) is not None and not point.collapsed]
    left = np.array([max(1.0 - (beside or {}).get(point.level, point.sparsity), 1e-6) for point, _ in pairs])
    style: dict[str, Any] = {"ls": (0, (4, 2)), "lw": 1.0} if beside is not None else {"lw": 1.6}
    for place, (colour, marker) in enumerate(zip(colours, ("^", "o"), strict=True)):
        mean, low, high = (np.array([getattr(ends[place], name) for _, ends in pairs]) for name in ("mean", "low", "high"))
        axes.plot(left, mean, color=colour, marker=marker, ms=4, zorder=4, **style)
        axes.vlines(left, low, high, color=colour, lw=0.8, zorder=3)
    if beside is None:
        lower, upper = ([ends[place].mean for _, ends in pairs] for place in (0, 1))
        axes.fill_between(left, lower, upper, color=_LOWER, alpha=0.16, lw=0)


def _curves(study: Tables, one: Bracket, standing: Sequence[BracketPoint], folder: Path | None) -> Drawing:
    """Certified and attacked accuracy against eps at a few levels that stand: dense, the one with the most certified, the sparsest."""
    best = max(standing, key=lambda point: point.lower.mean if math.isfinite(point.lower.mean) else -1.0)
    chosen = list({point.level: point for point in (standing[0], best, standing[-1])}.values())
    figure = new_figure(WIDTH, 2.75)
    axes = figure.subplots()
    keys = []
    for point, (colour, _) in zip(chosen, SERIES, strict=False):
        eps, lower, upper = (list(values) for values in zip(*point.curve, strict=True))
        axes.plot(eps, upper, color=colour, lw=1.2, ls=(0, (4, 2)))
        axes.plot(eps, lower, color=colour, lw=1.6)
        axes.fill_between(eps, lower, upper, color=colour, alpha=0.12, lw=0)
        keys.append(Line2D([], [], color=colour, lw=1.6, label=f"{percent(point.sparsity)} sparse"))
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel(f"size of the perturbation, {norm_label(one.norm)}")
    axes.set_title("accuracy: certified (solid), left by attacks (dashed)")
    figure.legend(handles=keys, loc="outside lower center", ncols=3)
    budgets = {at.eps for point in one.points for at in point.at}
    finite = any(math.isfinite(point.upper.mean) for point in one.points)
    flat = "" if finite else f" What attacks left is known at {', '.join(f'{eps:g}' for eps in sorted(budgets))} alone."
    return finish(
        figure,
        folder,
        slug=slugify(study.title(one.arm), "certified", one.norm, one.domain),
        title=f"Certified accuracy, {norm_label(one.norm)}, domain {one.domain}",
        alt=f"Certified and attacked accuracy of {study.title(one.arm)} against the size of {norm_label(one.norm)} perturbations.",
        caption=f"Shares of the first {chosen[0].n} test samples.{flat}",
    )
