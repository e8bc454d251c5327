"""docs/theorems.md from a finished study: each statement of the paper with what was measured. Not here: measuring.

    python benchmarks/theorems.py runs/quick docs/theorems.md

Every figure comes from the study's tables; a statement that the study cannot speak of says so.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from isogrid.core.files import write_text
from isogrid.report.brackets import bracket_table
from isogrid.report.mechanism import basis, mechanism_rows
from isogrid.report.tables import Tables, read_tables
from isogrid.report.verdicts import claim_rows
from isogrid.report.words import CLAIMS, number, percent
from isogrid.verdicts.arm import Arm

MISSING = "This study has nothing to say of it."
HEAD = """# What the theorems say and what we measured

Guo, Zhang, Zhang and Chen, "Sparse DNNs with Improved Adversarial Robustness" (NeurIPS 2018). Written by `benchmarks/theorems.py`
from the tables of the study `{name}` ({samples}; {seeds} seeds; isogrid {version}): nothing on this page is typed by hand, and no figure is
the paper's. p is the norm of perturbations, q its dual (1/p + 1/q = 1); levels are named by their sparsity.
"""


def page(study: Tables) -> str:
    """The whole page."""
    one = study.summary.data[0]
    samples = f"{one.name}, {one.train} training and {one.test} test samples"
    head = HEAD.format(name=study.name, samples=samples, seeds=study.summary.seeds, version=study.summary.isogrid)
    parts = [head, "## Claims", *_claims(study), "## Theorems", *(text for make in STATEMENTS for text in make(study))]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _claims(study: Tables) -> Iterator[str]:
    for claim, title in CLAIMS.items():
        yield f"### {claim}. {title}\n"
        rows = [row for row in claim_rows(study) if row.number == claim and row.verdict != "not applicable"]
        for row in rows:
            end = "at the end that attacks reach" if row.end == "attacked" else "at the end that is certified"
            effects = "; ".join(f"{part.measure} {part.effect} ({part.interval})" for part in row.parts)
            why = row.reason if row.reason and row.verdict != "supported" else ""
            yield f"- **{row.model}**, {end}: **{row.verdict}**{f' ({why})' if why else ''}." + (f" {effects}." if effects else "")
        if not rows:
            yield MISSING


def _arms(study: Tables, *, linear: bool) -> list[Arm]:
    return [arm for arm in study.arms if (arm.model in study.summary.linear) == linear]


def _values(study: Tables, arm: Arm, source: str) -> pd.DataFrame:
    """Mean over seeds of the rows of one kind of cell: (level, sparsity) x (metric, norm, domain, eps)."""
    rows = study.values(arm)
    rows = rows[rows["attack"] == source].copy()
    rows["eps"] = rows["eps"].fillna(-1.0)
    sparsity = rows.groupby("level")["sparsity"].mean()
    table = rows.pivot_table(index="level", columns=["metric", "norm", "domain", "eps"], values="value", aggfunc="mean")
    table.index = pd.Index([float(sparsity[level]) for level in table.index], name="sparsity")
    return table


def _column(table: pd.DataFrame, metric: str, norm: str | None = None, domain: str | None = None) -> pd.Series | None:
    """The first column of a metric."""
    for name in table.columns:
        if name[0] == metric and norm in (None, name[1]) and domain in (None, name[2]):
            return table[name]
    return None


def _table(columns: dict[str, pd.Series | None], digits: int = 3) -> str:
    """A Markdown table, a row a level; columns that are not there are left out."""
    there = {name: column for name, column in columns.items() if column is not None}
    if not there:
        return MISSING
    lines = ["| sparsity | " + " | ".join(there) + " |", "|---|" + "---|" * len(there)]
    index = next(iter(there.values())).index
    lines += [
        f"| {percent(at)} | " + " | ".join(_shown(float(column.get(at, math.nan)), digits) for column in there.values()) + " |"
        for at in index
    ]
    return "\n".join(lines)


def _shown(value: float, digits: int) -> str:
    return number(value, digits) if math.isnan(value) or abs(value) < 1000 else f"{value:.3g}"


def _linear(study: Tables) -> Iterator[str]:
    yield "### 1 and 2. Linear classifiers: what bounds r_2 and r_inf\n"
    yield (
        "Two classes: r_2 is *equal* to sum_k pi_k t_k y_k (w.mu_k + b) / ||w||_2 (free domain, overshoot 0). More classes: r_2 is at most "
        "sum_k pi_k t_k ((w_k - wbar).mu_k + b_k - bbar) / ||w_k - wbar||_2, and r_inf at most the same with eps ||w_k - wbar||_1 below, "
        "for the optimal attack always, for FGS where it succeeds often enough in every class (the assumption).\n"
    )
    arms = _arms(study, linear=True)
    for arm in arms:
        of = _values(study, arm, "theory")
        bound, exact = _column(of, "bound_r_2"), _column(of, "r_2_optimal", domain="free")
        yield f"**{study.title(arm)}**, mean over seeds:\n"
        yield _table(
            {
                "r_2, exact": exact,
                "r_2, DeepFool": _column(of, "r_2_deepfool"),
                "equality": _column(of, "r_2_equality"),
                "bound on r_2": bound,
                "bound / exact": None if bound is None or exact is None else bound / exact,
                "r_inf, optimal (free)": _column(of, "r_inf_optimal", domain="free"),
                "r_inf, FGS (free)": _column(of, "r_inf_fgs", domain="free"),
                "bound on r_inf": _column(of, "bound_r_inf", domain="free"),
                "assumption held": _column(of, "assumption_share"),
                "l1 / l2 of w_k - wbar": _column(of, "l1_over_l2"),
                "its limit": _column(of, "l1_over_l2_limit"),
            }
        )
    yield "" if arms else MISSING


def _named(study: Tables, arm: Arm) -> str:
    """An arm, with what its Lipschitz constants and slopes were measured on."""
    rows = study.values(arm)
    rows = rows[rows["attack"] == "lipschitz"]
    seeds = rows["seed"].nunique()
    return f"**{study.title(arm)}** ({int(rows['n'].max())} samples, {seeds} seed{'s' if seeds != 1 else ''})"


def _lipschitz(study: Tables) -> Iterator[tuple[Arm, pd.DataFrame]]:
    for arm in _arms(study, linear=False):
        of = _values(study, arm, "lipschitz")
        if len(of.columns):
            yield arm, of


def _local(study: Tables) -> Iterator[str]:
    yield "### 3. The local guarantee\n"
    yield (
        "Within ||dx||_p < min(min_k (g_y - g_k) / L^k, R), with L^k the largest q-norm of grad (g_y - g_k) in the ball of radius R, no "
        "decision changes. Medians over samples that are classified correctly: the margin to the class that is closest, the slope at the "
        "sample, and the bound on all slopes in the ball (Fast-Lip), which no slope exceeds.\n"
    )
    found = list(_lipschitz(study))
    for arm, of in found:
        for norm in ("l2", "linf"):
            local = _column(of, "median_local", norm)
            radius = next((name[3] for name in of.columns if name[0] == "median_local" and name[1] == norm), math.nan)
            margin = _column(of, "median_gap", norm)
            yield f"{_named(study, arm)}, {norm}, R = {radius:g}:\n"
            yield _table(
                {
                    "margin": margin,
                    "slope at the sample": _column(of, "median_slope", norm),
                    "bound in the ball": local,
                    "margin / bound": None if margin is None or local is None else margin / local,
                    "stable units": _column(of, "median_stable", norm),
                }
            )
    yield "" if found else MISSING


def _products(study: Tables) -> Iterator[str]:
    yield "### 4. Products of norms\n"
    yield (
        "L^k_2 <= ||w_y - w_k||_2 prod_j ||W_j||_2 and L^k_1 <= ||w_y - w_k||_1 prod_j max_v sum_u |W_j[u, v]|, of unrolled convolutions. "
        "The largest over pairs of classes; beside them what is tighter: ECLipsE-Fast in l2, the norm of the product of |W_j| in linf.\n"
    )
    found = list(_lipschitz(study))
    for arm, of in found:
        yield f"{_named(study, arm)}:\n"
        yield _table(
            {
                "l2: ECLipsE-Fast": _column(of, "constant_eclipse"),
                "spectral": _column(of, "constant_spectral"),
                "Frobenius": _column(of, "constant_frobenius"),
                "linf: product of absolute values": _column(of, "constant_absolute"),
                "row sums": _column(of, "constant_row_sum"),
                "condition of W_1": _column(of, "condition_1"),
            }
        )
    yield "" if found else MISSING


def _masks(study: Tables) -> Iterator[str]:
    yield "### 5. Sparsity\n"
    yield (
        "With Bernoulli(1 - alpha_j) masks on W'_1 ... W'_{d-1} and the last layer dense, E L^k_2 <= ||w_y - w_k||_2 prod_j "
        "sqrt(1 - alpha_j) ||W'_j||_F, which falls in every alpha_j; and so does the bound by row sums (Monte Carlo). But the prediction "
        "gap shrinks too, and only gap / L counts. Three networks of the same densities per layer: the dense one under random masks, under "
        "masks by magnitude, and the level itself, whose masks were learned and whose weights were retrained. `margin`, `radius` (margin "
        "over spectral product): medians over the samples that the network gets right; at chance these are a tenth of the samples, and a "
        "radius there is none of a classifier's.\n"
    )
    found = list(_lipschitz(study))
    for arm, of in found:
        for quantity in ("frobenius", "spectral", "accuracy", "margin", "radius"):
            columns = {name: _column(of, f"mask_{quantity}_{name}") for name in ("expected", "bernoulli", "magnitude", "retrained")}
            dense = _column(of, f"constant_{quantity}") if quantity in ("frobenius", "spectral") else None
            shown = {name: column.dropna() for name, column in columns.items() if column is not None}
            told = f" (dense: {_shown(float(dense.iloc[0]), 2)})" if dense is not None and len(dense) else ""
            yield f"{_named(study, arm)}, {quantity}{told}:\n"
            yield _table(dict(shown))
    yield "" if found else MISSING


def _brackets(study: Tables) -> Iterator[str]:
    yield "## Between certificate and attack\n"
    found = [(arm, table) for arm in study.arms if (table := bracket_table(study, arm)) is not None]
    for arm, table in found:
        yield f"**{study.title(arm)}**. {table.note}\n"
        lines = ["| sparsity | " + " | ".join(table.columns) + " |", "|---|" + "---|" * len(table.columns)]
        yield "\n".join([*lines, *(f"| {row.sparsity} | " + " | ".join(row.cells) + " |" for row in table.rows)])
    yield "" if found else MISSING


def _why(study: Tables) -> Iterator[str]:
    yield "## Which of margin and slope moved\n"
    yield (
        "The slope is the gradient's dual norm at the sample, what the local Lipschitz constant comes to as the ball shrinks; `bound "
        "nearby` is of what bounds every slope in the ball.\n"
    )
    found = [(arm, rows) for arm in study.arms if (rows := mechanism_rows(study, arm))]
    for arm, rows in found:
        lines = [
            f"**{study.title(arm)}**. {basis(study, arm)}\n",
            "| norm | sparsity | distance | margin | slope | rest | bound nearby | why |",
            "|---|---|---|---|---|---|---|---|",
        ]
        yield "\n".join(
            [
                *lines,
                *(f"| {r.norm} | {r.sparsity} | {r.distance} | {r.margin} | {r.slope} | {r.rest} | {r.local} | {r.why} |" for r in rows),
            ]
        )
    yield "" if found else MISSING


STATEMENTS: tuple[Callable[[Tables], Iterator[str]], ...] = (_linear, _local, _products, _masks, _brackets, _why)


if __name__ == "__main__":
    folder, target = map(Path, sys.argv[1:3])
    write_text(target, page(read_tables(folder)))
