"""Lipschitz constants near a sample (Fast-Lip): bounds on every gradient in a ball. Not here: those that hold everywhere (lipschitz.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Sweep, margin_rows
from isogrid.certify.crown import Bounded
from isogrid.certify.graph import Graph
from isogrid.certify.method import Problem
from isogrid.certify.operations import Relu
from isogrid.certify.search import Evaluate
from isogrid.core.norms import Norm
from isogrid.theory.lipschitz import SLACK


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradients:
    """Every gradient of the margins g_y - g_k in a ball lies within centre -+ reach [B, C - 1, n], k in order without y.

    `error` [B, C - 1]: how far the deployed margins can lie from the exact ones in the ball: the rounding of every node times the largest
    derivative with respect to it.
    """

    centre: Tensor
    reach: Tensor
    error: Tensor

    def sizes(self, norm: Norm) -> Tensor:
        """L^k [B, C - 1]: no gradient has a larger dual norm."""
        batch, count, _ = self.centre.shape
        return norm.dual_size((self.centre.abs() + self.reach).flatten(0, 1)).view(batch, count) * SLACK


def margin_gradients(found: Sweep, y: Tensor) -> Gradients:
    r"""The gradients of the margins over the sweep's ball.

    A unit that the sweep's bounds leave undecided has a slope in [0, 1], others the slope that they have; the margins' coefficients are
    taken back to the input as intervals. Source: Weng et al. 2018 (Fast-Lip), from the output to the input; PAPER, theory 3.
    """
    graph = found.graph
    rows = margin_rows(graph, y)
    batch, count = rows.shape[:2]
    error = torch.zeros(batch, count, dtype=graph.dtype)
    pending: dict[int, tuple[Tensor, Tensor]] = {len(graph.nodes) - 1: (rows, torch.zeros_like(rows))}
    for i in range(len(graph.nodes) - 1, 0, -1):
        if i not in pending:
            continue
        centre, reach = pending.pop(i)
        node, rounding = graph.nodes[i], found.rounding[i]
        assert node.operation is not None
        if rounding is not None:
            error = error + torch.einsum("brn,bn->br", centre.abs() + reach, rounding.flatten(1))
        if node.hull is not None:  # max(a, b) = a + s (b - a): s for b, 1 - s for a
            low, high = slopes(found, node.inputs[1])
            for source, part in zip(node.hull, ((1 - high, 1 - low), (low, high)), strict=True):
                _add(pending, source, *_times(centre, reach, *part))
        elif not node.operation.affine:
            _add(pending, node.inputs[0], *_times(centre, reach, *slopes(found, i)))
        else:
            parts = []
            for operation, A in ((node.operation, centre), (node.operation.absolute(), reach)):
                moved = operation.transposed(A.reshape(batch * count, *node.shape), graph.sizes_of(i))
                parts.append([part.reshape(batch, count, -1) for part in moved])
            for source, *both in zip(node.inputs, *parts, strict=True):
                _add(pending, source, *both)
    nothing = torch.zeros(batch, count, found.ball.x[0].numel(), dtype=graph.dtype)
    centre, reach = pending.get(0, (nothing, nothing))
    return Gradients(centre=centre, reach=reach, error=error)


def gaps(found: Sweep, y: Tensor, error: Tensor) -> Tensor:
    """g_y - g_k at the ball's centre [B, C - 1], less what rounding can take: of the deployed margin, and of our own computation of it."""
    values = found.graph.values(found.ball.x)[-1].flatten(1)
    return torch.einsum("brn,bn->br", margin_rows(found.graph, y), values) - 2 * error


def reached(ball: Ball, gap: Tensor, gradients: Gradients) -> Tensor:
    """The radius [B] up to which no gap [B, C - 1] can be closed by gradients within centre -+ reach, in the ball's domain.

    An input that may move both ways to close it has its larger slope and its larger room: each margin gets a ball of its own.
    """
    centre, reach = gradients.centre, gradients.reach
    down, up = (room[:, None].expand_as(centre) for room in ball.room())
    room = torch.maximum(torch.where(centre + reach > 0, down, 0.0), torch.where(centre - reach < 0, up, 0.0))
    size = ((centre.abs() + reach) * SLACK).flatten(0, 1)[:, None]
    if not ball.free:
        x = ball.low + room.flatten(0, 1)
        ball = replace(ball, x=x, radius=ball.radius.repeat_interleave(centre.shape[1]), high=max(ball.high, float(x.max())))
    else:
        ball = replace(ball, x=torch.zeros_like(size[:, 0]), radius=ball.radius.repeat_interleave(centre.shape[1]))
    value = gap.flatten()[:, None] - ball.centre(size)
    return ball.critical(size, value).view(gap.shape).clamp_min(0).amin(1)


def slopes(found: Sweep, i: int) -> tuple[Tensor, Tensor]:
    """The least and the largest slope [B, 1, n] of the nonlinear node i over the bounds of its input."""
    node = found.graph.nodes[i]
    low, high = (side[node.inputs[0]].flatten(1)[:, None] for side in (found.low, found.high))
    if isinstance(node.operation, Relu):
        return (low >= 0).to(low), (high > 0).to(low)
    nearest, farthest = torch.maximum(low, -high).clamp_min(0), torch.maximum(-low, high)
    return 1 - farthest.tanh().square(), 1 - nearest.tanh().square()


def stable_share(found: Sweep) -> Tensor:
    """The share [B] of units (inputs of nonlinear nodes that belong to no maximum) whose sign is the same in the whole ball."""
    graph: Graph = found.graph
    inside = {node.inputs[1] for node in graph.nodes if node.hull is not None}
    parts = [
        ((found.low[node.inputs[0]] >= 0) | (found.high[node.inputs[0]] <= 0)).flatten(1)
        for i, node in graph.nonlinear()
        if i not in inside
    ]
    return torch.cat(parts, 1).double().mean(1) if parts else torch.ones(len(found.ball.x), dtype=torch.float64)


def _times(centre: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The interval centre -+ reach times slopes in [low, high] >= 0, as centre and half-width."""
    bottom, top = centre - reach, centre + reach
    bottom, top = torch.minimum(bottom * low, bottom * high), torch.maximum(top * low, top * high)
    return (bottom + top) / 2, (top - bottom) / 2


def _add(pending: dict[int, tuple[Tensor, Tensor]], i: int, centre: Tensor, reach: Tensor) -> None:
    if i in pending:
        centre, reach = pending[i][0] + centre, pending[i][1] + reach
    pending[i] = centre, reach


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FastLip(Bounded):
    """The margin over the largest gradient that bounds by CROWN allow in the ball, element by element where there is a box.

    Source: Hein & Andriushchenko 2017; Weng et al. 2018 (Fast-Lip); PAPER, theory 3.
    """

    name: ClassVar[str] = "fast-lip"

    def evaluation(self, problem: Problem) -> Evaluate:
        def critical(rows: Tensor, radius: Tensor) -> Tensor:
            found, y = problem.bounder.sweep(problem.ball(radius, rows), "lines"), problem.y[rows]
            gradients = margin_gradients(found, y)
            return reached(found.ball, gaps(found, y, gradients.error), gradients)

        return critical
