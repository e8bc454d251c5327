r"""Lower bounds of the margins over a region from multipliers. Not here: the search for good ones (optimise.py), branching (branch.py).

Any slope g_i for unit i and any lambda_k >= 0 for block k give, with the coefficient c_i that the later units leave on h_i,

    m >= <A, x> + const + sum_i min_z { c_i f(z) - g_i z + lambda_k w_i / 2 (z - zhat_i)^2 }
         - sum_k lambda_k / 2 (ell_k r + delta_k)^2

where z runs over [low_i, high_i], or its part of one sign where a split has fixed the phase, and A, const collect the g_i z_i. The
quadratic term is SDP-CROWN's (arXiv 2506.06665): it ties the units of a block by what the l2 ball allows them together; lambda = 0 is
CROWN. Slopes of a free ReLU: alpha c where c >= 0 and sigma c where c < 0, both in [0, 1]; of a split one: c - beta or beta, beta >= 0.
"""

from __future__ import annotations

import math
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
_FIRST: Final = 0.1, 0.45, 2.0  # shares of the linear term that the quadratic one takes at the start, the best of them
_TINY: Final = 1e-30


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

    def of(self, units: Tensor) -> Spans:
        """What the ball allows some of the units, of blocks of which one is left."""
        kept = torch.zeros(self.region.units, dtype=torch.bool).index_fill(0, units, True)
        blocks = [block for block in self.region.blocks if bool(kept[block].any())] if self.spans else []
        places = [self.region.blocks.index(block) for block in blocks]
        return [(self.spans[k][0][kept[block]], *self.spans[k][1:]) for k, block in zip(places, blocks, strict=True)]

    def crown(self, targets: Tensor) -> Multipliers:
        """CROWN's multipliers for margins `targets` [N]."""
        n, u = len(targets), self.region.units
        like = self.region.p
        phase = torch.where(self.region.low >= 0, 1, torch.where(self.region.high <= 0, -1, 0)).to(torch.int8)
        phase = torch.where(self.region.curved, 0, phase)
        return Multipliers(
            target=targets,
            phase=phase.expand(n, u).contiguous(),
            alpha=self.steep.expand(n, u).clone(),
            sigma=self.chord.expand(n, u).clone(),
            beta=like.new_zeros(n, u),
            curve=like.new_zeros(n, 0),
        )

    def first(self, targets: Tensor) -> Multipliers:
        """Where a search starts: CROWN's multipliers, or, where there are spans, chords and the best of a few lambdas."""
        made = self.crown(targets)
        if not self.spans:
            return made
        made = replace(made, alpha=made.sigma.clone())
        slope = self.bound(made).A.norm(dim=1).clamp_min(_TINY)
        reach = self.region.ball.radius.clamp_min(_TINY)
        ells = torch.stack([ell for _, ell, _ in self.spans]).clamp_min(1e-6)
        whole = (slope[:, None] / (ells.square() * reach * len(ells))).log()
        tried = [replace(made, curve=whole + math.log(share)) for share in _FIRST]
        values = torch.stack([self.lowest(self.bound(one), self.region.ball.radius.expand(len(targets)))[0] for one in tried])
        curves = torch.stack([one.curve for one in tried])
        return replace(made, curve=curves[values.argmax(0), torch.arange(len(targets))])

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
            tilt = torch.where(c > 0, self.flat.below[block].to(c), self.flat.above[block].to(c))
            found = torch.where(self.region.curved[block], tilt * c, found)
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
        z = tanh_point(self.region.low[block], self.region.high[block], c, g)
        return c * z.tanh() - g * z

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


@torch.no_grad()
def tanh_point(low: Tensor, high: Tensor, c: Tensor, g: Tensor) -> Tensor:
    """Where c tanh(z) - g z is least over low <= z <= high: at an end, or where tanh's slope is g / c."""
    ratio = torch.where(c == 0, 0.0, g / torch.where(c == 0, 1.0, c))
    turn = torch.atanh((1 - ratio).clamp(0, 1 - 4 * torch.finfo(c.dtype).eps).sqrt())
    points = torch.stack([low.expand_as(c), high.expand_as(c), turn.clamp(low, high), (-turn).clamp(low, high)])
    return points.gather(0, (c * points.tanh() - g * points).argmin(0, keepdim=True))[0]
