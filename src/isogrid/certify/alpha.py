"""alpha-CROWN: slopes optimised per sample and margin; in l2 with SDP-CROWN's offset. Not here: the bounds (dual.py), splitting."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.certify.bounds import margin_rows
from isogrid.certify.crown import by_lines, proved
from isogrid.certify.dual import Dual
from isogrid.certify.method import Certifier, Found, Problem
from isogrid.certify.optimise import optimised, refined
from isogrid.certify.region import region
from isogrid.certify.search import largest_radius, require_tolerance
from isogrid.core.parameters import require_whole

_FIRST = 1.1  # of CROWN's radius, where the search begins
_OUTLOOK = 1.5  # margins whose first bounds hold to this multiple of the radius are optimised only where they are the least


def duals(problem: Problem, rows: Tensor, radius: Tensor, inner: int) -> list[Dual]:
    """The regions of the samples `rows` within `radius` [b], CROWN's bounds before every unit, refined in `inner` steps."""
    found = problem.bounder.sweep(problem.ball(radius, rows), "lines")
    margins = margin_rows(problem.graph, problem.y[rows])
    made = (Dual(region(problem.bounder, found, row, margins[row])) for row in range(len(rows)))
    return [refined(dual, inner) if inner else dual for dual in made]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaCROWN(Certifier):
    """CROWN with slopes optimised by `steps` of Adam for every margin. Source: Xu et al. 2021 (alpha-CROWN).

    The bounds before units are optimised too, in `inner` steps; in l2 with the offset of SDP-CROWN (Chiu et al. 2025), which ties the
    units of a layer by their ball.
    """

    name: ClassVar[str] = "alpha-crown"

    steps: int = 30
    inner: int = 16
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        Certifier.__post_init__(self)
        require_tolerance(self.tolerance)
        for field, least in (("steps", 1), ("inner", 0)):
            object.__setattr__(self, field, require_whole(field, getattr(self, field), least))

    def search(self, problem: Problem) -> Found:
        if problem.decide:
            critical = self.critical(problem, torch.arange(len(problem.y)), problem.limit)
            return Found(radius=torch.minimum(critical, problem.limit))
        crown = proved(by_lines, problem, self.tolerance)
        return Found(
            radius=torch.maximum(crown, largest_radius(partial(self.critical, problem), problem.limit, self.tolerance, crown * _FIRST))
        )

    def critical(self, problem: Problem, rows: Tensor, radius: Tensor) -> Tensor:
        """r* [b] of the samples `rows` for bounds at `radius` [b]."""
        pairs = zip(duals(problem, rows, radius, self.inner), radius, strict=True)
        return torch.stack([self.root(dual, reach, problem.decide) for dual, reach in pairs])

    def root(self, dual: Dual, radius: Tensor, decide: bool) -> Tensor:
        """The critical radius of one sample, its margins optimised; `decide`: whether it exceeds `radius` is all that matters."""
        start = dual.first(torch.arange(len(dual.region.C)))
        first = dual.critical(dual.bound(start))
        found, done, least = first.clone(), torch.zeros(len(first), dtype=torch.bool), first.amin()
        near = first < radius if decide else first <= torch.maximum(least, _OUTLOOK * radius)
        near &= first.isfinite()
        while bool(near.any()):  # margins that hold farther may still be the least in the end
            rows = torch.nonzero(near).squeeze(1)
            reach = _OUTLOOK * torch.maximum(radius, first[rows])
            found[rows], done = torch.maximum(first[rows], optimised(dual, start.take(rows), reach, self.steps)[1]), done | near
            near = ~done & (first < found[done].amin()) & (not decide)
        return found.amin()
