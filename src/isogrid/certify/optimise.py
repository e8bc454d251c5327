r"""The search for good multipliers: Adam along the gradient of their bounds in closed form. Not here: the bounds (dual.py), branching.

Let x* be where <A, x> is least over the ball, z*_i and h*_i = f(z*_i) where unit i's offset is reached. A bound's derivative by the
slopes of block k, with what they do to earlier blocks included, is

    dg_k = P_k x* + p_k - z*_k - sign(g_k) drift_k + sum_j T_kj dc_j        dc_j = h*_j + s_j dg_j

where s_j = dg_j / dc_j is the unit's slope: one pass from the first block to the last, and nothing to record on the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.ball import above
from isogrid.certify.dual import Dual, Multipliers

_RATE, _TIED_RATE, _CURVE_RATE = 0.4, 0.1, 0.6  # of Adam: of slopes; where a ball ties them; of the logarithm of its weight
_LAST: Final = 0.1  # the share of the rates at the last step
_BETAS: Final = (0.5, 0.9)  # a bound has kinks everywhere: longer memories overshoot
_TINY: Final = 1e-30
_ENTRIES: Final = 2**19  # rows are bound in parts of this many multipliers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slope:
    """Of N bounds at their radii: the value, what it loses per radius, its part that is quadratic in it [N]; gradients by name."""

    height: Tensor
    loss: Tensor
    curve: Tensor
    by: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """What a block leaves for the way forward [N, u]: parts of c of one sign, g's own slope dg / dc, g, and where the offset is reached."""

    plus: Tensor
    minus: Tensor
    s: Tensor
    g: Tensor
    z: Tensor
    h: Tensor
    bend: Tensor | None  # the parabola there, per lambda


class Ascent:
    """Bounds of the phases and targets of `fixed` over a dual's region, all in the type of the search."""

    def __init__(self, dual: Dual, fixed: Multipliers) -> None:
        self.dual, self.region = dual, dual.region
        self.C, self.Q = dual.region.C[fixed.target], dual.region.Q[fixed.target]
        self.c = (dual.region.c - dual.region.slack)[fixed.target]
        held = fixed.phase != 0
        self.active = (fixed.phase > 0).to(self.c) if bool(held.any()) else None
        self.passive = (fixed.phase < 0).to(self.c)
        self.barred = torch.where(fixed.phase < 0, torch.inf, 0.0).to(self.c), torch.where(fixed.phase > 0, torch.inf, 0.0).to(self.c)
        self.reads = [bool((dual.region.P[block] != 0).any()) for block in dual.region.blocks]

    def slope(self, m: Multipliers, at: Tensor) -> Slope:
        """The bounds at radii `at` [N] and their gradients by the multipliers, which share this object's phases and targets."""
        region, spans = self.region, self.dual.spans if m.curve.shape[1] else []
        A, coef, constant = self.C, self.Q, self.c.clone()
        slant, curve, weights = torch.zeros_like(constant), torch.zeros_like(constant), m.curve.exp()
        blocks: list[_Block] = []
        for k in reversed(range(len(region.blocks))):
            block = region.blocks[k]
            c = coef[:, block]
            weight = None
            if spans:
                w, ell, delta = spans[k]
                weight = weights[:, k, None] * w
                slant, curve = slant + weights[:, k] * ell * delta, curve + weights[:, k] * ell.square() / 2
                constant -= weights[:, k] * delta.square() / 2
            made, offset = self.block(m, block, c, weight)
            constant += offset.sum(1) + made.g @ region.p[block] - made.g.abs() @ region.drift[block]
            if self.reads[k]:
                A = torch.addmm(A, made.g, region.P[block])
            if block.start:
                coef = torch.addmm(coef[:, : block.start], made.g, region.T[block, : block.start])
            blocks.append(made)
        drop, steep, x = (v[0] for v in region.ball.least(A[None], at[None]))
        height = constant + region.ball.centre(A[None])[0] - drop - slant * at - curve * at.square()
        return Slope(height=height, loss=steep + slant + 2 * curve * at, curve=curve, by=self.forward(m, blocks[::-1], x, at, weights))

    def block(self, m: Multipliers, block: slice, c: Tensor, weight: Tensor | None) -> tuple[_Block, Tensor]:
        """(what the way forward needs, min over z of c f(z) - g z + weight / 2 (z - zhat)^2 [N, u]) of a block's units."""
        plus, minus, beta = c.clamp_min(0), c.clamp_max(0), m.beta[:, block]
        alpha, sigma = m.alpha[:, block], m.sigma[:, block]
        s = sigma + above(c, c.new_zeros(())) * (alpha - sigma)
        if self.active is not None:
            active, passive = self.active[:, block], self.passive[:, block]
            free = 1 - active - passive
            plus, minus, s = plus * free, minus * free, s * free + active
            g = s * c + beta * (passive - active)
        else:
            g = s * c
        curved = self.dual.flat is not None and bool(self.region.curved[block].any())
        if curved:
            plus, minus = (part.masked_fill(self.region.curved[block], 0.0) for part in (plus, minus))
            s = torch.where(self.region.curved[block], self.dual.tilt(block, c), s)
            g = torch.where(self.region.curved[block], s * c, g)
        (a, b), (d, e) = ((side[0][block], side[1][block]) for side in (self.dual.plus, self.dual.minus))
        centre, rest = self.dual.centre[block], c - g
        if weight is None:
            nothing = c.new_zeros(())  # of equal ends the one nearer to 0: there slopes meet their limits, and the other points beyond them
            up, down = a + above(nothing, rest) * (b - a), e + above(nothing, g) * (d - e)
            positive, negative, bends = rest * up, -g * down, None
        else:
            up = torch.minimum(torch.maximum(centre - rest / weight, a), b)
            down = torch.minimum(torch.maximum(centre + g / weight, d), e)
            bends = (up - centre).square(), (down - centre).square()
            positive, negative = rest * up + weight / 2 * bends[0], weight / 2 * bends[1] - g * down
        if self.active is not None:
            positive, negative = positive + self.barred[0][:, block], negative + self.barred[1][:, block]
        below = above(positive, negative)
        z, h = up + below * (down - up), up - below * up
        bend = None if bends is None else bends[0] + below * (bends[1] - bends[0])
        offset = torch.minimum(positive, negative)
        if curved:
            point = self.dual.tanh_point(block, c, g)
            z, h = torch.where(self.region.curved[block], point, z), torch.where(self.region.curved[block], point.tanh(), h)
            bend = None if bend is None else torch.where(self.region.curved[block], 0.0, bend)
            offset = torch.where(self.region.curved[block], c * h - g * z, offset)
        return _Block(plus=plus, minus=minus, s=s, g=g, z=z, h=h, bend=bend), offset

    def forward(self, m: Multipliers, blocks: list[_Block], x: Tensor, at: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """The gradients, from the first block to the last, where the bounds are reached at x [N, n]."""
        region, parts, bends = self.region, [], []
        if not blocks:
            return {}
        moved = x.new_zeros(len(x), 0)  # dc of the blocks so far
        for k, (block, made) in enumerate(zip(region.blocks, blocks, strict=True)):
            dg = region.p[block] - made.z - made.g.sign() * region.drift[block]
            if self.reads[k]:
                dg = torch.addmm(dg, x, region.P[block].T)
            if block.start:
                dg = torch.addmm(dg, moved, region.T[block, : block.start].T)
            moved = torch.cat([moved, torch.addcmul(made.h, made.s, dg)], 1)
            parts.append((dg * made.plus, dg * made.minus, dg))
            if made.bend is not None:
                w, ell, delta = self.dual.spans[k]
                bends.append(weights[:, k] * ((made.bend @ w) - (ell * at + delta).square()) / 2)
        alpha, sigma, dg = (torch.cat(v, 1) for v in zip(*parts, strict=True))
        found = {"alpha": alpha, "sigma": sigma}
        if self.active is not None:
            found["beta"] = dg * (self.passive - self.active)
        if bends:
            found["curve"] = torch.stack(bends, 1)
        return found


def optimised(
    dual: Dual, start: Multipliers, radius: Tensor, steps: int, *, value: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Multipliers, Tensor]:
    """(multipliers, certified radii [N]) after `steps` of Adam in `dtype` for bounds that matter up to `radius` [N]; the radii in float64.

    What counts is the bound of the best multipliers seen, evaluated in float64. `value`: what is sought and given is the lowest value at
    `radius` instead.
    """
    moving, top = start.cast(dtype), radius.to(dtype)
    names = ["alpha", *(["sigma", "curve"] if dual.spans else []), *(["beta"] if bool((start.phase != 0).any()) else [])]
    names = [name for name in names if getattr(start, name).numel()]
    kept = {name: getattr(moving, name).clone() for name in names}
    best, at = torch.full_like(top, -torch.inf), top if value else top * 0.7
    ascent = Ascent(dual.cast(dtype), moving)
    rate = _TIED_RATE if dual.spans else _RATE
    groups = [{"params": [getattr(moving, name)], "lr": _CURVE_RATE if name == "curve" else rate} for name in names]
    optimizer = torch.optim.Adam(groups, betas=_BETAS, fused=True) if names else None
    for step in range(steps + 1):
        found = ascent.slope(moving, at)
        scale = found.loss.clamp_min(_TINY)
        bent = scale + (scale.square() + 4 * found.curve * found.height).clamp_min(0).sqrt()
        outlook = (found.height if value else at + 2 * found.height / bent.clamp_min(_TINY)).nan_to_num(nan=-torch.inf)
        better = outlook > best
        best = torch.where(better, outlook, best)
        for name, tensor in kept.items():
            tensor[better] = getattr(moving, name)[better]
        if step == steps or optimizer is None:
            break
        at = at if value else torch.minimum(outlook.clamp_min(0), top)
        for name in names:
            getattr(moving, name).grad = -found.by[name] / scale[:, None]
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= _LAST ** (1 / steps)
        for name in names:
            if name in {"alpha", "sigma"}:
                getattr(moving, name).clamp_(0, 1)
            elif name == "beta":
                moving.beta.clamp_min_(0)
    chosen = replace(start, **{name: tensor.to(start.alpha.dtype) for name, tensor in kept.items()})
    sure = dual.bound(chosen)
    return chosen, dual.lowest(sure, radius)[0] if value else dual.critical(sure, best.to(radius))


def refined(dual: Dual, steps: int) -> Dual:
    """The region with the bounds of its later units taken anew, by multipliers optimised at the region's own radius.

    Units that see one window have a region of their own, in which the ball ties fewer units more closely.
    """
    small = dual.region
    for block in small.blocks[1:]:
        low, high = small.low.clone(), small.high.clone()
        for place in sorted(set(small.place[block].tolist())):
            rows = block.start + torch.nonzero(small.place[block] == place).squeeze(1)
            seen, units = small.before(rows)
            inner = Dual(seen, dual.of(units) if len(rows) == block.stop - block.start else None)
            reach, count, step = small.ball.radius, 2 * len(rows), max(1, _ENTRIES // max(1, inner.region.units))
            parts = [torch.arange(first, min(first + step, count)) for first in range(0, count, step)]
            found = torch.cat([optimised(inner, inner.first(part), reach.expand(len(part)), steps, value=True)[1] for part in parts])
            low[rows] = torch.maximum(low[rows], found[: len(rows)])
            high[rows] = torch.minimum(high[rows], -found[len(rows) :])
        small = replace(small, low=low, high=torch.maximum(low, high))
    return Dual(small, dual.spans)
