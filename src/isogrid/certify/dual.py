r"""Lower bounds of the margins over a region from multipliers, and the search for good multipliers. Not here: branching (branch.py).

Any slope g_i for unit i and any lambda_k >= 0 for block k give, with the coefficient c_i that the later units leave on h_i,

    m >= <A, x> + const + sum_i min_z { c_i f(z) - g_i z + lambda_k w_i / 2 (z - zhat_i)^2 }
         - sum_k lambda_k / 2 (ell_k r + delta_k)^2

where z runs over [low_i, high_i], or its part of one sign where a split has fixed the phase, and A, const collect the g_i z_i. The
quadratic term is SDP-CROWN's (arXiv 2506.06665): it ties the units of a block by what the l2 ball allows them together; lambda = 0 is
CROWN. Slopes of a free ReLU: alpha c where c >= 0 and sigma c where c < 0, both in [0, 1]; of a split one: c - beta or beta, beta >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.operations import Tanh
from isogrid.certify.region import Region
from isogrid.certify.relaxations import lines
from isogrid.core.norms import L2

Spans = list[tuple[Tensor, Tensor, Tensor]]
"""Per block (w, ell, delta); see `Region.spans`."""
_RATE, _TIED_RATE, _CURVE_RATE, _DECAY = 0.1, 0.06, 0.3, 0.97  # of slopes; where a ball ties them; of its weight
_FIRST: Final = 0.7  # the share of the linear term that the quadratic one takes at the start
_TINY: Final = 1e-30
_ENTRIES: Final = 2**19  # rows are bound in parts of this many multipliers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Multipliers:
    """Of N bounds: target [N] (which margin), phase [N, U] (-1, 0, 1), alpha, sigma, beta [N, U], log lambda [N, blocks] (empty: none)."""

    target: Tensor
    phase: Tensor
    alpha: Tensor
    sigma: Tensor
    beta: Tensor
    curve: Tensor

    def take(self, rows: Tensor | slice) -> Multipliers:
        """Those of some bounds."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def with_(self, other: Multipliers) -> Multipliers:
        """Both, one after the other."""
        return replace(self, **{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})

    def cast(self, dtype: torch.dtype) -> Multipliers:
        """The multipliers in another type."""
        return replace(self, **{name: getattr(self, name).to(dtype) for name in ("alpha", "sigma", "beta", "curve")})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bound:
    """m >= <A, x> + constant - slant r - curve r^2 at distance r: A [N, n], the others [N]; c, g, offset [N, U] of the units."""

    A: Tensor
    constant: Tensor
    slant: Tensor
    curve: Tensor
    c: Tensor
    g: Tensor
    offset: Tensor


class Dual:
    """A region's bounds; `spans` (see `Region.spans`) where the l2 ball ties the units of a block together."""

    def __init__(self, region: Region, spans: Spans | None = None) -> None:
        self.region = region
        self.centre = region.forward(region.ball.x)[0][0]
        tied = region.ball.norm is L2 and region.units > 0
        self.spans = (region.spans() if spans is None else spans) if tied else []
        low, high, curved = region.low, region.high, region.curved
        self.chord = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low).clamp_min(_TINY)))
        self.steep = (high > -low).to(low.dtype)
        self.flat = lines(Tanh(), low, high) if bool(curved.any()) else None
        self.plus = low.clamp_min(0), high.clamp_min(0)
        self.minus = low.clamp_max(0), high.clamp_max(0)

    def cast(self, dtype: torch.dtype) -> Dual:
        """The same bounds in another type, for a search."""
        other = Dual.__new__(Dual)
        other.region, other.centre = self.region.cast(dtype), self.centre.to(dtype)
        other.spans = [(w.to(dtype), ell.to(dtype), delta.to(dtype)) for w, ell, delta in self.spans]
        other.chord, other.steep, other.flat = self.chord.to(dtype), self.steep.to(dtype), self.flat
        other.plus = self.plus[0].to(dtype), self.plus[1].to(dtype)
        other.minus = self.minus[0].to(dtype), self.minus[1].to(dtype)
        return other

    def of(self, units: Tensor) -> Spans:
        """What the ball allows some of the units, of blocks of which one is left."""
        kept = torch.zeros(self.region.units, dtype=torch.bool).index_fill(0, units, True)
        blocks = [block for block in self.region.blocks if bool(kept[block].any())] if self.spans else []
        places = [self.region.blocks.index(block) for block in blocks]
        return [(self.spans[k][0][kept[block]], *self.spans[k][1:]) for k, block in zip(places, blocks, strict=True)]

    def first(self, targets: Tensor) -> Multipliers:
        """CROWN's multipliers for margins `targets` [N], and a first lambda where there are spans."""
        n, u = len(targets), self.region.units
        like = self.region.p
        phase = torch.where(self.region.low >= 0, 1, torch.where(self.region.high <= 0, -1, 0)).to(torch.int8)
        phase = torch.where(self.region.curved, 0, phase)
        made = Multipliers(
            target=targets,
            phase=phase.expand(n, u).contiguous(),
            alpha=self.steep.expand(n, u).clone(),
            sigma=self.chord.expand(n, u).clone(),
            beta=like.new_zeros(n, u),
            curve=like.new_zeros(n, 0),
        )
        if not self.spans:
            return made
        slope = self.bound(made).A.norm(dim=1).clamp_min(_TINY)
        reach = self.region.ball.radius.clamp_min(_TINY)
        ells = torch.stack([ell for _, ell, _ in self.spans]).clamp_min(1e-6)
        return replace(made, curve=(_FIRST * slope[:, None] / (ells.square() * reach * len(ells))).log())

    def bound(self, m: Multipliers) -> Bound:
        """The bound that the multipliers give."""
        region = self.region
        A, coef, constant = region.C[m.target], region.Q[m.target], (region.c - region.slack)[m.target]
        slant, curve = torch.zeros_like(constant), torch.zeros_like(constant)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for k in reversed(range(len(region.blocks))):
            block = region.blocks[k]
            c = coef[:, block]
            g = self.slopes(m, block, c)
            if m.curve.shape[1]:
                w, ell, delta = self.spans[k]
                weight = m.curve[:, k].exp()
                offset = self.curved_offset(m.phase[:, block], block, c, g, weight[:, None] * w)
                slant, curve = slant + weight * ell * delta, curve + weight * ell.square() / 2
                constant = constant - weight * delta.square() / 2
            else:
                offset = self.offset(m.phase[:, block], block, c, g)
            constant = constant + offset.sum(1) + g @ region.p[block] - g.abs() @ region.drift[block]
            A = A + g @ region.P[block]
            if block.start:
                coef = coef[:, : block.start] + g @ region.T[block, : block.start]
            parts.append((c, g, offset))
        c, g, offset = (torch.cat(v[::-1], 1) for v in zip(*parts, strict=True)) if parts else (coef, coef, coef)
        return Bound(A=A, constant=constant, slant=slant, curve=curve, c=c, g=g, offset=offset)

    def slopes(self, m: Multipliers, block: slice, c: Tensor) -> Tensor:
        """g [N, u] of a block's units."""
        phase, beta = m.phase[:, block], m.beta[:, block]
        free = c.clamp_min(0) * m.alpha[:, block] + c.clamp_max(0) * m.sigma[:, block]
        found = torch.where(phase == 0, free, torch.where(phase > 0, c - beta, beta))
        if self.flat is not None and bool(self.region.curved[block].any()):
            below, above = self.flat.below[block].to(c), self.flat.above[block].to(c)
            tilted = c.clamp_min(0) * below + c.clamp_max(0) * above
            found = torch.where(self.region.curved[block], tilted, found)
        return found

    def offset(self, phase: Tensor, block: slice, c: Tensor, g: Tensor) -> Tensor:
        """min over z of c f(z) - g z [N, u]: of a ReLU at an end or at 0, of tanh also where its slope is g / c."""
        (a, b), (d, e) = ((side[0][block], side[1][block]) for side in (self.plus, self.minus))
        positive = torch.minimum((c - g) * a, (c - g) * b)
        negative = torch.minimum(-g * d, -g * e)
        found = torch.where(phase > 0, positive, torch.where(phase < 0, negative, torch.minimum(positive, negative)))
        return torch.where(self.region.curved[block], self.tanh_offset(block, c, g), found) if self.flat is not None else found

    def tanh_offset(self, block: slice, c: Tensor, g: Tensor) -> Tensor:
        """min over z in [low, high] of c tanh(z) - g z."""
        low, high = self.region.low[block], self.region.high[block]
        ratio = torch.where(c == 0, 0.0, g / torch.where(c == 0, 1.0, c))
        with torch.no_grad():  # at a minimum the point may be held fixed
            turn = torch.atanh((1 - ratio).clamp(0, 1 - 4 * torch.finfo(c.dtype).eps).sqrt())
            points = [low.expand_as(c), high.expand_as(c), turn.clamp(low, high), (-turn).clamp(low, high)]
        return torch.stack([c * z.tanh() - g * z for z in points]).amin(0)

    def curved_offset(self, phase: Tensor, block: slice, c: Tensor, g: Tensor, weight: Tensor) -> Tensor:
        """min over z of c relu(z) - g z + weight / 2 (z - zhat)^2 [N, u]: a parabola on each side of 0."""
        (a, b), (d, e) = ((side[0][block], side[1][block]) for side in (self.plus, self.minus))
        centre = self.centre[block]
        with torch.no_grad():
            up = torch.minimum(torch.maximum(centre - (c - g) / weight, a), b)
            down = torch.minimum(torch.maximum(centre + g / weight, d), e)
        positive = (c - g) * up + weight / 2 * (up - centre).square()
        negative = -g * down + weight / 2 * (down - centre).square()
        found = torch.where(phase > 0, positive, torch.where(phase < 0, negative, torch.minimum(positive, negative)))
        if self.flat is not None:  # without its parabola, which is never negative
            found = torch.where(self.region.curved[block], self.tanh_offset(block, c, g), found)
        return found

    def critical(self, bound: Bound, guess: Tensor | None = None) -> Tensor:
        """The largest radius [N] up to which each bound is positive, -1 where it is not at 0; near `guess` [N] where one is given."""
        near = None if guess is None else guess[None]
        return self.region.ball.critical(bound.A[None], bound.constant[None], bound.curve[None], bound.slant[None], near)[0]

    def lowest(self, bound: Bound, radius: Tensor) -> tuple[Tensor, Tensor]:
        """(value, what it loses per radius) [N] of the bounds at radii [N]."""
        ball = self.region.ball
        drop, slope = (v[0] for v in ball.drop(bound.A[None], radius[None]))
        value = bound.constant + ball.centre(bound.A[None])[0] - drop - bound.slant * radius - bound.curve * radius.square()
        return value, slope + bound.slant + 2 * bound.curve * radius


def optimised(
    dual: Dual, start: Multipliers, radius: Tensor, steps: int, *, value: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Multipliers, Tensor]:
    """(multipliers, certified radii [N]) after `steps` of Adam in `dtype` for bounds that matter up to `radius` [N]; the radii in float64.

    What counts is the bound of the best multipliers seen, evaluated in float64. `value`: what is sought and given is the lowest value at
    `radius` instead.
    """
    fast, top = dual.cast(dtype), radius.to(dtype)
    names = [name for name in ("alpha", "beta", "sigma", "curve") if getattr(start, name).numel()]
    if not dual.spans:
        names = [name for name in names if name != "sigma"]
    moving = {name: getattr(start, name).to(dtype, copy=True).requires_grad_() for name in names}
    kept = {name: tensor.detach().clone() for name, tensor in moving.items()}
    best, at, fixed = torch.full_like(top, -torch.inf), top if value else top * 0.7, start.cast(dtype)
    steps = steps if names else 0
    rate = _TIED_RATE if dual.spans else _RATE
    groups = [{"params": [moving[name]], "lr": _CURVE_RATE if name == "curve" else rate} for name in names]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99)) if names else None
    for step in range(steps + 1):
        with torch.enable_grad():
            bound = fast.bound(replace(fixed, **moving))
            height, slope = fast.lowest(bound, at)
            scale = slope.detach().clamp_min(_TINY)
            loss = (-height / scale).sum()
        found = height.detach()
        bent = scale + (scale.square() + 4 * bound.curve.detach() * found).clamp_min(0).sqrt()
        outlook = (found if value else at + 2 * found / bent.clamp_min(_TINY)).nan_to_num(nan=-torch.inf)
        better = outlook > best
        best = torch.where(better, outlook, best)
        for name, tensor in moving.items():
            kept[name][better] = tensor.detach()[better]
        if step == steps or optimizer is None:
            break
        at = at if value else torch.minimum(outlook.clamp_min(0), top)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= _DECAY
        with torch.no_grad():
            for name in ("alpha", "sigma"):
                if name in moving:
                    moving[name].clamp_(0, 1)
            if "beta" in moving:
                moving["beta"].clamp_min_(0)
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
