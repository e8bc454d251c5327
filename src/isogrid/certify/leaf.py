"""A node whose units are all fixed: the closest point of a polyhedron, solved, and turned back into a bound. Not here: the search.

The solvers (HiGHS in l_inf, Lawson and Hanson's least distance programming in l2) are believed in nothing: their multipliers give a bound
like any others, evaluated in float64, and their point is judged by whoever asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from isogrid.certify.dual import Dual, Multipliers
from isogrid.core.norms import L2

Array = np.ndarray[Any, np.dtype[np.float64]]
_PENALTY: Final = 1e4  # of leaving the polyhedron, where it is empty: bounds the multipliers
_ROUNDS: Final = 6  # in which faces of the box are added that the closest point crosses
_LEAST: Final = 1e-9
BEYOND: Final = 3e-5
"""Counterexamples are looked for this share of the distance beyond a boundary, so that rounding leaves them counterexamples."""
NOISE: Final = 0.25
"""And beyond the margin's by this share of the most that the model's rounding can move it."""


def leaf_bound(dual: Dual, node: Multipliers, goal: float) -> tuple[float, Tensor | None]:
    """(certified radius, a point [n] a little inside the polyhedron close to the centre, or None) of one node without free units.

    The point at the smallest distance lies on several boundaries at once, and a step across one may leave another: a second solution with
    every boundary moved in by the share BEYOND of the distance, the margin's by NOISE, too, is a point that rounding leaves inside.
    """
    G, h = polyhedron(dual, node)
    small = dual.region
    x = small.ball.x[0].numpy()

    def solved(levels: Array) -> tuple[Array, Array | None]:
        if small.ball.norm is L2:
            return _closest_l2(G, levels, x, small.ball.low, small.ball.high)
        return _closest_linf(G, levels, x, small.ball.low, small.ball.high, goal)

    multipliers, step = solved(h)
    if step is not None:
        size = float(small.ball.norm.size(torch.from_numpy(step)[None]))
        inside = h - BEYOND * size * small.ball.norm.dual_size(torch.from_numpy(G)).numpy()
        inside[0] -= NOISE * float(small.slack[node.target[0]])
        step = solved(inside)[1]
    fixed = torch.nonzero(node.phase[0] != 0).squeeze(1)
    beta = torch.zeros_like(node.beta)
    beta[0, fixed] = torch.from_numpy(multipliers[1:] / max(multipliers[0], _LEAST)).clamp_min(0)
    chosen = replace(node, beta=beta, curve=node.curve[:, :0])
    radius = float(dual.critical(dual.bound(chosen))[0])
    return radius, None if step is None else torch.from_numpy(x + step)


def polyhedron(dual: Dual, node: Multipliers) -> tuple[Array, Array]:
    """G d <= h around the centre: first the margin <= 0, then every fixed unit's sign."""
    small, phase = dual.region, node.phase[0]
    active = (phase > 0).to(small.P.dtype)
    Z, z = small.P.clone(), small.p.clone()
    for block in small.blocks:
        if block.start:
            T = small.T[block, : block.start] * active[: block.start]
            Z[block] += T @ Z[: block.start]
            z[block] += T @ z[: block.start]
    target = int(node.target[0])
    through = small.Q[target] * active
    margin, level = small.C[target] + through @ Z, small.c[target] + through @ z
    fixed = phase != 0
    sign = -phase[fixed].to(small.P.dtype)
    rows, levels = torch.cat([margin[None], sign[:, None] * Z[fixed]]), torch.cat([level[None], sign * z[fixed]])
    x = small.ball.x[0]
    return rows.numpy(), -(levels + rows @ x).numpy()


def _closest_l2(G: Array, h: Array, x: Array, low: float, high: float) -> tuple[Array, Array | None]:
    """(multipliers of G's rows, argmin ||d|| with G d <= h and low <= x + d <= high or None), faces of the box as they are crossed."""
    size = np.linalg.norm(G, axis=1).clip(_LEAST)
    rows, levels = G / size[:, None], h / size
    faces: list[tuple[int, float]] = []
    step: Array | None = None
    multipliers = np.zeros(len(h))
    for _ in range(_ROUNDS):
        extra = np.zeros((len(faces), len(x)))
        for place, (i, sign) in enumerate(faces):
            extra[place, i] = sign
        limits = [(high - x[i]) if sign > 0 else (x[i] - low) for i, sign in faces]
        E = np.concatenate([-np.concatenate([rows, extra]), -np.concatenate([levels, limits])[:, None]], axis=1).T
        target = np.zeros(len(x) + 1)
        target[-1] = 1.0
        try:
            u, _ = nnls(E, target)
        except RuntimeError:  # too many iterations
            return multipliers, None
        rest = E @ u - target
        multipliers = u[: len(h)] / size
        if -rest[-1] < _LEAST:  # the polyhedron is empty
            return multipliers, None
        step = -rest[:-1] / rest[-1]
        over, under = np.nonzero(x + step > high + _LEAST)[0], np.nonzero(x + step < low - _LEAST)[0]
        if len(over) + len(under) == 0:
            return multipliers, step
        faces += [(int(i), 1.0) for i in over] + [(int(i), -1.0) for i in under]
    return multipliers, step


def _closest_linf(G: Array, h: Array, x: Array, low: float, high: float, goal: float) -> tuple[Array, Array | None]:
    """(multipliers of G's rows, argmin ||d||_inf with G d <= h and low <= x + d <= high or None).

    Where that is empty: the smallest first row over the box and ball of radius `goal`, leaving the others at a price.
    """
    n = len(x)
    eye = np.eye(n)
    ball = np.concatenate([np.concatenate([eye, -np.ones((n, 1))], 1), np.concatenate([-eye, -np.ones((n, 1))], 1)])
    rows = np.concatenate([np.concatenate([G, np.zeros((len(G), 1))], 1), ball])
    cost = np.zeros(n + 1)
    cost[-1] = 1.0
    bounds = [(low - v, high - v) for v in x]
    found = linprog(cost, A_ub=rows, b_ub=np.concatenate([h, np.zeros(2 * n)]), bounds=[*bounds, (0, None)], method="highs")
    if found.status == 0:
        return -found.ineqlin.marginals[: len(h)], found.x[:n]
    within = [(max(a, -goal), min(b, goal)) for a, b in bounds] + [(0, None)] * (len(h) - 1)
    slack = np.concatenate([G[1:], -np.eye(len(h) - 1)], 1)
    found = linprog(np.concatenate([G[0], np.full(len(h) - 1, _PENALTY)]), A_ub=slack, b_ub=h[1:], bounds=within, method="highs")
    if found.status != 0:
        return np.zeros(len(h)), None
    return np.concatenate([[1.0], -found.ineqlin.marginals]), None
