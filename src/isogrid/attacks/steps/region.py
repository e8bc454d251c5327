"""Where a fixed-budget attack may go: a norm ball around each clean sample, cut by the domain. No attack logic belongs here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Domain, Problem
from isogrid.core.norms import LINF, Norm, rows as per_row
from isogrid.core.random import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """{x : ||x - center_b|| <= radius_b} within the domain, one region a row.

    `center` [B, *S], `radius` [B]; `low`, `high` [B, *S]: the region's own limits where the norm is l_inf (the ball is a box there,
    so a projection is a single clamp), empty otherwise.

    >>> from isogrid.core.norms import LINF
    >>> region = Region.around(torch.tensor([[0.5, 0.95]]), torch.tensor([0.25]), LINF, Domain())
    >>> region.project(torch.tensor([[0.0, 2.0]])).tolist()
    [[0.25, 1.0]]
    """

    center: Tensor
    radius: Tensor
    norm: Norm
    domain: Domain
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, center: Tensor, radius: Tensor, norm: Norm, domain: Domain) -> Region:
        """The regions of `radius` [B] around `center` [B, *S]."""
        low = high = center[:, :0]
        if norm is LINF:
            limit = per_row(radius, center)
            low, high = domain.clip(center - limit), domain.clip(center + limit)
        return cls(center=center, radius=radius, norm=norm, domain=domain, low=low, high=high)

    @classmethod
    def of(cls, problem: Problem) -> Region:
        """The regions of a fixed-budget problem."""
        assert problem.budget is not None
        return cls.around(problem.x, problem.budget, problem.norm, problem.domain)

    def take(self, rows: Tensor) -> Region:
        """The regions of some rows (int index or bool mask [B])."""
        return Region(
            center=self.center[rows],
            radius=self.radius[rows],
            norm=self.norm,
            domain=self.domain,
            low=self.low[rows],
            high=self.high[rows],
        )

    def project(self, x: Tensor) -> Tensor:
        """A point of the region near x: the closest one for l_inf; for l2 the closest of the ball, then the closest of the box
        (clipping towards a box that holds the center never leaves the ball)."""
        if self.norm is LINF:
            return torch.clamp(x, self.low, self.high)
        return self.domain.clip(self.center + self.norm.project(x - self.center, self.radius))

    def project_(self, x: Tensor) -> None:
        """`project` in place: for l_inf one pass over x and no new memory."""
        if self.norm is LINF:
            torch.clamp(x, self.low, self.high, out=x)
        else:
            x.copy_(self.project(x))

    def random(self, streams: Streams, *purpose: object, surface: bool = False) -> Tensor:
        """One point a row, uniform in the ball (`surface`: at distance `radius`), then clipped to the domain; it depends on the
        row's own stream alone."""
        shape, dtype = tuple(self.center.shape), self.center.dtype
        if self.norm is LINF:
            delta = streams.uniform(shape, *purpose, dtype=dtype) * 2 - 1
            if surface:
                delta /= per_row(self.norm.size(delta), delta)
        else:
            share = streams.uniform((len(self.radius), 1), *purpose, "length", dtype=torch.float64).squeeze(1)
            length = torch.ones_like(self.radius) if surface else share.pow(1 / max(1, self.center[0].numel())).to(dtype)
            delta = self.norm.steepest(streams.normal(shape, *purpose, dtype=dtype)) * per_row(length, self.center)
        return self.domain.clip(self.center + delta * per_row(self.radius, self.center))
