"""The frontier of a model as a table of words: levels by key metrics. What belongs here: choosing and formatting. What does not: HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isogrid.report.tables import Tables
from isogrid.report.words import DOMAINS, STATES, attack_label, eps_text, interval, metric_symbol, number, percent, samples_note
from isogrid.study.results import Curve, Group, Point
from isogrid.verdicts.arm import Arm


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
    """The table of one arm: the pruned levels and, below them, the dense control of equal training where it was attacked."""

    arm: Arm
    columns: tuple[Column, ...]
    pruned: tuple[Line, ...]
    control: tuple[Line, ...]

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        """(state, explanation) of every state that occurs in the table."""
        met = {cell.state for line in (*self.pruned, *self.control) for cell in line.cells if cell is not None and cell.state}
        return tuple((state, why) for state, why in STATES.items() if state in met)


def columns(study: Tables, arm: Arm) -> tuple[Column, ...]:
    """Accuracy, then each threat model: the envelope first, the attacks after it."""
    found = []
    for curve in study.select(arm, metric="accuracy"):
        detail = " · ".join(part for part in ("no attack", samples_note(curve.samples, study.samples)) if part)
        found.append(Column(title="accuracy", detail=detail, digits=3, group=curve.group, attack=curve.attack))
    for group in study.groups(arm):
        for curve in study.attacks(arm, group):
            detail = " · ".join(
                part
                for part in (metric_symbol(group), eps_text(group.eps), group.domain, samples_note(curve.samples, study.samples))
                if part
            )
            found.append(
                Column(
                    title=f"{attack_label(curve.attack)}{_seeds(study, curve)}", detail=detail, digits=3, group=group, attack=curve.attack
                )
            )
    return tuple(found)


def _seeds(study: Tables, curve: Curve) -> str:
    """In how many seeds complete search was run, where these are not all; another curve of fewer has a failed task."""
    seeds = max((point.seeds for point in curve.points), default=0)
    return f", {seeds} of {study.summary.seeds} seeds" if curve.is_truth and seeds < study.summary.seeds else ""


def cell(point: Point | None, digits: int = 3) -> Cell | None:
    """The words for one point; None where the level was not measured."""
    if point is None:
        return None
    state = "" if point.state == "sound" else point.state
    void = state == "void"  # the mean of the samples that broke is no r_2
    return Cell(
        value=math.nan if void else point.mean,
        mean=_words(point, digits),
        interval="" if void or point.undecided else interval(point.low, point.high, digits),
        note=_note(point, digits),
        state=state,
        why=STATES.get(state, ""),
    )


def _words(point: Point, digits: int) -> str:
    if point.undecided:
        return f"{number(point.low, digits)} – {number(point.high, digits)}"
    return point.state if point.state == "void" else number(point.mean, digits)


def _note(point: Point, digits: int) -> str:
    if point.undecided:
        return f"{point.undecided} of {point.n * point.seeds} undecided"
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


def frontier(study: Tables, arm: Arm, marks: Mapping[int, Sequence[str]] | None = None) -> Frontier:
    """The frontier table of an arm; `marks` are words to set beside a level (its part in the recommendation)."""
    at = columns(study, arm)
    sparsities = study.sparsities(arm)
    pruned = [study.one(arm, column.group, column.attack) for column in at]
    control = [study.one(arm, column.group, column.attack, control=True) for column in at]
    return Frontier(
        arm=arm,
        columns=at,
        pruned=_lines(pruned, at, sparsities, marks or {}),
        control=_lines(control, at, sparsities, {}),
    )


def domain_words(domain: str) -> str:
    """What a domain means.

    >>> domain_words("box")
    'inputs stay in their box'
    """
    return DOMAINS.get(domain, domain)
