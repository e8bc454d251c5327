"""Weight and activation sparsity together: the ridge and the most robust corner of a grid of penalties and levels.

The cells of a grid are the levels of one `Evidence`, in any order whose first is the dense network without a penalty. What belongs here:
choosing among cells, and what a choice is worth. What does not: one axis alone (`verdicts.recommendation`, `verdicts.contrasts`), words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isogrid.metrics.statistics import holm
from isogrid.verdicts.axis import Axis, axis_of
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure
from isogrid.verdicts.results import Change, Corner, Ridge


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which cell a level of the evidence is: the penalty ("": none), and the level of pruning."""

    penalty: str
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """What a grid says in one measure; `mute`: why the dense network without a penalty is no evidence, "" where it is."""

    ridge: tuple[Ridge, ...]
    corner: Corner | None
    mute: str


def surface(evidence: Evidence, measure: Measure, places: Sequence[Place], tolerance: Mapping[str, float]) -> Surface:
    """The ridge and the most robust corner of one measure; `places`: of the levels of the evidence, by number."""
    axis, mute = axis_of(evidence, measure, tolerance)
    if not axis.rows.levels or not axis.rows.usable:
        return Surface(ridge=(), corner=None, mute=mute)
    return Surface(ridge=_ridge(axis, places), corner=None if mute else _corner(axis, places), mute=mute)


def _corner(axis: Axis, places: Sequence[Place]) -> Corner:
    """The cell of the highest mean; its gain over the first cell is estimated at the cell that other seeds and samples choose."""
    means = axis.rows.values.mean((0, 2))
    best = int(means.argmax())
    gain, p = axis.best_gain()
    place, decided = places[axis.rows.levels[best]], best > 0 and p <= ALPHA
    return Corner.of(axis.of, gain, penalty=place.penalty, level=place.level, value=float(means[best]), decided=decided)


def _ridge(axis: Axis, places: Sequence[Place]) -> tuple[Ridge, ...]:
    """Per level of pruning the penalty of the highest mean, with its gain over no penalty at that level; Holm over the levels.

    The gain is estimated at the penalty that other seeds and samples choose. None where no penalty is no evidence there, or always 0.
    """
    means = axis.rows.values.mean((0, 2))
    at = [places[level] for level in axis.rows.levels]
    best: dict[int, int] = {}
    gains: dict[int, tuple[Change, float]] = {}
    for level in sorted({place.level for place in at}):
        columns = [k for k, place in enumerate(at) if place.level == level]
        best[level] = max(columns, key=lambda k: float(means[k]))
        columns.sort(key=lambda k: at[k].penalty != "")  # what a gain is a gain over comes first
        if len(columns) > 1 and at[columns[0]].penalty == "" and not axis.mute(columns[0]):
            gain, p = axis.best_gain(columns)
            gains[level] = (Change.of(axis.of, gain), p)
    adjusted = dict(zip(gains, holm([p for _, p in gains.values()]), strict=True))
    return tuple(
        Ridge(
            level=level,
            penalty=at[k].penalty,
            gain=gains[level][0] if level in gains else None,
            decided=at[k].penalty != "" and adjusted.get(level, 1.0) <= ALPHA,
        )
        for level, k in best.items()
    )
