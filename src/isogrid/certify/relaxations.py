"""Lines above and below a nonlinearity on an interval. What belongs here: one unit at a time. What does not: graphs, rows, optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from isogrid.certify.operations import Operation, Relu

Slopes = Literal["adaptive", "parallel"]
_EVEN: Final = 1 + 1e-4  # ends so close to symmetric count as that: which side is larger by rounding must not decide on a line


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lines:
    """below z + below_at <= f(z) <= above z + above_at for l <= z <= u; all tensors of one shape."""

    below: Tensor
    below_at: Tensor
    above: Tensor
    above_at: Tensor

    def take(self, rows: Tensor | slice) -> Lines:
        """The lines of some samples."""
        return Lines(below=self.below[rows], below_at=self.below_at[rows], above=self.above[rows], above_at=self.above_at[rows])


def lines(operation: Operation, low: Tensor, high: Tensor, slopes: Slopes = "adaptive") -> Lines:
    """The lines of ReLU or tanh on [low, high]; `parallel` gives ReLU's lower line its upper one's slope (Fast-Lin)."""
    return relu_lines(low, high, slopes) if isinstance(operation, Relu) else tanh_lines(low, high)


def relu_lines(low: Tensor, high: Tensor, slopes: Slopes) -> Lines:
    r"""The chord u (z - l) / (u - l) above; below, z where u > -l (or nearly so) and 0 else (CROWN), or the chord's slope (Fast-Lin).

    Source: Zhang et al. 2018 (CROWN), Weng et al. 2018 (Fast-Lin). Exact where the unit is stable.
    """
    open_ = (low < 0) & (high > 0)
    chord = torch.where(open_, high / torch.where(open_, high - low, 1.0), (low >= 0).to(low.dtype))
    below = chord if slopes == "parallel" else torch.where(open_, (high > -low * _EVEN).to(low.dtype), chord)
    return Lines(below=below, below_at=torch.zeros_like(low), above=chord, above_at=torch.where(open_, -chord * low, 0.0))


def tanh_lines(low: Tensor, high: Tensor) -> Lines:
    """The better of a few slopes each, every one with its exact intercept (`tanh_offset`), so that none can be unsound."""
    middle, width = (low + high) / 2, high - low
    chord = torch.where(width > 1e-6, (high.tanh() - low.tanh()) / width.clamp_min(1e-6), 1 - middle.tanh().square())
    slopes = [chord, *(1 - z.tanh().square() for z in (low, middle, high))]
    best: list[tuple[Tensor, Tensor]] = []
    for side in (1.0, -1.0):
        slope, value = slopes[0], tanh_offset(side, slopes[0], low, high)
        for other in slopes[1:]:
            offset = tanh_offset(side, other, low, high)
            better = side * other * middle + offset > side * slope * middle + value
            slope, value = torch.where(better, other, slope), torch.where(better, offset, value)
        best.append((slope, side * value))
    return Lines(below=best[0][0], below_at=best[0][1], above=best[1][0], above_at=best[1][1])


def tanh_offset(side: float | Tensor, slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    r"""min over z in [l, u] of side (tanh(z) - slope z): at an end, or where 1 - tanh(z)^2 = slope, z = +-artanh sqrt(1 - slope)."""
    turn = torch.atanh((1 - slope).clamp(0, 1 - 1e-15).sqrt())
    points = [low, high, turn.clamp(low, high), (-turn).clamp(low, high)]
    return torch.stack([side * (z.tanh() - slope * z) for z in points]).amin(0)
