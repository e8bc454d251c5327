"""The frontier of a model as a table of words: levels by key metrics. What belongs here: choosing and formatting. What does not: HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isogrid.report.tables import TWIN, Curve, Group, Point, Study
from isogrid.report.words import DOMAINS, STATES, attack_label, eps_text, interval, metric_symbol, number, percent, samples_note


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value: mean, interval, and why it is no evidence (empty where it is); `note`: of a distance the median, and what failed."""

    value: float
    mean: str
    interval: str
    state: str = ""
    why: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric under one attack."""

    title: str
    detail: str
    digits: int
    group: Group
    attack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One level: its sparsity, what the recommendation says of it, and a cell (or None) per column."""

    level: int
    sparsity: float
    marks: tuple[str, ...]
    cells: tuple[Cell | None, ...]

    @property
    def label(self) -> str:
        """The sparsity in per cent."""
        return percent(self.sparsity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The table of one model: the pruned levels and, below them, the dense twin of equal training where it was attacked."""

    model: str
    columns: tuple[Column, ...]
    pruned: tuple[Line, ...]
    twin: tuple[Line, ...]

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """(state, explanation) of every state that occurs in the table."""
        met = {cell.state for line in (*self.pruned, *self.twin) for cell in line.cells if cell is not None and cell.state}
        return tuple((state, why) for state, why in STATES.items() if state in met)


def columns(study: Study, model: str) -> tuple[Column, ...]:
    """Accuracy, then each threat model: the envelope first, the attacks after it."""
    found = []
    for curve in study.select(model, method=study.method(model), metric="accuracy"):
        detail = " · ".join(part for part in ("no attack", samples_note(curve.samples, study.samples)) if part)
        found.append(Column(title="accuracy", detail=detail, digits=3, group=curve.group, attack=curve.attack))
    for group in study.groups(model):
        for curve in study.attacks(model, group):
            detail = " · ".join(
                part
                for part in (metric_symbol(group), eps_text(group.eps), group.domain, samples_note(curve.samples, study.samples))
                if part
            )
            found.append(Column(title=attack_label(curve.attack), detail=detail, digits=3, group=group, attack=curve.attack))
    return tuple(found)


def cell(point: Point | None, digits: int = 3) -> Cell | None:
    """The words for one point; None where the level was not measured."""
    if point is None:
        return None
    state = "" if point.state == "sound" else point.state
    void = state == "void"  # the mean of the samples that broke is no r_2
    return Cell(
        value=math.nan if void else point.mean,
        mean=state if void else number(point.mean, digits),
        interval="" if void else interval(point.low, point.high, digits),
        note=_note(point, digits),
        state=state,
        why=STATES.get(state, ""),
    )


def _note(point: Point, digits: int) -> str:
    failed = f"{point.failed} of {point.attacked} failed" if point.void and point.attacked else ""
    median = "" if math.isnan(point.median) else f"median {number(point.median, digits)}"
    return ", ".join(part for part in (failed, median) if part)


def _lines(
    found: Sequence[Curve | None], at: Sequence[Column], sparsities: Mapping[int, float], marks: Mapping[int, Sequence[str]]
) -> tuple[Line, ...]:
    levels = sorted({point.level for curve in found if curve is not None for point in curve.points})
    lines = []
    for level in levels:
        cells = tuple(cell(curve.at(level), column.digits) if curve is not None else None for curve, column in zip(found, at, strict=True))
        lines.append(Line(level=level, sparsity=sparsities.get(level, math.nan), marks=tuple(marks.get(level, ())), cells=cells))
    return tuple(lines)


def frontier(study: Study, model: str, marks: Mapping[int, Sequence[str]] | None = None) -> Frontier:
    """The frontier table of a model; `marks` are words to set beside a level (its part in the recommendation)."""
    at = columns(study, model)
    sparsities = study.sparsities(model)
    pruned = [study.one(model, study.method(model), column.group, column.attack) for column in at]
    twin = [study.one(model, TWIN, column.group, column.attack) for column in at]
    return Frontier(
        model=model,
        columns=at,
        pruned=_lines(pruned, at, sparsities, marks or {}),
        twin=_lines(twin, at, sparsities, {}),
    )


def domain_words(domain: str) -> str:
    """What a domain means.

    >>> domain_words("box")
    'inputs stay in their box'
    """
    return DOMAINS.get(domain, domain)
