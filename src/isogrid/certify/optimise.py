r"""The search for good multipliers: Adam along the gradient of their bounds in closed form. Not here: the bounds (dual.py), branching.

Let x* be where <A, x> is least over the ball, z*_i and h*_i = f(z*_i) where unit i's offset is reached. A bound's derivative by the
slopes of block k, with what they do to earlier blocks included, is

    dg_k = P_k x* + p_k - z*_k - sign(g_k) drift_k + sum_j T_kj dc_j        dc_j = h*_j + s_j dg_j

where s_j = dg_j / dc_j is the unit's slope: one pass from the first block to the last, and nothing to record on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from isogrid.certify.ball import above
from isogrid.certify.dual import Dual, Multipliers, tanh_point
from isogrid.certify.region import Region
from isogrid.certify.stack import Stack, stacked

Moving = dict[str, Tensor]
"""The multipliers by name: alpha, sigma, beta [W, N, U], curve [W, N, blocks]."""

_RATE, _TIED_RATE, _CURVE_RATE = 0.4, 0.1, 0.6  # of Adam: of slopes; where a ball ties them; of the logarithm of its weight
_LAST: Final = 0.1  # the share of the rates at the last step
_BETAS: Final = (0.5, 0.9)  # a bound has kinks everywhere: longer memories overshoot
_TINY: Final = 1e-30
_ENTRIES: Final = 2**19  # rows are bound in parts of this many multipliers
_READS: Final = 2**22  # what units of regions side by side read of each other


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slope:
    """Of bounds at their radii: the value, what it loses per radius, its part that is quadratic in it [W, N]; gradients by name."""

    height: Tensor
    loss: Tensor
    curve: Tensor
    by: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """What a block leaves for the way forward [W, N, u]: c's parts by sign, g's slope dg / dc, g, and where the offset is reached."""

    plus: Tensor
    minus: Tensor
    s: Tensor
    g: Tensor
    z: Tensor
    h: Tensor
    bend: Tensor | None  # the parabola there, per lambda


class Ascent:
    """The bounds of a stack of regions, and the way up from them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.active = above(stack.phase, stack.phase.new_zeros(())) if bool((stack.phase != 0).any()) else None
        self.passive = (-stack.phase).clamp_min(0)
        self.barred = torch.where(stack.phase < 0, torch.inf, 0.0), torch.where(stack.phase > 0, torch.inf, 0.0)
        self.reads = [bool((stack.P[:, block] != 0).any()) for block in stack.blocks]
        self.bends = [bool(stack.curved[..., block].any()) for block in stack.blocks]

    def slope(self, m: Moving, at: Tensor) -> Slope:
        """The bounds at radii `at` [W, N] and their gradients by the multipliers."""
        stack = self.stack
        A, coef, constant = stack.C, stack.Q, stack.c.clone()
        slant, curve, weights = torch.zeros_like(constant), torch.zeros_like(constant), m["curve"].exp()
        blocks: list[_Block] = []
        for k in reversed(range(len(stack.blocks))):
            block = stack.blocks[k]
            weight = None
            if stack.spans is not None:
                w, ell, delta = stack.spans[0][..., block], stack.spans[1][:, k, None], stack.spans[2][:, k, None]
                mine = weights[..., k]
                weight = mine[..., None] * w
                slant, curve, constant = slant + mine * ell * delta, curve + mine * ell.square() / 2, constant - mine * delta.square() / 2
            made, offset = self.block(m, k, coef[..., block], weight)
            constant = constant + (offset + made.g * stack.p[..., block] - made.g.abs() * stack.drift[..., block]).sum(-1)
            if self.reads[k]:
                A = torch.baddbmm(A, made.g, stack.P[:, block])
            if block.start:
                coef = torch.baddbmm(coef[..., : block.start], made.g, stack.T[:, block, : block.start])
            blocks.append(made)
        drop, steep, x = stack.ball.least(A, at)
        height = constant + stack.ball.centre(A) - drop - slant * at - curve * at.square()
        return Slope(height=height, loss=steep + slant + 2 * curve * at, curve=curve, by=self.forward(blocks[::-1], x, at, weights))

    def block(self, m: Moving, k: int, c: Tensor, weight: Tensor | None) -> tuple[_Block, Tensor]:
        """(what the way forward needs, min over z of c f(z) - g z + weight / 2 (z - zhat)^2 [W, N, u]) of a block's units."""
        stack, block, nothing = self.stack, self.stack.blocks[k], c.new_zeros(())
        plus, minus = c.clamp_min(0), c.clamp_max(0)
        alpha, sigma, curved = m["alpha"][..., block], m["sigma"][..., block], stack.curved[..., block]
        s = sigma + above(c, nothing) * (alpha - sigma)
        if self.active is not None:
            active, passive = self.active[..., block], self.passive[..., block]
            free = 1 - active - passive
            plus, minus, s = plus * free, minus * free, s * free + active
            g = s * c + m["beta"][..., block] * (passive - active)
        else:
            g = s * c
        if self.bends[k]:
            assert stack.tilts is not None
            plus, minus = (part.masked_fill(curved, 0.0) for part in (plus, minus))
            s = torch.where(curved, torch.where(c > 0, stack.tilts[0][..., block], stack.tilts[1][..., block]), s)
            g = torch.where(curved, s * c, g)
        (a, b), (d, e) = ((side[0][..., block], side[1][..., block]) for side in (stack.plus, stack.minus))
        centre, rest = stack.centre[..., block], c - g
        if weight is None:  # of equal ends the one nearer to 0: there slopes meet their limits, and the other end points beyond them
            up, down = a + above(nothing, rest) * (b - a), e + above(nothing, g) * (d - e)
            positive, negative, bends = rest * up, -g * down, None
        else:
            up = torch.minimum(torch.maximum(centre - rest / weight, a), b)
            down = torch.minimum(torch.maximum(centre + g / weight, d), e)
            bends = (up - centre).square(), (down - centre).square()
            positive, negative = rest * up + weight / 2 * bends[0], weight / 2 * bends[1] - g * down
        if self.active is not None:
            positive, negative = positive + self.barred[0][..., block], negative + self.barred[1][..., block]
        below = above(positive, negative)
        z, h = up + below * (down - up), up - below * up
        bend = None if bends is None else bends[0] + below * (bends[1] - bends[0])
        offset = torch.minimum(positive, negative)
        if self.bends[k]:
            point = tanh_point(a + d, b + e, c, g)
            z, h = torch.where(curved, point, z), torch.where(curved, point.tanh(), h)
            bend = None if bend is None else bend.masked_fill(curved, 0.0)
            offset = torch.where(curved, c * h - g * z, offset)
        return _Block(plus=plus, minus=minus, s=s, g=g, z=z, h=h, bend=bend), offset

    def forward(self, blocks: list[_Block], x: Tensor, at: Tensor, weights: Tensor) -> Moving:
        """The gradients, from the first block to the last, where the bounds are reached at x [W, N, n]."""
        stack, parts, bends = self.stack, [], []
        if not blocks:
            return {}
        moved = x[..., :0]  # dc of the blocks so far
        for k, (block, made) in enumerate(zip(stack.blocks, blocks, strict=True)):
            dg = stack.p[..., block] - made.z - made.g.sign() * stack.drift[..., block]
            if self.reads[k]:
                dg = torch.baddbmm(dg, x, stack.P[:, block].mT)
            if block.start:
                dg = torch.baddbmm(dg, moved, stack.T[:, block, : block.start].mT)
            moved = torch.cat([moved, torch.addcmul(made.h, made.s, dg)], 2)
            parts.append((dg * made.plus, dg * made.minus, dg))
            if made.bend is not None and stack.spans is not None:
                w, ell, delta = stack.spans[0][..., block], stack.spans[1][:, k, None], stack.spans[2][:, k, None]
                bends.append(weights[..., k] * ((made.bend * w).sum(-1) - (ell * at + delta).square()) / 2)
        alpha, sigma, dg = (torch.cat(v, 2) for v in zip(*parts, strict=True))
        found = {"alpha": alpha, "sigma": sigma}
        if self.active is not None:
            found["beta"] = dg * (self.passive - self.active)
        if bends:
            found["curve"] = torch.stack(bends, 2)
        return found


def optimised(
    dual: Dual, start: Multipliers, radius: Tensor, steps: int, *, value: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Multipliers, Tensor]:
    """(multipliers, certified radii [N]) after `steps` of Adam in `dtype` for bounds that matter up to `radius` [N]; the radii in float64.

    What counts is the bound of the best multipliers seen, evaluated in float64. `value`: what is sought and given is the lowest value at
    `radius` instead.
    """
    return side_by_side([dual], [start], [radius], steps, value=value, dtype=dtype)[0]


def side_by_side(
    duals: Sequence[Dual],
    starts: Sequence[Multipliers],
    radii: Sequence[Tensor],
    steps: int,
    *,
    value: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[tuple[Multipliers, Tensor]]:
    """`optimised` of regions that have as many blocks."""
    stack = stacked(duals, starts, dtype)
    moving = {name: stack.of([getattr(start, name) for start in starts]) for name in ("alpha", "sigma", "beta")}
    curves, most = [start.curve for start in starts], stack.c.shape[1]
    moving["curve"] = torch.stack([pad(curve, (0, 0, 0, most - len(curve))) for curve in curves]).to(dtype)
    top = torch.stack([pad(radius, (0, most - len(radius))) for radius in radii]).to(dtype)
    moving, best = _climbed(Ascent(stack), {name: tensor.clone() for name, tensor in moving.items()}, top, steps, value=value)
    found = []
    for w, (dual, start, radius, place) in enumerate(zip(duals, starts, radii, stack.places, strict=True)):
        n, like = len(start.target), start.alpha.dtype
        units = {name: moving[name][w, :n, place].to(like) for name in ("alpha", "sigma", "beta")}
        chosen = replace(start, curve=moving["curve"][w, :n].to(like), **units)
        sure = dual.bound(chosen)
        found.append((chosen, dual.lowest(sure, radius)[0] if value else dual.critical(sure, best[w, :n].to(radius))))
    return found


def _climbed(ascent: Ascent, moving: Moving, top: Tensor, steps: int, *, value: bool) -> tuple[Moving, Tensor]:
    """(the best multipliers seen, what they promise [W, N]) after `steps` of Adam; see `optimised`."""
    tied = ascent.stack.spans is not None
    names = ["alpha", *(["sigma", "curve"] if tied else []), *(["beta"] if ascent.active is not None else [])]
    names = [name for name in names if moving[name].numel()]
    kept = {name: moving[name].clone() for name in names}
    best, at = torch.full_like(top, -torch.inf), top if value else top * 0.7
    rates = {"curve": _CURVE_RATE, "alpha": _TIED_RATE if tied else _RATE, "sigma": _TIED_RATE, "beta": _TIED_RATE if tied else _RATE}
    groups = [{"params": [moving[name]], "lr": rates[name]} for name in names]
    optimizer = torch.optim.Adam(groups, betas=_BETAS, fused=True) if names else None
    for step in range(steps + 1):
        found = ascent.slope(moving, at)
        scale = found.loss.clamp_min(_TINY)
        bent = scale + (scale.square() + 4 * found.curve * found.height).clamp_min(0).sqrt()
        outlook = (found.height if value else at + 2 * found.height / bent.clamp_min(_TINY)).nan_to_num(nan=-torch.inf)
        better = outlook > best
        best = torch.where(better, outlook, best)
        for name, tensor in kept.items():
            tensor[better] = moving[name][better]
        if step == steps or optimizer is None:
            break
        at = at if value else torch.minimum(outlook.clamp_min(0), top)
        for name in names:
            moving[name].grad = -found.by[name] / scale[..., None]
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= _LAST ** (1 / steps)
        for name in names:
            if name in {"alpha", "sigma"}:
                moving[name].clamp_(0, 1)
            elif name == "beta":
                moving[name].clamp_min_(0)
    return moving | kept, best


def refined(dual: Dual, steps: int) -> Dual:
    """The region with the bounds of its later units taken anew, by multipliers optimised at the region's own radius.

    Units that see one window have a region of their own, in which the ball ties fewer units more closely; windows go side by side.
    """
    small = dual.region
    for block in small.blocks[1:]:
        low, high = small.low.clone(), small.high.clone()
        for group in _groups(_windows(dual, small, block)):
            duals, starts = [one.dual for one in group], [one.dual.first(one.targets) for one in group]
            reach = [small.ball.radius.expand(len(one.targets)) for one in group]
            for one, (_, found) in zip(group, side_by_side(duals, starts, reach, steps, value=True), strict=True):
                half = len(one.rows)
                lowers = one.targets < half
                below, over = one.rows[one.targets[lowers]], one.rows[one.targets[~lowers] - half]
                low[below] = torch.maximum(low[below], found[lowers])
                high[over] = torch.minimum(high[over], -found[~lowers])
        small = replace(small, low=low, high=torch.maximum(low, high))
    return Dual(small, dual.spans)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Window:
    """The units `rows` of a region, what they depend on, and which of them with which sign: `targets` of its margins."""

    dual: Dual
    rows: Tensor
    targets: Tensor


def _windows(dual: Dual, small: Region, block: slice) -> Iterator[_Window]:
    """A block's units by place, in parts of at most _ENTRIES multipliers."""
    for place in sorted(set(small.place[block].tolist())):
        rows = block.start + torch.nonzero(small.place[block] == place).squeeze(1)
        seen, units = small.before(rows)
        inner = Dual(seen, dual.of(units) if len(rows) == block.stop - block.start else None)
        count, step = 2 * len(rows), max(1, _ENTRIES // max(1, inner.region.units))
        for first in range(0, count, step):
            yield _Window(dual=inner, rows=rows, targets=torch.arange(first, min(first + step, count)))


def _groups(windows: Iterator[_Window]) -> Iterator[list[_Window]]:
    """Windows in a row that have as many blocks, so many that they stay within _ENTRIES and _READS once they are padded."""
    group: list[_Window] = []
    for one in windows:
        units, rows = (max(sizes) for sizes in zip(*((len(w.dual.centre), len(w.targets)) for w in [*group, one]), strict=True))
        alike = not group or len(group[0].dual.region.blocks) == len(one.dual.region.blocks)
        size = (len(group) + 1) * units
        if group and not (alike and size * rows <= _ENTRIES and size * units <= _READS):
            yield group
            group = []
        group.append(one)
    if group:
        yield group
