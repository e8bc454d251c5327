"""Projections onto hyperplanes within a box, in l2 and in l_inf: what FAB is built from. No attack's loop belongs here.

Both norms lead to the same scalar equation sum_i min(t rate_i, cap_i) = target, whose left side is concave, increasing and piecewise
linear in t: Newton's iteration from 0 rises to the solution and ends on it after finitely many steps, without sorting. Comparisons
write floats (`out=`): on the CPU a bool mask and torch.where cost 5 to 15 times as much as the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Domain
from isogrid.core.norms import L2, Norm, rows as per_row

NEWTON_STEPS = 100
"""A limit that is not met in practice (4 to 8 steps are taken): each step but the last saturates at least one more element."""
ROUNDING = 8.0
"""A residual below this many units in the last place of the target is rounding."""


def capped_root(rate: Tensor, cap: Tensor, target: Tensor, tolerance: float = 0.0) -> Tensor:
    """The smallest t >= 0 [B] with sum_i min(t rate_i, cap_i) = target: rate, cap >= 0 [B, n], target >= 0 [B].

    `tolerance`: the share of the target that may be missing (rounding always may).

    Where even all caps together stay below the target, a t at which every element is at its cap. Elements of rate 0 count for nothing.

    >>> capped_root(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.2, 9.0]]), torch.tensor([1.0])).item()  # 0.2 + t = 1
    0.800000011920929
    """
    gain, buffer = torch.zeros_like(cap), torch.empty_like(cap)
    slack = max(tolerance, ROUNDING * torch.finfo(cap.dtype).eps)
    t = torch.zeros_like(target)
    left = target
    for _ in range(NEWTON_STEPS):
        slope = torch.linalg.vecdot(torch.gt(cap, gain, out=buffer), rate)
        rising = (left > 0).logical_and_(slope > 0)
        moved = torch.where(rising, t + left / torch.where(rising, slope, 1), t)
        if not bool((moved > t).any()):
            break
        t = moved
        left = target - torch.minimum(torch.mul(rate, t[:, None], out=gain), cap, out=buffer).sum(1)
        left = torch.where(left > slack * target, left, 0)
        if not bool(left.any()):
            break
    return t


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """One hyperplane normal a row, prepared for projections in one norm within one domain.

    normal [B, n]: scaled to a largest entry of 1 (squares of tiny gradients would round to zero); scale [B]: what it was divided by,
    0 where the normal is 0; direction, rate [B, n]: where a projection moves, and what the move gains per unit of its length.
    """

    normal: Tensor
    scale: Tensor
    direction: Tensor
    rate: Tensor
    domain: Domain

    @classmethod
    def of(cls, normal: Tensor, norm: Norm, domain: Domain) -> Planes:
        """From normals [B, *S], flattened."""
        flat = normal.flatten(1)
        scale = flat.abs().amax(1)
        w = flat / per_row(torch.where(scale > 0, scale, 1), flat)
        return cls(
            normal=w,
            scale=scale,
            direction=w if norm is L2 else w.sign(),
            rate=w * w if norm is L2 else w.abs(),
            domain=domain,
        )

    def nearest(self, x: Tensor, gap: Tensor, tolerance: float = 0.0) -> Tensor:
        r"""argmin ||z - x|| subject to <w, z - x> = gap and z in the domain; x [B, n] in the domain, gap [B] of either sign -> z [B, n].

        `tolerance`: the share of the gap that a move in a box may fall short by.

        l2: z = clip(x + t w); l_inf: z = clip(x + t sign w), with t such that the plane is met. Where no point of the box meets it, the
        vertex that comes closest to it; where w is 0, x. Source: Croce & Hein 2020, equation 4 (there solved by sorting).

        >>> from isogrid.core.norms import LINF
        >>> planes = Planes.of(torch.tensor([[1.0, 1.0]]), LINF, Domain())
        >>> [round(v, 4) for v in planes.nearest(torch.tensor([[0.5, 0.9]]), torch.tensor([0.4]))[0].tolist()]
        [0.8, 1.0]
        """
        live = self.scale > 0
        side = torch.where(gap < 0, -1.0, 1.0).to(x.dtype)
        target = torch.where(live, gap.abs() / torch.where(live, self.scale, 1), 0)
        if self.domain.name == "free":
            t = torch.where(live, target / torch.where(live, self.rate.sum(1), 1), 0)
            return torch.addcmul(x, self.direction, (t * side)[:, None])
        low, high = self.domain.low, self.domain.high
        toward = self.normal * side[:, None]
        cap = (high - x).mul_(toward)  # the gain of moving an element all the way to the face that it is pushed against
        cap = torch.maximum(cap, (low - x).mul_(toward), out=cap).clamp_(min=0)
        t = capped_root(self.rate, cap, target, tolerance)
        return torch.addcmul(x, self.direction, (t * side)[:, None]).clamp_(low, high)
