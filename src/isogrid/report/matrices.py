"""Figures beside the main curves: theory of linear models, transfer between levels. What does not belong here: attack curves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from isogrid.report.captions import curve_label
from isogrid.report.figures import WIDTH, add_legend, attack_looks, draw_curve, level_axis, positions
from isogrid.report.style import MUTED, SERIES, Drawing, finish, new_figure, slugify
from isogrid.report.tables import Tables
from isogrid.report.words import attack_label, eps_text, joined, metric_symbol, norm_label, percent
from isogrid.study.results import THEORY, Group, Matrix
from isogrid.verdicts.arm import Arm

# metric -> (label, dashes, place in the palette): bounds dashed, what is exact solid
THEORY_LINES: dict[str, tuple[str, Any, int]] = {
    "bound_r_2": ("the paper's upper bound", (0, (4, 2)), 4),
    "bound_r_inf": ("the paper's upper bound", (0, (4, 2)), 4),
    "r_2_equality": ("the paper's equality", (0, (4, 2)), 4),
    "r_2_optimal": ("exact smallest perturbation", "-", 5),
    "r_2_deepfool": ("DeepFool without overshoot", (0, (1, 1.2)), 3),
    "r_inf_optimal": ("exact optimal attack", "-", 5),
    "r_inf_fgs": ("FGS, exact gradient", (0, (1, 1.2)), 3),
}


def theory_table(study: Tables, arm: Arm) -> pd.DataFrame:
    """The theory rows of a model over seeds: metric, norm, domain, eps, level, sparsity, mean, low, high (range), seeds."""
    table = study.values(arm)
    columns = ["metric", "norm", "domain", "eps", "level"]
    if table.empty or not {*columns, "attack", "value"} <= set(table.columns):
        return pd.DataFrame()
    rows = table[table["attack"] == THEORY]
    values = {"mean": ("value", "mean"), "low": ("value", "min"), "high": ("value", "max"), "seeds": ("value", "count")}
    return rows.groupby(columns, dropna=False).agg(sparsity=("sparsity", "mean"), **values).reset_index()


def theory(study: Tables, arm: Arm, folder: Path | None) -> list[Drawing]:
    """For a linear model: the paper's bounds and the exact optimum beside the attacks, a figure per norm, domain and budget."""
    table = theory_table(study, arm)
    if table.empty:
        return []
    table = table[table["metric"].isin(list(THEORY_LINES)) & table["mean"].notna()]
    drawings = []
    for key, rows in table.groupby(["norm", "domain", "eps"], dropna=False, sort=True):
        norm, domain, eps = tuple(key) if isinstance(key, tuple) else (key, "", math.nan)
        budget = None if math.isnan(float(str(eps))) else float(str(eps))
        group = Group(metric="r_2" if budget is None else "r_inf", norm=str(norm), domain=str(domain), eps=budget)
        drawings.append(_theory_figure(study, arm, group, rows, folder))
    return drawings


def assumption(study: Tables, arm: Arm) -> str:
    """How often FGS's assumption behind the multi-class bound held, in a sentence; empty where it was not measured."""
    table = theory_table(study, arm)
    rows = table[table["metric"] == "assumption_share"] if not table.empty else table
    if rows.empty:
        return ""
    share, worst = float(rows["mean"].mean()), float(rows["low"].min())
    held = f"The assumption on FGS behind the ℓ∞ bound held in {percent(share)} of the class cells"
    return f"{held} (at the worst level and seed {percent(worst)})."


def _theory_figure(study: Tables, arm: Arm, group: Group, rows: pd.DataFrame, folder: Path | None) -> Drawing:
    looks, levels = attack_looks(study, group.norm), study.sparsities(arm)
    figure = new_figure(WIDTH, 2.75)
    axes = figure.subplots()
    keys: list[Any] = []
    measured = study.attacks(arm, group)
    for curve in reversed(measured):
        colour, marker = looks[curve.name]
        draw_curve(axes, curve, positions(curve, levels), colour, marker, thin=True)
        keys.insert(0, Line2D([], [], color=colour, lw=0.9, marker=marker, ms=3, label=curve_label(study, curve)))
    top = max([point.mean for curve in measured for point in curve.points if math.isfinite(point.mean)], default=0.0)
    for name in (name for name in THEORY_LINES if (rows["metric"] == name).any()):
        label, dashes, place = THEORY_LINES[name]
        one, colour = rows[rows["metric"] == name].sort_values("level"), SERIES[place][0]
        left = (1.0 - one["sparsity"]).clip(lower=1e-6)
        axes.fill_between(left, one["low"], one["high"], color=colour, alpha=0.2, lw=0)
        axes.plot(left, one["mean"], color=colour, lw=1.8, ls=dashes, zorder=5)
        keys.append(Line2D([], [], color=colour, lw=1.8, ls=dashes, label=label))
        top = max(top, float(one["mean"].max()))
    cut = group.budgeted and top > 1.0
    level_axis(axes, list(levels.values()))
    axes.set_ylim(0.0, 1.02 if cut else 1.06 * max(top, 1e-9))
    axes.set_title(metric_symbol(group))
    add_legend(figure, keys)
    threat = ", ".join(part for part in (norm_label(group.norm), eps_text(group.eps), f"domain {group.domain}") if part)
    told = joined([THEORY_LINES[name][0] for name in THEORY_LINES if (rows["metric"] == name).any()])
    spread = "One network per level" if study.given(arm) else "Mean over seeds, shaded: range over seeds"
    beside = f"; thin: {joined([curve_label(study, curve) for curve in measured])} as measured" if measured else ""
    return finish(
        figure,
        folder,
        slug=slugify(study.title(arm), "theory", group.norm, group.domain, group.eps),
        title=f"Theory of the linear model, {threat}",
        alt=f"Theory for {study.title(arm)} against sparsity, {threat}: {told}{beside}.",
        caption=f"{spread}{beside}." + (" A bound above 1 says nothing and leaves the picture at the top." if cut else ""),
    )


def transfer(study: Tables, arm: Arm, one: Matrix, folder: Path | None) -> Drawing | None:
    """Heat map of the accuracy of the target level (column) under adversarial examples made on the source level (row)."""
    matrix, names = np.array(one.matrix, dtype=float), [percent(sparsity) for sparsity in one.sparsity]
    count = len(names)
    if matrix.shape != (count, count) or not count:
        return None
    model, attack = study.title(arm), one.attack
    figure = new_figure(WIDTH, WIDTH * 0.86)
    axes = figure.subplots()
    mesh = axes.pcolormesh(np.ma.masked_invalid(matrix), cmap="cividis", vmin=0.0, vmax=1.0, edgecolors="face", linewidth=0.3)
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
    step = math.ceil(count / 9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([k + 0.5 for k in range(0, count, step)]))
    axes.set_xticklabels(names[::step], rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticklabels(names[::step])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("attacked: sparsity of the target")
    axes.set_ylabel("made on: sparsity of the source")
    if count <= 15:
        for (i, j), value in np.ndenumerate(matrix):
            text = "–" if math.isnan(value) else f"{value:.2f}".removeprefix("0")
            tone = MUTED if math.isnan(value) else "#ffffff" if value < 0.55 else "#101010"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=max(5.0, 9.5 - 0.4 * count), color=tone)
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.set_title("accuracy", fontsize=7.5, color=MUTED)
    off = matrix[~np.eye(count, dtype=bool)]
    lowest = f" Lowest off the diagonal: {np.nanmin(off):.2f}." if np.isfinite(off).any() else ""
    return finish(
        figure,
        folder,
        slug=slugify(model, "transfer", attack),
        title=f"Transfer between levels, {attack_label(attack)}{' ' + attack.split('@', 1)[1] if '@' in attack else ''}",
        alt=f"Heat map of {count} by {count} levels of {model}: accuracy of one level under adversarial examples made on another.{lowest}",
        caption="Row: the level the examples were made on. Column: the level attacked. Diagonal: white-box. Dark: the examples carry over.",
    )
