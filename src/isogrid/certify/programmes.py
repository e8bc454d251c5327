"""A node's linear relaxation solved exactly, and branch and bound over it: for regions of few units. Not here: the batched search.

HiGHS is believed in nothing: what it says of the units' equations is taken as slopes, which give a bound like any others, evaluated in
float64, and its point is judged by whoever asked.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import bmat, csr_array, eye_array
from torch import Tensor

from isogrid.certify.dual import Dual, Multipliers
from isogrid.certify.leaf import leaf_bound

Array = np.ndarray[Any, np.dtype[np.float64]]
_PENALTY: Final = 1e4  # of leaving a fixed phase, where that is impossible: bounds the multipliers
_DIVES: Final = 1  # pieces that are searched from an optimum on
_CLOSED: Final = 1e-9  # a relaxation that errs by no more than this has nothing to split


class Programme:
    r"""The triangle relaxation of a region's margins over l_inf balls: variables x [n], z [U], h [U].

    min <C_k, x> + <Q_k, h> with z = P x + T h + p, h >= z, and by the phase of a unit: free 0 <= h <= u (z - l) / (u - l); active
    z >= 0, h = z; inactive z <= 0, h = 0. The optimum's derivative by p_i is the slope g_i, and c = Q_k + T' g: alpha = g / c where
    c > 0, sigma = g / c where c < 0, beta = c - g of an active unit and g of an inactive one (Bunel et al. 2018; Salman et al. 2019).
    """

    def __init__(self, dual: Dual) -> None:
        self.dual, small = dual, dual.region
        self.units, self.inputs = small.units, small.ball.x.shape[1]
        self.P, self.T, self.p = csr_array(small.P.numpy()), csr_array(small.T.numpy()), small.p.numpy()
        self.low, self.high = small.low.numpy(), small.high.numpy()
        self.x = small.ball.x[0].numpy()
        one = eye_array(self.units)
        self.equations = csr_array(bmat([[-self.P, one, -self.T]]))
        self.below = csr_array(bmat([[csr_array((self.units, self.inputs)), one, -one]]))
        self.chord = self.high / np.maximum(self.high - self.low, np.finfo(float).tiny)

    def solve(self, node: Multipliers, radius: float) -> tuple[Multipliers, Array | None, Array, float]:
        """(the node with the multipliers of the optimum at `radius`, x, h - relu(z), the optimum without the margin's constant).

        x [n]: None where no point has the phases, and the optimum infinite.
        """
        phase, target = node.phase[0].numpy(), int(node.target[0])
        cost = np.concatenate([self.dual.region.C[target].numpy(), np.zeros(self.units), self.dual.region.Q[target].numpy()])
        slope = np.where(phase > 0, 1.0, np.where(phase < 0, 0.0, self.chord))
        level = np.where(phase == 0, -slope * self.low, 0.0)
        above = csr_array(bmat([[csr_array((self.units, self.inputs)), -_diagonal(slope), eye_array(self.units)]]))
        ball = self.dual.region.ball
        x_low, x_high = np.maximum(self.x - radius, ball.low), np.minimum(self.x + radius, ball.high)
        z_low, z_high = np.where(phase > 0, np.maximum(self.low, 0), self.low), np.where(phase < 0, np.minimum(self.high, 0), self.high)
        h_high = np.where(phase < 0, 0.0, np.maximum(self.high, 0))
        bounds = np.stack([np.concatenate([x_low, z_low, np.zeros(self.units)]), np.concatenate([x_high, z_high, h_high])], 1)
        rows, levels = bmat([[self.below], [above]]), np.concatenate([np.zeros(self.units), level])
        found = linprog(cost, A_ub=rows, b_ub=levels, A_eq=self.equations, b_eq=self.p, bounds=bounds, method="highs")
        if found.status == 0:
            z, h = found.x[self.inputs : self.inputs + self.units], found.x[self.inputs + self.units :]
            return self.multipliers(node, found.eqlin.marginals), found.x[: self.inputs], h - z.clip(0), float(found.fun)
        slopes = self._apart(cost, phase, slope, level, bounds)
        return self.multipliers(node, slopes), None, np.zeros(self.units), math.inf

    def _apart(self, cost: Array, phase: Array, slope: Array, level: Array, bounds: Array) -> Array:
        """Slopes where the fixed phases exclude each other: leaving one has a price instead."""
        fixed = np.nonzero(phase)[0]
        sign = csr_array((phase[fixed].astype(float), (np.arange(len(fixed)), fixed)), shape=(len(fixed), self.units))
        nothing = csr_array((self.units, len(fixed)))
        none_x, none_h = csr_array((len(fixed), self.inputs)), csr_array((len(fixed), self.units))
        lower = _diagonal(np.where(phase < 0, 0.0, 1.0))
        blank = csr_array((self.units, self.inputs))
        rows = bmat(
            [
                [blank, lower, -eye_array(self.units), nothing],
                [blank, -_diagonal(slope), eye_array(self.units), nothing],
                [none_x, -sign, none_h, -eye_array(len(fixed))],
            ]
        )
        free = bounds.copy()
        z = slice(self.inputs, self.inputs + self.units)
        free[z, 0], free[z, 1] = self.low, self.high
        free[self.inputs + self.units :, 0] = np.where(phase > 0, self.low.clip(max=0), 0.0)
        levels = np.concatenate([np.zeros(self.units), level, np.zeros(len(fixed))])
        found = linprog(
            np.concatenate([cost, np.full(len(fixed), _PENALTY)]),
            A_ub=rows,
            b_ub=levels,
            A_eq=csr_array(bmat([[self.equations, nothing]])),
            b_eq=self.p,
            bounds=np.concatenate([free, np.tile([0.0, np.inf], (len(fixed), 1))]),
            method="highs",
        )
        return found.eqlin.marginals if found.status == 0 else np.zeros(self.units)

    def multipliers(self, node: Multipliers, slopes: Array) -> Multipliers:
        """A node with the slopes g [U] of its units."""
        small = self.dual.region
        g = torch.from_numpy(np.ascontiguousarray(slopes))[None]
        c = small.Q[node.target] + g @ small.T
        share = torch.where(c == 0, 0.0, g / torch.where(c == 0, 1.0, c)).clamp(0, 1)
        beta = torch.where(node.phase > 0, c - g, g).clamp_min(0)
        return replace(node, alpha=share, sigma=share, beta=torch.where(node.phase == 0, 0.0, beta))


class Queue:
    """Branch and bound over linear programmes from some nodes of a region on, the smallest optimum first."""

    def __init__(self, dual: Dual, nodes: Multipliers, radius: Tensor) -> None:
        self.dual, self.programme = dual, Programme(dual)
        self.settled, self.count = math.inf, 0
        self.heap: list[tuple[float, int, float, Multipliers]] = []
        for i in range(len(radius)):
            self._push(-math.inf, float(radius[i]), nodes.take(torch.tensor([i])))

    def __len__(self) -> int:
        return len(self.heap)

    @property
    def lower(self) -> float:
        """The smallest radius that something open or settled has."""
        return min([self.settled, *(radius for _, _, radius, _ in self.heap)])

    def _push(self, value: float, radius: float, node: Multipliers) -> None:
        self.count += 1
        heapq.heappush(self.heap, (value, self.count, radius, node))

    def step(self, goal: float) -> tuple[Tensor | None, Tensor]:
        """Solve the node of the smallest optimum at `goal`, split it where it does not reach that: (points [M, n] or None, target [M])."""
        _, _, radius, node = heapq.heappop(self.heap)
        solved, x, excess, value = self.programme.solve(node, goal)
        bound = self.dual.bound(solved)
        radius = max(radius, float(self.dual.critical(bound)[0]))
        if radius >= goal:
            return None, node.target
        value += float(self.dual.region.c[node.target[0]])
        free = node.phase[0] == 0
        if not bool(free.any()):
            better, point = leaf_bound(self.dual, node, goal)
            self.settled = min(self.settled, max(radius, better))
            return (None if point is None else point[None]), node.target
        loss = bound.c[0].abs() * torch.from_numpy(excess.clip(0))
        if float(loss[free].amax()) < _CLOSED:
            loss = bound.c[0].abs() * (self.dual.region.high - self.dual.region.low)
        unit = int(torch.where(free, loss, -1.0).argmax())
        for sign in (1, -1):
            phase = solved.phase.clone()
            phase[0, unit] = sign
            self._push(value, radius, replace(solved, phase=phase))
        if x is None:
            return None, node.target
        points = [x]
        for _ in range(_DIVES):
            piece = self._piece(solved, points[-1])
            below = self.programme.solve(piece, goal)[1]
            if below is None:
                break
            points.append(below)
        return torch.from_numpy(np.stack(points)), node.target.expand(len(points))

    def _piece(self, node: Multipliers, x: Array) -> Multipliers:
        """The node with every unit in the phase that it has at x [n]: on this piece the margin is linear, and its minimum a point."""
        z, _ = self.dual.region.forward(torch.from_numpy(x)[None])
        return replace(node, phase=torch.where(z >= 0, 1, -1).to(node.phase))


def _diagonal(values: Array) -> csr_array:
    return csr_array((values, (np.arange(len(values)), np.arange(len(values)))), shape=(len(values), len(values)))
