"""Weight x activation sparsity as a picture and in words: heat map, ridge, most robust corner. Not here: choosing any of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator

from isogrid.report.advice import UNDECIDED, Advice
from isogrid.report.figures import WIDTH, add_legend
from isogrid.report.style import INK, MUTED, PAGE, SERIES, Drawing, finish, new_figure, slugify
from isogrid.report.tables import Tables
from isogrid.report.words import (
    STATES,
    attack_label,
    axis_title,
    eps_text,
    group_title,
    joined,
    norm_label,
    number,
    percent,
    signed,
)
from isogrid.study.results import Grid, Point
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import CONFIDENCE, Corner
from isogrid.verdicts.wording import effect, size

FRAME = SERIES[1][0]
"""The colour of the corner: none of the heat map's."""
_NARROW, _DETAILED = 8, 16
"""Up to so many columns stand in a figure of usual width; and in up to so many a cell has room for its share of zero activations."""


def of_arm(study: Tables, arm: Arm) -> list[Grid]:
    """The grids that are told beside an arm, in reading order."""
    return sorted((one for one in study.summary.grids if one.arm == arm), key=lambda one: (one.group.metric == "accuracy", one.group.order))


def sentences(study: Tables, arm: Arm) -> list[str]:
    """The most robust corner of every measure, in full."""
    return [text for one in of_arm(study, arm) if (text := _sentence(one))]


def _sentence(grid: Grid) -> str:
    if grid.mute:
        where = ", ".join(part for part in (norm_label(grid.group.norm), eps_text(grid.group.eps), grid.group.domain) if part)
        return f"Weight and activation sparsity, {where}: undecided, the dense network without a penalty is {grid.mute}."
    best = grid.corner
    if best is None:
        return ""
    where = f"Most robust corner of weight and activation sparsity in {best.norm}"
    if (best.penalty, best.level) == ("", 0):
        return f"{where}: the dense network without a penalty has the highest mean ({number(best.value)}); no other is shown to be better."
    said = f"{where}: {place(grid, best)}, a gain over the dense network without a penalty of {effect(best)}"
    said = f"{said}." if best.decided else f"{said}: undecided, the gain is not distinguished from chance."
    own = next((one for one in grid.ridge if one.level == best.level), None)
    if not best.penalty or own is None or own.gain is None:
        return said
    told = "" if own.decided else ", not distinguished from chance"
    return f"{said} Of it the penalty’s own part, over no penalty at that sparsity of the weights: {size(own.gain)}{told}."


def place(grid: Grid, corner: Corner) -> str:
    """Where a corner is: both sparsities, and the penalty."""
    point, zeros = _at(grid, corner)
    return f"{percent(point.sparsity)} of the weights and {percent(zeros)} of the activations zero ({corner.penalty or 'no penalty'})"


def _at(grid: Grid, corner: Corner) -> tuple[Point, float]:
    """A corner's point, and the share of activations that are zero there."""
    row = grid.rows[_row(grid, corner.penalty)]
    return next((point, zeros) for point, zeros in zip(row.points, row.activations, strict=True) if point.level == corner.level)


def boxes(study: Tables, arm: Arm) -> Iterator[Advice]:
    """The corner of every measure as a box of the recommendation."""
    for grid in of_arm(study, arm):
        if (best := grid.corner) is None:
            continue
        scale, unit, digits = (100, " %", 1) if best.unit == "relative" else (1, "", 3)
        value, low, high = (signed(scale * end, digits) for end in (best.effect, best.low, best.high))
        told = f"{value}{unit} over dense without a penalty ({100 * CONFIDENCE:.0f} % interval {low} to {high})"
        point, zeros = _at(grid, best)
        where, penalty = f"{percent(point.sparsity)} × {percent(zeros)}", best.penalty or "no penalty"
        yield Advice(
            key=f"corner {grid.group.norm}",
            title=f"Weights × activations zero, most robust under {norm_label(grid.group.norm)}"
            + (f", {eps_text(grid.group.eps)}" if grid.group.budgeted else ""),
            value=where if best.decided else UNDECIDED,
            detail=f"{penalty}; {told}" if best.decided else f"highest mean: {where}, {penalty}; {told}",
            decided=best.decided,
            level=None,
            sparsity=None,
            seeds=best.seeds,
        )


def heat_map(study: Tables, grid: Grid, folder: Path | None) -> Drawing:
    """Weight sparsity to the right, penalties upwards, the dense network without one at the lower left; colour and figure: the mean."""
    numbers = sorted({point.level for row in grid.rows for point in row.points})
    wide, detailed = len(numbers) > _NARROW, len(numbers) <= _DETAILED
    figure = new_figure(WIDTH * (1.9 if wide else 1.25), 1.3 + 0.5 * len(grid.rows))
    axes = figure.subplots()
    sound = [point.mean for row in grid.rows for point in row.points if point.state == "sound" and math.isfinite(point.mean)]
    colours = ScalarMappable(Normalize(min(sound, default=0.0), max(sound, default=1.0)), "cividis")
    states: set[str] = set()
    for y, row in enumerate(grid.rows):
        for point, zeros in zip(row.points, row.activations, strict=True):
            _cell(axes, (numbers.index(point.level), y), point, percent(zeros) if detailed else "", colours)
            states |= {point.state} - {"sound"}
    keys: list[Line2D | Patch] = [*_draw_ridge(axes, grid, numbers), *_draw_corner(axes, grid, numbers)]
    keys += [Patch(fc=PAGE, ec=MUTED, hatch="////", lw=0, label=f"no evidence: {joined(sorted(states))}")] if states else []
    _finish_axes(axes, grid, numbers)
    bar = figure.colorbar(colours, ax=axes, shrink=0.85, pad=0.015, aspect=18)
    bar.outline.set_visible(False)
    add_legend(figure, keys)
    title = "Accuracy without attack" if grid.group.metric == "accuracy" else group_title(grid.group)
    return finish(
        figure,
        folder,
        slug=slugify(study.title(grid.arm), "grid", grid.group.metric, grid.group.norm, grid.group.domain, grid.group.eps),
        title=f"Weight × activation sparsity: {title[0].lower()}{title[1:]}",
        alt=_alt(study, grid, title),
        caption=_caption(grid, detailed),
        wide=wide,
    )


def _cell(axes: Axes, at: tuple[int, int], point: Point, zeros: str, colours: ScalarMappable) -> None:
    """One cell: its mean, below it the share of zero activations; hatched where it is no evidence."""
    x, y = at
    sound = point.state == "sound" and math.isfinite(point.mean)
    colour = colours.to_rgba(np.array(point.mean)) if sound else PAGE
    axes.add_patch(Rectangle(at, 1, 1, fc=colour, ec=PAGE, lw=0.8, zorder=1))
    if not sound:
        axes.add_patch(Rectangle(at, 1, 1, fc="none", ec=MUTED, hatch="////", lw=0, alpha=0.45, zorder=1.5))
    light = sound and float(np.dot(colour[:3], (0.299, 0.587, 0.114))) > 0.5
    tone = MUTED if not sound else "#101010" if light else "#ffffff"
    text = number(point.mean) if math.isfinite(point.mean) else point.state
    axes.text(x + 0.5, y + (0.42 if zeros else 0.4), text, ha="center", va="center", fontsize=8, color=tone, zorder=4)
    axes.text(x + 0.5, y + 0.16, zeros, ha="center", va="center", fontsize=6, color=tone, zorder=4)


def _row(grid: Grid, penalty: str) -> int:
    return next(y for y, row in enumerate(grid.rows) if row.penalty == penalty)


def _draw_ridge(axes: Axes, grid: Grid, numbers: Sequence[int]) -> list[Line2D]:
    """A line over the best penalty of every column, with a full mark where its gain is told from chance."""
    if not grid.ridge:
        return []
    x, y = [numbers.index(one.level) + 0.5 for one in grid.ridge], [_row(grid, one.penalty) + 0.8 for one in grid.ridge]
    for colour, width, order in ((PAGE, 3.2, 5), (INK, 1.4, 6)):  # in steps along the cells' edges: it crosses no figure
        axes.plot(x, y, color=colour, lw=width, zorder=order, drawstyle="steps-mid")
    looks = {True: (INK, "ridge, gain over no penalty told from chance"), False: (PAGE, "ridge: best penalty at each sparsity")}
    for decided, (fill, _) in looks.items():
        keep = [k for k, one in enumerate(grid.ridge) if one.decided == decided]
        axes.plot([x[k] for k in keep], [y[k] for k in keep], ls="", marker="o", ms=5, mfc=fill, mec=INK, mew=1.1, zorder=7)
    met = [decided for decided in (False, True) if any(one.decided == decided for one in grid.ridge)]
    return [Line2D([], [], color=INK, lw=1.4, marker="o", ms=5, mfc=looks[one][0], mec=INK, label=looks[one][1]) for one in met]


def _draw_corner(axes: Axes, grid: Grid, numbers: Sequence[int]) -> list[Patch]:
    """A frame around the most robust corner, broken where its gain is not told from chance."""
    if grid.corner is None:
        return []
    at, style = (numbers.index(grid.corner.level), _row(grid, grid.corner.penalty)), "-" if grid.corner.decided else (0, (3, 1.6))
    axes.add_patch(Rectangle(at, 1, 1, fc="none", ec=FRAME, lw=2.4, ls=style, zorder=8, clip_on=False))
    told = "most robust corner" if grid.corner.decided else "highest mean, its gain over dense undecided"
    return [Patch(fc="none", ec=FRAME, lw=2.0, ls=style, label=told)]


def _finish_axes(axes: Axes, grid: Grid, numbers: Sequence[int]) -> None:
    axes.set(xlim=(0, len(numbers)), ylim=(0, len(grid.rows)))
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(FixedLocator([k + 0.5 for k in range(len(numbers))]))
    axes.yaxis.set_major_locator(FixedLocator([k + 0.5 for k in range(len(grid.rows))]))
    axes.set_xticklabels([_column(grid, level) for level in numbers])
    axes.set_yticklabels([row.penalty.replace("(", "\n").rstrip(")") or "no penalty" for row in grid.rows])
    axes.set_xlabel("weights that are zero")
    axes.set_title("accuracy (share of all samples)" if grid.group.metric == "accuracy" else axis_title(grid.group))


def _column(grid: Grid, level: int) -> str:
    """The weight sparsity of a column: from the least to the most, where a method chooses its own under every penalty."""
    shares = [point.sparsity for row in grid.rows for point in row.points if point.level == level]
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low}\n– {high}"


def _caption(grid: Grid, detailed: bool) -> str:
    seeds = max((point.seeds for row in grid.rows for point in row.points), default=0)
    mean = f"mean of {seeds} seed{'s' if seeds != 1 else ''}"
    parts = ["Right: sparser weights. Up: a stronger penalty, with which more activations are zero."]
    parts.append(f"Figure and colour: {attack_label(grid.attack)}, {mean}." if grid.attack else f"Figure and colour: accuracy, {mean}.")
    if detailed:
        parts.append("Per cent within a cell: activations that are zero, at the layer that feeds the last one, on the test samples.")
    if grid.corner is not None:
        parts.append(
            "The corner’s gain is over the dense network without a penalty, which was trained for less time than a pruned one, and is "
            "estimated at the cell that other seeds and samples choose."
        )
    if grid.mute:
        parts.append(f"No corner: the dense network without a penalty is {grid.mute}.")
    met = {point.state for row in grid.rows for point in row.points}
    parts += [f"{state.capitalize()}: {why}." for state, why in STATES.items() if state in met]
    return " ".join(parts)


def _alt(study: Tables, grid: Grid, title: str) -> str:
    cells = [(point.mean, point.sparsity, row.penalty) for row in grid.rows for point in row.points if point.state == "sound"]
    cells = [cell for cell in cells if math.isfinite(cell[0])]
    head = f"Heat map of {study.title(grid.arm)}, {len(grid.rows)} penalties against sparsity of the weights. {title}"
    if not cells:
        return f"{head}: no cell gives evidence."
    least, most = min(cells), max(cells)
    told = [
        f"{name} {number(value)} at {percent(at)} of the weights, {penalty or 'no penalty'}"
        for name, (value, at, penalty) in (("lowest", least), ("highest", most))
    ]
    return f"{head}: {joined(told)}."
