"""Certificates from one pass of bounds: intervals, CROWN-IBP, CROWN, Fast-Lin. Not here: the bounds (bounds.py), optimised slopes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.certify.bounds import Refine, backward, margin_rows
from isogrid.certify.method import Certifier, Found, Problem
from isogrid.certify.relaxations import Slopes
from isogrid.certify.search import largest_radius, require_tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded(Certifier):
    """A method that gives, for bounds that hold up to a radius R, the radius r* at which its bound on the margin reaches 0."""

    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        Certifier.__post_init__(self)
        require_tolerance(self.tolerance)

    @abstractmethod
    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        """r* [b] of the samples `rows` for bounds at `radius` [b]."""

    @final
    def search(self, problem: Problem) -> Found:
        if problem.decide:
            critical = self.critical(problem, torch.arange(len(problem.y)), problem.limit)
            return Found(radius=torch.minimum(critical, problem.limit))
        return Found(radius=largest_radius(lambda rows, radius: self.critical(problem, rows, radius), problem.limit, self.tolerance))


def linear_critical(problem: Problem, rows: Tensor, radius: Tensor, refine: Refine, slopes: Slopes, *, stop: bool = False) -> Tensor:
    """The smallest critical radius [b] of the linear bounds on all margins, the differences of outputs fused into the last layer.

    `stop`: they end at the intervals of the last nonlinearities.
    """
    ball = problem.ball(radius, rows)
    found = problem.bounder.sweep(ball, refine, slopes)
    form = backward(found, {len(problem.graph.nodes) - 1: margin_rows(problem.graph, problem.y[rows])}, found.stop if stop else found.relax)
    return form.critical(ball).amin(1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class IBP(Bounded):
    """Interval bound propagation, the differences of outputs fused into the last affine part.

    Source: Gowal et al. 2018. The loosest and cheapest; the first layer is bound by its own dual norm instead.
    """

    name: ClassVar[str] = "ibp"

    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        return linear_critical(problem, rows, radius, "intervals", "adaptive", stop=True)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CROWNIBP(Bounded):
    """Intervals before the nonlinearities, lines from the margins back to the input. Source: Zhang et al. 2020 (CROWN-IBP)."""

    name: ClassVar[str] = "crown-ibp"

    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        return linear_critical(problem, rows, radius, "intervals", "adaptive")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CROWN(Bounded):
    """Lines back to the input for every undecided unit and for the margins. Source: Zhang et al. 2018, adaptive slopes."""

    name: ClassVar[str] = "crown"

    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        return linear_critical(problem, rows, radius, "lines", "adaptive")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FastLin(Bounded):
    """CROWN with parallel lines: both of slope u / (u - l). Source: Weng et al. 2018 (Fast-Lin)."""

    name: ClassVar[str] = "fast-lin"

    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        return linear_critical(problem, rows, radius, "lines", "parallel")
