"""Geometry at a decision boundary: the shortest l2 move into a half-space inside the domain, and the boundary on a segment.

DeepFool, SuperDeepFool and C&W's polish are built from these. What does not belong here: an attack's loop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Domain, Problem, margin
from isogrid.attacks.steps.projections import Planes
from isogrid.core.norms import L2, rows as per_row

TOLERANCE = 1e-4
"""A move may fall short of its gain by this share: an overshoot of 0.02 hides it, an attack without one iterates once more."""
ROUNDING = 4.0
"""A gap below this many units in the last place of its logits is rounding: a step is never computed from less."""
SHRINK_TOLERANCE = 1e-4
SHRINK_LEAN = 0.05
_TIED = 1e-30


def least_gap(problem: Problem, own: Tensor, other: Tensor) -> Tensor:
    """The difference of two logits [...] that rounding may hide, from the larger of these two: a third one at -1e9 does not matter."""
    return ROUNDING * problem.unit * torch.maximum(own.abs(), other.abs())


def least_move(problem: Problem) -> float:
    """The change of one element that rounding may swallow where x is largest."""
    return torch.finfo(problem.x.dtype).eps * max(abs(problem.domain.low), abs(problem.domain.high))


def limits(x: Tensor, domain: Domain) -> tuple[Tensor, Tensor] | None:
    """What a gradient in x may count for in each element, from the first to the second [*S]: not beyond 0 against a face that x lies on.

    None in the free domain. Floats and products: torch.where and bool masks cost five times as much.
    """
    if domain.name == "free":
        return None
    most = torch.finfo(x.dtype).max
    lower = torch.gt(x, domain.low, out=torch.empty_like(x)).mul_(-most)
    return lower, torch.lt(x, domain.high, out=torch.empty_like(x)).mul_(most)


def slope(w: Tensor, within: tuple[Tensor, Tensor] | None) -> Tensor:
    """||w|| over the elements that can move along w: [..., *S] rows flattened to the last dimension -> [...]; `within` from `limits`.

    In a box an element that already lies on the face that it is pushed against does not count: its share of the gradient is no use.
    """
    if within is not None:
        w = w.clamp(*within)
    size: Tensor = torch.linalg.vector_norm(w, dim=-1)
    tiny = size < torch.finfo(size.dtype).tiny ** 0.5 * w.shape[-1]
    if bool(tiny.any()):  # squares rounded to zero: the largest entry is divided out first
        small = w[tiny]
        top = small.abs().amax(-1)
        size[tiny] = torch.linalg.vector_norm(small / torch.where(top > 0, top, 1)[..., None], dim=-1) * top
    return size


def reach(x: Tensor, w: Tensor, gain: Tensor, domain: Domain, tolerance: float = TOLERANCE) -> Tensor:
    r"""argmin ||z - x||_2 subject to <w, z - x> >= gain, z in the domain: row by row, [B, n] -> [B, n].

    `x` inside the domain; `gain` [B]. Free: z = x + gain / ||w||^2 w, backwards where the gain is negative (the point of the plane that
    is closest to x). Boxed: z = x where the gain is not positive, else z = clip(x + t w), with
    the root t found to a share of `tolerance` (`projections`). Where no point of the box gains that much, z is the vertex that gains
    most; where w is 0, z = x.

    >>> x, w = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
    >>> reach(x, w, torch.tensor([0.4]), Domain()).tolist()  # the second element meets its face: the first makes up for it
    [[0.800000011920929, 1.0]]
    """
    return Planes.of(w, L2, domain).nearest(x, gain if domain.name == "free" else gain.clamp_min(0), tolerance)


def shrink(problem: Problem, x_adv: Tensor, rows: Tensor, near: Tensor, far: Tensor, queries: int = 6) -> Tensor:
    """The adversarial point closest to x on each segment from x to `x_adv` [b, *S], as far as `queries` forward passes find it.

    `rows` [b]: the rows of the problem; `near` >= 0 and `far` < 0 [b]: the margins at x and at x_adv. The secant between the ends of
    the bracket gives the next point, leaning by SHRINK_LEAN towards the adversarial end, so that it mostly lands on that side; the
    point returned was itself evaluated. A row leaves once the secant promises less than SHRINK_TOLERANCE of its length.
    """
    x = problem.x[rows]
    low, high = torch.zeros_like(near), torch.ones_like(far)
    f_low, f_high = near.clamp_min(_TIED), far.clone()
    active = torch.nonzero((f_low > 0) & (f_high < 0)).squeeze(1)
    for _ in range(queries):
        a, b = low[active], high[active]
        cut = a + (b - a) * f_low[active] / (f_low[active] - f_high[active])
        active = active[b - cut > SHRINK_TOLERANCE * b]
        if len(active) == 0:
            break
        a, b, fa, fb = low[active], high[active], f_low[active], f_high[active]
        cut = a + (b - a) * fa / (fa - fb)
        t = cut + SHRINK_LEAN * (b - cut)
        where = rows[active]
        z = problem.logits(problem.domain.clip(torch.lerp(x[active], x_adv[active], per_row(t, x))), where)
        value = margin(z, problem.y[where])
        over = z.argmax(1) != problem.y[where]
        # a side that stays twice is weighed down by half (Illinois), or the secant would creep
        low[active], high[active] = torch.where(over, a, t), torch.where(over, t, b)
        f_low[active] = torch.where(over, fa / 2, value)
        f_high[active] = torch.where(over, torch.where(value < 0, value, fb / 2), fb / 2)
        active = active[f_low[active] > 0]
    return problem.domain.clip(torch.lerp(x, x_adv, per_row(high, x)))
