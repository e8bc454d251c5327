"""Certificates from one pass of bounds: intervals, CROWN-IBP, CROWN, Fast-Lin. Not here: the bounds (bounds.py), optimised slopes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from isogrid.certify.bounds import Refine, Sweep, backward, margin_rows
from isogrid.certify.graph import rows_at_once
from isogrid.certify.method import Certifier, Found, Problem
from isogrid.certify.relaxations import Slopes
from isogrid.certify.search import Evaluate, largest_radius
from isogrid.core.parameters import number

_CLOSER: Final = 0.7  # share of the tolerance that a search in float32 stops at
_FINEST: Final = 5e-4  # the finest tolerance that float32 serves
_SHORT: Final = 1 - 1e-4  # how much shorter the radius is that is then tried in float64


class Margins:
    """The critical radii of the linear bounds of a batch's margins, the differences of outputs fused into the last layer; see `Evaluate`.

    What holds in a ball holds in a smaller one: a margin that a larger radius has settled is not computed again, and bounds that were made
    for a radius that proved too large serve the smaller ones, so that fewer units are open there. `stop`: lines end at the intervals of
    the last nonlinearities.
    """

    def __init__(self, problem: Problem, refine: Refine, slopes: Slopes, *, stop: bool = False) -> None:
        self.problem, self.refine, self.slopes, self.stop = problem, refine, slopes, stop
        self.rows = margin_rows(problem.graph, problem.y)
        self.found = problem.limit.new_full(self.rows.shape[:2], math.inf)
        self.settled = torch.full_like(self.found, -1.0)  # the largest radius that a margin was found to hold to
        self.above = torch.full_like(problem.limit, math.inf)  # the smallest radius that was found to be too large
        self.within: list[tuple[Tensor, Tensor]] = []  # each node's bounds at that radius

    def __call__(self, rows: Tensor, radius: Tensor) -> Tensor:
        """r* [b] of the samples `rows` for bounds at `radius` [b]."""
        lines = self.refine == "lines"
        known = [(low[rows], high[rows]) for low, high in self.within] if lines and bool((radius <= self.above[rows]).all()) else None
        swept = self.problem.bounder.sweep(self.problem.ball(radius, rows), self.refine, self.slopes, known)
        open_ = self.settled[rows] < radius[:, None]
        order, counts = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True), open_.sum(1)
        for count in sorted(set(counts.tolist()) - {0}):
            some = torch.nonzero(counts == count).squeeze(1)
            for few in torch.split(some, rows_at_once(self.problem.graph, count)):
                part = swept if len(few) == len(rows) else swept.take(few)
                at = rows[few][:, None], order[few, :count]
                start = {len(self.problem.graph.nodes) - 1: self.rows[at]}
                critical = backward(part, start, part.stop if self.stop else part.relax).critical(part.ball)
                reach = radius[few, None].expand_as(critical)
                self.found[at] = critical
                self.settled[at] = torch.where(critical >= reach, reach, -1.0)
        least = self.found[rows].masked_fill(~open_, math.inf).amin(1)
        if lines:
            self._keep(rows[least < radius], swept, least < radius, radius)
        return least

    def _keep(self, rows: Tensor, swept: Sweep, failed: Tensor, radius: Tensor) -> None:
        """The bounds of samples whose radius was too large."""
        if not self.within:
            shapes = [(len(self.above), *low.shape[1:]) for low in swept.low]
            self.within = [(swept.low[0].new_full(shape, -math.inf), swept.low[0].new_full(shape, math.inf)) for shape in shapes]
        for (low, high), new_low, new_high in zip(self.within, swept.low, swept.high, strict=True):
            low[rows], high[rows] = new_low[failed], new_high[failed]
        self.above[rows] = radius[failed]


def by_lines(problem: Problem) -> Evaluate:
    """CROWN's."""
    return Margins(problem, "lines", "adaptive")


def proved(evaluation: Callable[[Problem], Evaluate], problem: Problem, tolerance: float) -> Tensor:
    """`largest_radius` [B], searched for in float32, which is several times as fast, then proved in float64.

    Where float32 has found too much, float64 searches on from there. It searches alone where the tolerance is finer than float32, or
    where bounds do not depend on the radius, so that the second one is exact.
    """
    evaluate = evaluation(problem)
    if tolerance < _FINEST or next(problem.graph.nonlinear(), None) is None:
        return largest_radius(evaluate, problem.limit, tolerance)
    rough = problem.cast(torch.float32)
    found = largest_radius(evaluation(rough), rough.limit, tolerance * _CLOSER)
    radius = torch.where(found < rough.limit, found.to(problem.limit) * _SHORT, problem.limit).nan_to_num(0.0)
    holds = evaluate(torch.arange(len(radius)), radius) >= radius  # not where it is no number
    fails = torch.nonzero(~holds | (radius == 0)).squeeze(1)
    if len(fails):
        radius[fails] = largest_radius(lambda rows, at: evaluate(fails[rows], at), problem.limit[fails], tolerance, radius[fails] * _SHORT)
    return radius.nan_to_num(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded(Certifier):
    """A method that gives, for bounds that hold up to a radius R, the radius r* at which its bound on the margin reaches 0."""

    tolerance: float = number(1e-3, 0, 1, low_open=True)

    @abstractmethod
    def evaluation(self, problem: Problem) -> Evaluate:
        """r* of a batch's samples for bounds at given radii."""

    @final
    def search(self, problem: Problem) -> Found:
        if problem.decide:
            evaluate = self.evaluation(problem)
            return Found(radius=torch.minimum(evaluate(torch.arange(len(problem.y)), problem.limit), problem.limit))
        return Found(radius=proved(self.evaluation, problem, self.tolerance))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IBP(Bounded):
    """Interval bound propagation, the differences of outputs fused into the last affine part.

    Source: Gowal et al. 2018. The loosest and cheapest; the first layer is bound by its own dual norm instead.
    """

    name: ClassVar[str] = "ibp"

    def evaluation(self, problem: Problem) -> Evaluate:
        return Margins(problem, "intervals", "adaptive", stop=True)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CROWNIBP(Bounded):
    """Intervals before the nonlinearities, lines from the margins back to the input. Source: Zhang et al. 2020 (CROWN-IBP)."""

    name: ClassVar[str] = "crown-ibp"

    def evaluation(self, problem: Problem) -> Evaluate:
        return Margins(problem, "intervals", "adaptive")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CROWN(Bounded):
    """Lines back to the input for every undecided unit and for the margins. Source: Zhang et al. 2018, adaptive slopes."""

    name: ClassVar[str] = "crown"

    def evaluation(self, problem: Problem) -> Evaluate:
        return by_lines(problem)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FastLin(Bounded):
    """CROWN with parallel lines: both of slope u / (u - l). Source: Weng et al. 2018 (Fast-Lin)."""

    name: ClassVar[str] = "fast-lin"

    def evaluation(self, problem: Problem) -> Evaluate:
        return Margins(problem, "lines", "parallel")
