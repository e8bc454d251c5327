"""One sample's network within a ball, reduced to its undecided units. Not here: bounds over it (dual.py), the search (branch.py).

Units that keep their sign within the ball are affine there and vanish into the matrices, as do pixels that reach nothing. What is left:

    z_i = <P_i, x> + <T_i, h> + p_i + e_i,  |e_i| <= drift_i      h_i = f(z_i),  low_i <= z_i <= high_i
    m_k = <C_k, x> + <Q_k, h> + c_k + e_k,  |e_k| <= slack_k

with T strictly block lower triangular: a unit reads units of earlier nonlinear nodes only. It holds for every radius up to the ball's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, Sweep, mapped
from isogrid.certify.graph import RUN_UNIT
from isogrid.certify.operations import Operation, Tanh, gamma_of

_SCALES: Final = 1e-12  # the least square of a row's norm that a weight divides by


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """See the head of this file: P [U, n], T [U, U], p, drift, low, high [U], C [K, n], Q [K, U], c, slack [K]; `ball` of one x [1, n].

    `blocks`: the units of each nonlinear node in turn. `curved` [U]: tanh, else ReLU. `pixels` [n]: which inputs are left. `place` [U]:
    units of a block of one place see the same window of the input (see `Windows`), 0 where they see all of it.
    """

    ball: Ball
    blocks: tuple[slice, ...]
    P: Tensor
    T: Tensor
    p: Tensor
    drift: Tensor
    low: Tensor
    high: Tensor
    curved: Tensor
    C: Tensor
    Q: Tensor
    c: Tensor
    slack: Tensor
    pixels: Tensor
    place: Tensor

    @property
    def units(self) -> int:
        """U."""
        return len(self.p)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(z, h) [M, U] at x [M, n], without rounding."""
        z, h = x @ self.P.T + self.p, x.new_zeros(len(x), self.units)
        for block in self.blocks:
            if block.start:
                z[:, block] += h[:, : block.start] @ self.T[block, : block.start].T
            values = z[:, block]
            h[:, block] = (
                torch.where(self.curved[block], values.tanh(), values.clamp_min(0)) if bool(self.curved.any()) else values.clamp_min(0)
            )
        return z, h

    def before(self, rows: Tensor) -> tuple[Region, Tensor]:
        """(what the units `rows` [K] of one block depend on, with these and their negatives in the place of margins; its units [U'])."""
        needed = (self.T[rows] != 0).any(0)
        for block in reversed(self.blocks):
            if block.start and bool(needed[block].any()):
                needed[: block.start] |= (self.T[block, : block.start][needed[block]] != 0).any(0)
        units, P, blocks = torch.nonzero(needed).squeeze(1), self.P[rows], []
        reached = (P != 0).any(0) | (self.P[units] != 0).any(0)
        reached[:1] |= ~reached.any()
        columns, first = torch.nonzero(reached).squeeze(1), 0
        for count in (int(needed[block].sum()) for block in self.blocks):
            blocks.append(slice(first, first + count))
            first += count
        C, Q, p, drift = P[:, columns], self.T[rows][:, units], self.p[rows], self.drift[rows]
        parts = {name: getattr(self, name)[units] for name in ("p", "drift", "low", "high", "curved", "place")}
        found = replace(
            self,
            ball=replace(self.ball, x=self.ball.x[:, columns]),
            blocks=tuple(block for block in blocks if block.stop > block.start),
            P=self.P[units][:, columns],
            T=self.T[units][:, units],
            C=torch.cat([C, -C]),
            Q=torch.cat([Q, -Q]),
            c=torch.cat([p, -p]),
            slack=torch.cat([drift, drift]),
            pixels=self.pixels[columns],
            **parts,
        )
        return found, units

    def spans(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        r"""Per block (weights w, ell, delta): sum_i w_i (z_i - zhat_i)^2 <= (ell r + delta)^2 at l2 distance r; zhat at the centre.

        A ReLU or tanh changes by d_i times what its input changes, 0 <= d_i <= 1, so the Jacobian of block k is
        J_k = P_k + sum_j T_kj D_j J_j. With D = 1/2 + E, ||E|| <= 1/2, it lies within dev_k of Jbar_k = P_k + sum_j T_kj Jbar_j / 2:
        dev_k = sum_j ||T_kj|| (dev_j + ell_j) / 2 and ell_k = ||Jbar_k|| + dev_k. Weights 1 / (row norm)^2 make the units alike.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        middles: list[Tensor] = []
        deviations: list[Tensor] = []
        for block in self.blocks:
            middle, before = self.P[block].clone(), list(zip(self.blocks, middles, strict=False))
            for other, theirs in before:
                middle += self.T[block, other] @ theirs / 2
            spread = middle.norm(dim=1).square()
            for (other, _), (w, ell, _), _dev in zip(before, found, deviations, strict=True):
                spread = spread + (self.T[block, other] / w.sqrt()).norm(dim=1).square() * (ell / 2).square()
            w = 1 / spread.clamp_min(_SCALES)
            root = w.sqrt()[:, None]
            deviation, delta = self.P.new_zeros(()), (root[:, 0] * self.drift[block]).norm()
            for (other, _), (theirs_w, ell, theirs_delta), theirs_dev in zip(before, found, deviations, strict=True):
                size = largest_singular(root * self.T[block, other] / theirs_w.sqrt())
                deviation = deviation + size * (theirs_dev + ell) / 2
                delta = delta + size * theirs_delta
            found.append((w, largest_singular(root * middle) + deviation, delta))
            middles.append(middle)
            deviations.append(deviation)
        return found


def largest_singular(matrix: Tensor) -> Tensor:
    """The spectral norm, from above: the root of the largest eigenvalue of the smaller Gram matrix, with its rounding added."""
    if matrix.numel() == 0:
        return matrix.new_zeros(())
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    total = gram.diagonal().sum()
    top = torch.linalg.eigvalsh(gram)[-1] + total * max(matrix.shape) * 8 * torch.finfo(matrix.dtype).eps
    found: Tensor = top.clamp_min(0).sqrt()
    return found


def region(bounder: Bounder, found: Sweep, row: int, rows: Tensor) -> Region:
    """The region of sample `row` of a sweep; rows [K, C]: the margins as coefficients on the outputs."""
    builder = _Builder(bounder, found, row)
    values, drift = builder.outputs()
    margins = values @ rows.T
    n = builder.n
    C, P, T = margins[1 : n + 1].T, torch.cat(builder.P), builder.triangle()
    reaching = (P != 0).any(0) | (C != 0).any(0)
    reaching[:1] |= ~reaching.any()  # a constant network keeps one input, for a ball needs a dimension
    kept = torch.nonzero(reaching).squeeze(1)
    pixels, ball = bounder.pixels[kept], found.ball.take(slice(row, row + 1))
    return Region(
        ball=replace(ball, x=ball.x.flatten(1)[:, pixels]),
        blocks=tuple(builder.blocks),
        P=P[:, kept].contiguous(),
        T=T,
        p=torch.cat(builder.p),
        drift=torch.cat(builder.drift),
        low=torch.cat(builder.low),
        high=torch.cat(builder.high),
        curved=torch.cat(builder.curved),
        C=C[:, kept].contiguous(),
        Q=margins[n + 1 :].T.contiguous(),
        c=margins[0],
        slack=drift @ rows.abs().T,
        pixels=pixels,
        place=torch.cat(builder.place),
    )


class _Builder:
    """Every node of a sweep as a map of (1, x, h): rows 0, 1..n, n+1.. of [rows, *shape], and how far it may drift from it [1, *shape].

    `sizes`: the sums of absolute values that a node's map adds up, which bound the rounding of our own composing and summing.
    """

    def __init__(self, bounder: Bounder, found: Sweep, row: int) -> None:
        self.known, self.found, self.row, self.windows = bounder.maps, found, row, bounder.windows
        self.n = len(bounder.pixels)
        none = torch.zeros(0, dtype=torch.float64)
        self.P, self.T = [torch.zeros(0, self.n, dtype=torch.float64)], [torch.zeros(0, 0, dtype=torch.float64)]
        self.p, self.drift, self.low, self.high, self.curved, self.place = [none], [none], [none], [none], [none.bool()], [none.long()]
        self.blocks: list[slice] = []
        self.total = 0

    def outputs(self) -> tuple[Tensor, Tensor]:
        graph = self.found.graph
        maps = [self.known[0]]
        drifts = [torch.zeros(1, *graph.nodes[0].shape, dtype=torch.float64)]
        sizes = [torch.maximum(self.found.low[0].abs(), self.found.high[0].abs())[self.row : self.row + 1]]
        ours = float(gamma_of((RUN_UNIT, 4 * graph.widest + 64))(1))
        for i, node in enumerate(graph.nodes[1:], 1):
            assert node.operation is not None
            ins = [_rows(maps[j], max(len(maps[k]) for k in node.inputs)) for j in node.inputs]
            rounding = self.found.rounding[i]
            own = 0.0 if rounding is None else rounding[self.row : self.row + 1]
            if node.operation.affine:
                out = self.known[i] if i in self.known else mapped(node.operation, ins)
                low, high = node.operation.interval([-drifts[j] for j in node.inputs], [drifts[j] for j in node.inputs])
                inside = [sizes[j] for j in node.inputs]
                added = node.operation.rounding(inside, _whole)
                maps.append(out)
                sizes.append(node.operation.forward(*inside).abs() if added is None else added)
                drifts.append((high - low) / 2 + own + ours * sizes[-1])
            else:
                value, drift = self.units(node.operation, node.inputs[0], ins[0], drifts[node.inputs[0]])
                maps.append(value)
                sizes.append(sizes[node.inputs[0]])
                drifts.append(drift + own)
        return _rows(maps[-1].flatten(1), self.n + 1 + self.total), drifts[-1].flatten()

    def units(self, operation: Operation, source: int, value: Tensor, drift: Tensor) -> tuple[Tensor, Tensor]:
        """A nonlinear node's output: the undecided elements of its input become units, the others pass or vanish."""
        low, high = (side[source][self.row].flatten() for side in (self.found.low, self.found.high))
        curved = isinstance(operation, Tanh)
        chosen = torch.arange(len(low)) if curved else torch.nonzero((low < 0) & (high > 0)).squeeze(1)
        passes = (low >= 0) & (not curved)
        flat = value.flatten(1)
        self.P.append(flat[1 : self.n + 1, chosen].T)
        self.p.append(flat[0, chosen])
        self.T.append(flat[self.n + 1 :, chosen].T)
        self.drift.append(drift.flatten()[chosen])
        self.low.append(low[chosen])
        self.high.append(high[chosen])
        self.curved.append(torch.full((len(chosen),), curved))
        places = 1 if self.windows.get(source) is None else math.prod(self.found.graph.nodes[source].shape[1:])
        self.place.append(chosen % places)
        kept = _rows(flat, self.n + 1 + self.total) * passes
        fresh = torch.zeros(len(chosen), len(low), dtype=torch.float64)
        fresh[torch.arange(len(chosen)), chosen] = 1.0
        self.blocks.append(slice(self.total, self.total + len(chosen)))
        self.total += len(chosen)
        return torch.cat([kept, fresh]).reshape(-1, *value.shape[1:]), (drift.flatten() * passes).reshape(drift.shape)

    def triangle(self) -> Tensor:
        """T [U, U]."""
        return torch.cat([torch.nn.functional.pad(T, (0, self.total - T.shape[1])) for T in self.T])


def _whole(count: Tensor | int) -> Tensor:
    """A relative error of 1, which turns `Operation.rounding` into the sum of the absolute values that are added up."""
    return torch.ones_like(torch.as_tensor(count, dtype=torch.float64))


def _rows(value: Tensor, rows: int) -> Tensor:
    return value if len(value) == rows else torch.cat([value, value.new_zeros(rows - len(value), *value.shape[1:])])
