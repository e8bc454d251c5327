"""The two norms of a threat model, and what attacks and certificates need of them. Every function works per row of [B, *S]."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar, final

import torch
from torch import Tensor

from isogrid.core.errors import one_of

BUDGET_SLACK, BUDGET_ULPS = 1e-5, 4.0
"""A perturbation may exceed its budget by this share, and by so many units in the last place of the box's largest value."""
FLOAT32_UNIT = 2.0**-23
Size = TypeVar("Size", Tensor, float)


def allowed(budget: Size, unit: float = FLOAT32_UNIT, largest: float = 1.0) -> Size:
    """The size up to which a perturbation counts as within `budget`: rounding of x + delta is no offence.

    `unit`: the rounding unit of x's type; `largest`: the largest absolute value of the box. Whoever asks whether a distance lies within a
    budget asks here, so that no two figures disagree about one sample.

    >>> 0.1 + 1e-7 <= allowed(0.1), 0.1 + 2e-6 <= allowed(0.1)
    (True, False)
    """
    return budget * (1 + BUDGET_SLACK) + BUDGET_ULPS * unit * largest


def rows(values: Tensor, like: Tensor) -> Tensor:
    """`values` [B] shaped so that it broadcasts along the rows of `like` [B, *S]."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


class Norm(ABC):
    """A norm on a sample's input space; singletons `L2` and `LINF`."""

    name: ClassVar[str]

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """||delta_b|| per row: [B, *S] -> [B]."""

    @abstractmethod
    def dual_size(self, gradient: Tensor) -> Tensor:
        """The dual norm sup { <gradient_b, d> : ||d|| <= 1 } per row: [B, *S] -> [B]."""

    @abstractmethod
    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        """The point of the ball of `radius` [B] that is closest to delta in l2 (both balls: also closest in their own norm)."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """argmax { <gradient_b, d> : ||d|| <= 1 }; 0 where the gradient is 0."""

    def __repr__(self) -> str:
        return self.name


@final
class _L2(Norm):
    name = "l2"

    def size(self, delta: Tensor) -> Tensor:
        size: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return size

    def dual_size(self, gradient: Tensor) -> Tensor:
        return self.size(gradient)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        size = self.size(delta)
        return delta * rows(torch.where(size > radius, radius / size, torch.ones_like(size)), delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        # dividing by the largest entry first keeps the square of a tiny gradient from rounding to zero
        top = gradient.flatten(1).abs().amax(1)
        scaled = gradient / rows(torch.where(top > 0, top, torch.ones_like(top)), gradient)
        size = self.size(scaled)
        return scaled / rows(torch.where(size > 0, size, torch.ones_like(size)), gradient)


@final
class _Linf(Norm):
    name = "linf"

    def size(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def dual_size(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def project(self, delta: Tensor, radius: Tensor) -> Tensor:
        limit = rows(radius, delta)
        return torch.minimum(torch.maximum(delta, -limit), limit)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()


L2: Norm = _L2()
LINF: Norm = _Linf()
NORMS: dict[str, Norm] = {norm.name: norm for norm in (L2, LINF)}


def norm(name: str | Norm) -> Norm:
    """The norm of that name.

    >>> norm("l2").size(torch.tensor([[3.0, 4.0]])).item()
    5.0
    """
    if isinstance(name, Norm):
        return name
    if name not in NORMS:
        raise one_of("norm", name, NORMS)
    return NORMS[name]
