"""Figures of the levels of a study: robustness, accuracy. What belongs here: curves against sparsity. What does not: pictures, matrices.

Horizontal axis of each: the share of weights left, logarithmic, from dense (left) to sparse, labelled in per cent sparsity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from isogrid.report.advice import advice
from isogrid.report.captions import caption, counted_over, curve_label, describe, few_samples, on_samples
from isogrid.report.style import (
    CONTROL_COLOUR,
    GRID,
    INK,
    MARKERS,
    MUTED,
    PAGE,
    SERIES,
    TRUTH,
    Drawing,
    colours,
    finish,
    new_figure,
    slugify,
)
from isogrid.report.tables import Tables
from isogrid.report.words import axis_title, group_title, norm_label
from isogrid.study.results import DISTANCES, ENVELOPE, EXACT, SHARED, Curve, Group, Point
from isogrid.verdicts.arm import Arm

WIDTH = 4.6
TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
HOLLOW = {"saturated": "o", "collapsed": "X", "void": "D"}
STATE_LABELS = {"saturated": "saturated: no evidence", "collapsed": "collapsed network", "void": "void: no mean, attacks failed"}
MARKS = {
    "most robust": ("*", "most robust level"),
    "not worse": (9, "highest not worse than dense"),
    "fragile": (11, "first fragile level"),
}
_BAND, _BAR = 0.20, 0.9


def level_axis(axes: Axes, sparsities: Sequence[float], *, label: bool = True, few: bool = False) -> None:
    """Set the horizontal axis to the share of weights left: logarithmic, dense on the left, labelled in per cent sparsity."""
    left = [max(1.0 - sparsity, 1e-6) for sparsity in sparsities] or [1.0]
    smallest = min(min(left), 0.5)
    axes.set_xscale("log")
    margin = smallest**-0.045
    axes.set_xlim(margin, smallest / margin)
    ticks = [tick for tick in ((0.0, 0.9, 0.99, 0.999) if few else TICKS) if 1.0 - tick >= smallest * 0.92]
    axes.xaxis.set_major_locator(FixedLocator([1.0 - tick for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{100 * tick:g}" for tick in ticks])
    if label:
        axes.set_xlabel("sparsity in %  (share of weights left, logarithmic)")


def positions(curve: Curve, sparsities: dict[int, float]) -> list[float]:
    """Share of weights left per point; a dense control stands at the level whose training it shares."""
    return [max(1.0 - sparsities.get(point.level, point.sparsity), 1e-6) for point in curve.points]


def _spread(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = np.array([point.mean for point in points])
    low = np.array([point.low if math.isfinite(point.low) else point.mean for point in points])
    high = np.array([point.high if math.isfinite(point.high) else point.mean for point in points])
    return mean, low, high


def draw_curve(axes: Axes, curve: Curve, x: list[float], colour: str, marker: str, *, thin: bool = False, dashed: bool = False) -> set[str]:
    """Draw mean, each seed, band of one sd over seeds and 95 % interval; hollow where a level is no evidence. Returns the states met."""
    mean, low, high = _spread(curve.points)
    sd = np.array([point.sd for point in curve.points])
    states = [point.state for point in curve.points]
    at = np.array(x)
    void_at = [state == "void" for state in states]
    line, low, high = (np.where(void_at, np.nan, values) for values in (mean, low, high))
    order = 2 if thin else 4
    axes.plot(at, line, color=colour, lw=0.9 if thin else 1.8, ls=(0, (4, 2)) if dashed else "-", zorder=order, solid_capstyle="round")
    if not thin and np.isfinite(sd).any():
        axes.fill_between(at, line - sd, line + sd, color=colour, alpha=_BAND, lw=0, zorder=order - 1)
    if not thin:
        seeds = [(x_, value) for x_, point in zip(x, curve.points, strict=True) for value in point.by_seed if len(point.by_seed) > 1]
        if seeds:
            axes.plot(*np.transpose(seeds), ls="", marker=".", ms=3, mec="none", color=colour, alpha=0.55, zorder=order + 2)
    axes.vlines(at, low, high, color=colour, lw=0.5 if thin else _BAR, alpha=0.6 if thin else 1.0, zorder=order)
    size = 2.6 if thin else 4.6
    for state in dict.fromkeys(states):
        keep = [k for k, name in enumerate(states) if name == state]
        hollow = state != "sound"
        shape = HOLLOW.get(state, marker) if state != "saturated" else marker
        void = state == "void"  # without a mean: its mark stands on the axis
        place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False} if void else {}
        axes.plot(
            at[keep], np.zeros(len(keep)) if void else mean[keep], ls="", marker=shape, ms=size + (1.2 if hollow else 0), color=colour,
            zorder=order + 1, mfc=PAGE if hollow else colour, mec=colour, mew=0.6 if thin else 1.1, **place,
        )  # fmt: skip
    return {state for state in states if state != "sound"}


def draw_truth(axes: Axes, curve: Curve, x: list[float]) -> list[Line2D | Patch]:
    """Mark what complete search found: the value where every sample was decided, else a bar between what it may be. Returns the keys."""
    look: dict[str, Any] = {"ls": "", "marker": "D", "ms": 5.5, "mfc": PAGE, "mec": TRUTH, "mew": 1.5}
    known = [(at, point.mean) for at, point in zip(x, curve.points, strict=True) if math.isfinite(point.mean)]
    open_ = [(at, point.low, point.high) for at, point in zip(x, curve.points, strict=True) if point.undecided]
    keys = list[Line2D | Patch]()
    if known:
        axes.plot(*np.transpose(known), zorder=7, **look)
        keys.append(Line2D([], [], label="the truth (complete search)", **look))
    if open_:
        bar: dict[str, Any] = {"color": TRUTH, "lw": 3.5, "alpha": 0.45}
        axes.vlines(*np.transpose(open_), zorder=7, **bar)
        keys.append(Line2D([], [], label="the truth lies here", **bar))
    return keys


def draw_reference(axes: Axes, dense: Point | None, group: Group, tolerance: Mapping[str, float]) -> bool:
    """Draw the untouched dense reference as a horizontal line, with the tolerance below it. Returns whether there was one."""
    if dense is None or not math.isfinite(dense.mean):
        return False
    share = _tolerance(group, tolerance)
    share *= dense.mean if group.metric in DISTANCES else 1.0
    if share:
        axes.axhspan(dense.mean - share, dense.mean, color=GRID, lw=0, zorder=0.5)
    axes.axhline(dense.mean, color=INK, lw=0.9, ls=(0, (1, 1.6)), zorder=1.5)
    return True


def _tolerance(group: Group, tolerance: Mapping[str, float]) -> float:
    """The study's tolerance for a metric: relative for distances, absolute for accuracies; 0 where it has none."""
    name = "distance" if group.metric in DISTANCES else "accuracy" if group.metric == "accuracy" else "r_inf"
    return float(tolerance.get(name) or 0.0)


def key(label: str, colour: str, marker: str, **line: Any) -> Line2D:
    """The legend entry of a curve."""
    return Line2D([], [], color=colour, marker=marker, ms=4.5, mec=colour, label=label, **{"mfc": colour, "lw": 1.6, **line})


def legend_keys(
    *, states: set[str], control: bool, dense: bool, band: bool, colour: str, tolerance: bool, given: bool = False
) -> list[Line2D | Patch]:
    """The part of a legend that explains how to read the marks; only what the figure really shows."""
    keys: list[Line2D | Patch] = []
    if control:
        keys.append(key("dense control, equal training", CONTROL_COLOUR, "s", ls=(0, (4, 2))))
    if dense:
        keys.append(Line2D([], [], color=INK, lw=0.9, ls=(0, (1, 1.6)), label="level 0" if given else "untouched dense network"))
    if dense and tolerance:
        keys.append(Patch(color=GRID, lw=0, label=f"tolerance below {'level 0' if given else 'dense'}"))
    if band:
        keys.append(Patch(color=colour, alpha=_BAND, lw=0, label="± 1 sd over seeds"))
        keys.append(Line2D([], [], color=colour, lw=0, marker=".", ms=4, mec="none", alpha=0.55, label="each seed"))
    keys.append(Line2D([], [], color=colour, lw=0, marker="|", ms=8, mew=_BAR, label="95 % interval"))
    for state in (name for name in HOLLOW if name in states):
        keys.append(Line2D([], [], lw=0, marker=HOLLOW[state], mfc=PAGE, mec=MUTED, ms=5.5, label=STATE_LABELS[state]))
    return keys


def add_legend(figure: Figure, keys: Sequence[Line2D | Patch], columns: int = 2) -> None:
    """Place the legend below the axes and let the figure grow for it."""
    rows = math.ceil(len(keys) / columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.175 * rows + 0.06)
    figure.legend(handles=list(keys), loc="outside lower left", ncols=columns, columnspacing=1.4, handlelength=2.0, borderpad=0.1)


def headline(curves: Sequence[Curve]) -> Curve:
    """The envelope where there is one, else the strongest of the attacks on the most samples: the lowest mean over shared levels.

    The truth only where there is nothing else.
    """
    curves = [curve for curve in curves if not curve.is_truth] or curves
    if curves[0].is_envelope:
        return curves[0]
    samples = {curve.attack: max((p.n for p in curve.points), default=0) for curve in curves}
    curves = [curve for curve in curves if samples[curve.attack] == max(samples.values())]
    shared = set.intersection(*({p.level for p in curve.points} for curve in curves)) or None

    def mean(curve: Curve) -> float:
        values = [p.mean for p in curve.points if (shared is None or p.level in shared) and math.isfinite(p.mean)]
        return sum(values) / len(values) if values else math.inf

    return min(curves, key=mean)


def attack_looks(study: Tables, norm: str) -> dict[str, tuple[str, str]]:
    """Attack name -> (colour, marker) among the attacks of one norm, the same in every figure of the study."""
    listed = [one.name for one in study.summary.attacks if one.norm == norm]
    met = [curve.name for curve in study.curves if curve.group.norm == norm and curve.is_attack]
    return {**colours([*listed, *met]), ENVELOPE: (INK, MARKERS[0]), SHARED: (MUTED, MARKERS[0]), EXACT: (TRUTH, "D")}


def draw_marks(axes: Axes, study: Tables, arm: Arm, norm: str) -> list[Line2D | Patch]:
    """Set the decided recommendations that concern this norm on the upper edge of the axes; returns their legend keys."""
    levels, keys = study.sparsities(arm), list[Line2D | Patch]()
    for one in advice(study, arm):
        kind = one.key.split(" ℓ")[0]
        ours = one.key.endswith(norm_label(norm)) if kind == "most robust" else True
        if kind in MARKS and ours and one.decided and one.level in levels:
            shape, label = MARKS[kind]
            look: dict[str, Any] = {"marker": shape, "ms": 9 if shape == "*" else 7, "mfc": INK, "mec": PAGE, "mew": 0.5, "ls": ""}
            axes.plot([max(1.0 - levels[one.level], 1e-6)], [1.0], transform=axes.get_xaxis_transform(), clip_on=False, zorder=9, **look)
            keys.append(Line2D([], [], label=label, **look))
    return keys


def overview(study: Tables, arm: Arm, group: Group, folder: Path | None) -> Drawing:
    """The headline curve of one threat model with its control and full uncertainty, the study's attacks thin beside it."""
    curves = study.attacks(arm, group)
    main, looks, levels = headline(curves), attack_looks(study, group.norm), study.sparsities(arm)
    others = [curve for curve in curves if curve is not main and not curve.is_truth]
    truth = next((curve for curve in curves if curve.is_truth and curve is not main), None)
    colour, marker = looks[main.name]
    figure = new_figure(WIDTH, 2.75)
    axes = figure.subplots()
    states: set[str] = set()
    for curve in others:
        states |= draw_curve(axes, curve, positions(curve, levels), *looks[curve.name], thin=True)
    control = study.control(main)
    if control is not None:
        states |= draw_curve(axes, control, positions(control, levels), CONTROL_COLOUR, "s", dashed=True)
    states |= draw_curve(axes, main, positions(main, levels), colour, marker)
    truths = draw_truth(axes, truth, positions(truth, levels)) if truth is not None else []
    dense = draw_reference(axes, main.at(0), group, study.summary.tolerance)
    finish_axes(axes, group, [1.0 - p for p in positions(main, levels)])
    kind = "minimum over attacks" if main.is_envelope else "strongest attack here" if others else "the only attack here"
    keys: list[Line2D | Patch] = [key(f"{curve_label(study, main)}: {kind}", colour, marker)]
    keys += [key(curve_label(study, c), *looks[c.name], lw=0.9) for c in others]
    keys += truths
    several = any(math.isfinite(point.sd) for point in main.points)
    tolerance = _tolerance(group, study.summary.tolerance) > 0
    keys += legend_keys(
        states=states, control=control is not None, dense=dense, band=several, colour=colour, tolerance=tolerance, given=study.given(arm)
    )
    add_legend(figure, keys + draw_marks(axes, study, arm, group.norm))
    return finish(
        figure,
        folder,
        slug=slugify(study.title(arm), group.metric, group.norm, group.domain, group.eps),
        title=group_title(group),
        alt=describe(study.title(arm), main, group),
        caption=caption(study, main, others, control, several, truth),
    )


def finish_axes(axes: Axes, group: Group, sparsities: Sequence[float]) -> None:
    """Axes of one metric: level axis, a zero at the bottom, the quantity as title."""
    level_axis(axes, sparsities)
    axes.set_ylim(bottom=0.0)
    if group.metric not in DISTANCES:
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.set_title(axis_title(group) if group.metric != "accuracy" else "accuracy (share of all samples)")


def stack(study: Tables, arm: Arm, group: Group, folder: Path | None) -> Drawing | None:
    """One panel per attack of a threat model, each with its own control, reference and uncertainty; None for a single attack."""
    curves = [curve for curve in study.attacks(arm, group) if curve.is_attack]
    if len(curves) < 2:
        return None
    looks, levels, tolerance = attack_looks(study, group.norm), study.sparsities(arm), study.summary.tolerance
    figure = new_figure(WIDTH, 0.45 + 1.15 * len(curves))
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    states, controls, dense = set[str](), False, False
    for place, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        control = study.one(arm, group, curve.attack, control=True)
        if control is not None:
            states |= draw_curve(axes, control, positions(control, levels), CONTROL_COLOUR, "s", dashed=True)
        states |= draw_curve(axes, curve, positions(curve, levels), *looks[curve.name])
        dense |= draw_reference(axes, curve.at(0), group, tolerance)
        controls |= control is not None
        finish_axes(axes, group, list(levels.values()))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
        axes.set_title(
            curve_label(study, curve) + ("" if control is not None else "  (no control attacked)"), color=looks[curve.name][0], fontsize=8.5
        )
        if place < len(curves) - 1:
            axes.set_xlabel("")
    several = any(math.isfinite(point.sd) for curve in curves for point in curve.points)
    against = "figure at level 0" if study.given(arm) else "dense control and its own untouched dense reference"
    add_legend(
        figure,
        legend_keys(
            states=states,
            control=controls,
            dense=dense,
            band=several,
            colour=MUTED,
            tolerance=_tolerance(group, tolerance) > 0,
            given=study.given(arm),
        ),
    )
    return finish(
        figure,
        folder,
        slug=slugify(study.title(arm), group.metric, group.norm, group.domain, group.eps, "attacks"),
        title=f"{group_title(group)}: each attack",
        alt=" ".join(describe(study.title(arm), curve, group) for curve in curves),
        caption=f"Each attack against its own {against}. Vertical scales differ." + few_samples(study, curves),
    )


def accuracy(study: Tables, arm: Arm, folder: Path | None) -> Drawing | None:
    """Accuracy without attack against sparsity; None where the study has none."""
    curve = next(iter(study.select(arm, metric="accuracy")), None)
    if curve is None:
        return None
    levels = study.sparsities(arm)
    figure = new_figure(WIDTH, 2.75)
    axes = figure.subplots()
    control = study.one(arm, curve.group, curve.attack, control=True)
    states = draw_curve(axes, control, positions(control, levels), CONTROL_COLOUR, "s", dashed=True) if control is not None else set()
    states |= draw_curve(axes, curve, positions(curve, levels), SERIES[0][0], "o")
    dense = draw_reference(axes, curve.at(0), curve.group, study.summary.tolerance)
    finish_axes(axes, curve.group, list(levels.values()))
    several = any(math.isfinite(point.sd) for point in curve.points)
    tolerance = _tolerance(curve.group, study.summary.tolerance) > 0
    keys: list[Line2D | Patch] = [key("as given" if study.given(arm) else "pruned", SERIES[0][0], "o")]
    add_legend(
        figure,
        keys
        + legend_keys(
            states=states,
            control=control is not None,
            dense=dense,
            band=several,
            colour=SERIES[0][0],
            tolerance=tolerance,
            given=study.given(arm),
        ),
    )
    told = "" if study.given(arm) else ", mean over seeds"
    told = f"Share of test samples classified correctly without any attack{told}{on_samples(study, [curve])}."
    told = f"{told} {counted_over(study, arm)}".strip()
    alt = describe(study.title(arm), curve, curve.group).replace(group_title(curve.group), "Accuracy without attack")
    return finish(figure, folder, slug=slugify(study.title(arm), "accuracy"), title="Accuracy without attack", alt=alt, caption=told)


def per_class(study: Tables, arm: Arm, folder: Path | None) -> Drawing | None:
    """Accuracy of each class as small multiples (mean and sd over seeds); None without such rows or above 20 classes."""
    rows = study.values(arm)
    if rows.empty:
        return None
    rows = rows[rows["metric"].astype(str).str.startswith("accuracy_class_")]
    names = sorted(rows["metric"].unique(), key=lambda name: (len(name), name))
    if not 1 < len(names) <= 20:
        return None
    figure = new_figure(WIDTH, 0.35 + 0.98 * math.ceil(len(names) / 5))
    panels = figure.subplots(math.ceil(len(names) / 5), 5, sharex=True, sharey=True, squeeze=False)
    whole = rows.groupby("level").agg(sparsity=("sparsity", "mean"), value=("value", "mean"))
    for place, axes in enumerate(panels.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        one = (
            rows[rows["metric"] == names[place]]
            .groupby("level")
            .agg(sparsity=("sparsity", "mean"), mean=("value", "mean"), sd=("value", "std"))
        )
        left = (1.0 - one["sparsity"]).clip(lower=1e-6)
        axes.plot((1.0 - whole["sparsity"]).clip(lower=1e-6), whole["value"], color=CONTROL_COLOUR, lw=0.8)
        axes.fill_between(left, one["mean"] - one["sd"], one["mean"] + one["sd"], color=SERIES[0][0], alpha=_BAND, lw=0)
        axes.plot(left, one["mean"], color=SERIES[0][0], lw=1.4)
        level_axis(axes, list(one["sparsity"]), label=False, few=True)
        axes.set_ylim(0.0, 1.02)
        axes.set_title(f"class {names[place].removeprefix('accuracy_class_')}", fontsize=7.5)
    figure.supxlabel("sparsity in %", fontsize=8, color=MUTED)
    over = "" if study.given(arm) else ", ± 1 sd over seeds"
    told = f"Blue: accuracy of the class{over}. Grey: mean over classes, which hides a class that falls early."
    alt = f"Accuracy of each of {len(names)} classes of {study.title(arm)} against sparsity."
    return finish(figure, folder, slug=slugify(study.title(arm), "accuracy-classes"), title="Accuracy per class", alt=alt, caption=told)
