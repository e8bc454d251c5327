"""One quantity along levels that may get worse: accuracy or a measure, as a complete table with a tolerance, compared with dense.

What belongs here: comparisons of two levels, and the best of several with its gain over the first. What does not: what follows from them
(`verdicts.recommendation`, `verdicts.grid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogrid.metrics.statistics import Estimate, choosing, crossed, held_out_means, judging, relative
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure, Table, table
from isogrid.verdicts.results import Change, Quantity

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`tables`: the same with failures taken for the mean of their cell, and for its largest distance where there are any."""

    of: Quantity
    tables: tuple[Table, ...]
    tolerance: float

    @property
    def rows(self) -> Table:
        """The table that figures are told from; conclusions must hold in all of `tables`, whatever failures are taken for."""
        return self.tables[0]

    @property
    def ratio(self) -> bool:
        """Whether effects are relative."""
        return self.of.unit == "relative"

    def gain(self, values: Floats, picks: NDArray[np.intp]) -> Estimate:
        """The gain over dense, first of the levels of values [S, L, N], at the level that each seed's `picks` [S] name."""
        picked, dense = judging(values[np.arange(len(values)), picks]), judging(values[:, 0])
        return relative(picked, dense, chosen=True) if self.ratio else crossed(picked - dense, chosen=True)

    def best_gain(self, columns: list[int] | slice = slice(None)) -> tuple[Estimate, float]:
        """The gain over the first of some columns of the tables at the best of them, and the p-value of: there is none.

        Other seeds and samples choose the best. The p-value holds whatever failures are taken for.
        """
        picks = held_out_means(self.rows.values[:, columns]).argmax(-1)
        gains = [self.gain(rows.values[:, columns], picks) for rows in self.tables]
        return gains[0], max(one.p_greater() for one in gains)

    def not_worse(self, level: int, reference: int) -> bool:
        """The lower one-sided limit of level - reference lies above -tolerance."""
        return max(one.p_greater(self._edge) for one in self._tests(level, reference)) <= ALPHA

    def worse(self, level: int) -> float:
        """The p-value of: the mean at a level lies below dense minus tolerance."""
        return max(one.p_less(self._edge) for one in self._tests(level, 0))

    def recovers(self, level: int) -> bool:
        """Whether the mean at a level that is evidence lies above dense minus tolerance."""
        return level in self.rows.levels and self._tests(level, 0)[0].value > self._edge

    def loss(self, level: int) -> Change:
        """The change from dense to a level."""
        values, dense = (self.rows.values[:, self.rows.levels.index(k)] for k in (level, 0))
        return Change.of(self.of, relative(values, dense) if self.ratio else crossed(values - dense))

    def mute(self, column: int) -> bool:
        """Whether nothing can be compared with that column: a relative gain over a mean of 0 is none."""
        return self.ratio and not _positive(self.rows.values[:, column])

    @property
    def _edge(self) -> float:
        return 0.0 if self.ratio else -self.tolerance

    def _tests(self, level: int, reference: int) -> list[Estimate]:
        scale = 1 - self.tolerance if self.ratio else 1.0
        place, other = (self.rows.levels.index(k) for k in (level, reference))
        return [crossed(rows.values[:, place] - scale * rows.values[:, other]) for rows in self.tables]


def axis_of(evidence: Evidence, measure: Measure, tolerance: Mapping[str, float]) -> tuple[Axis, str]:
    """A measure along the levels of the evidence, and why nothing can be compared with dense in it ("": something can)."""
    rows = table(evidence, measure)
    kind = "r_inf" if measure.kind == "r_inf" else "distance"
    tables = (rows, table(evidence, measure, largest=True)) if rows.failed else (rows,)
    axis = Axis(of=measure.quantity, tables=tables, tolerance=tolerance[kind])
    if not (rows.usable and 0 in rows.levels):
        return axis, rows.left_out.get(0, "not measured")
    return axis, "hardly ever right" if axis.mute(rows.levels.index(0)) else ""


def _positive(dense: Floats) -> bool:
    """Whether the reference [S, N] of a relative gain is positive wherever a gain is chosen or judged: 0 is "wrong to begin with"."""
    return bool(dense[:, choosing(dense.shape[1])].mean(1).min() > 0 and judging(dense).mean() > 0)
