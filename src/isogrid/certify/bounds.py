"""Bounds over a graph: intervals, and linear relaxations taken backwards (CROWN). Not here: radii, optimised slopes, branching."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor

from isogrid.certify.affine import direct, gradient, spread, unit_rows_of
from isogrid.certify.ball import Ball
from isogrid.certify.graph import Graph, row_parts, rows_at_once
from isogrid.certify.intervals import node_interval, node_rounding, widened
from isogrid.certify.operations import Convolution, Linear, Move, Operation
from isogrid.certify.relaxations import Lines, Slopes, lines
from isogrid.certify.windows import Windows, windows
from isogrid.core.norms import Norm, rows as per_row

Refine = Literal["intervals", "lines"]
"""Where the bounds before a nonlinearity come from: intervals alone (IBP), or lines taken back to the input (CROWN)."""
Relax = Callable[[int, Tensor], tuple[Tensor | None, Tensor]]
"""(nonlinear node, coefficients on its output [B, R, n]) -> (on its input or None, constant [B, R]): a lower bound of the product."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sweep:
    """Bounds of every node of the deployed `graph` over `ball`: low and high [B, *shape], its rounding, the lines of nonlinear nodes.

    `inside`: of nodes with elements that are not there, which are [B, n], 1 or 0 (see `Windows`).
    """

    graph: Graph
    ball: Ball
    low: list[Tensor] = field(default_factory=list)
    high: list[Tensor] = field(default_factory=list)
    rounding: list[Tensor | None] = field(default_factory=list)
    lines: dict[int, Lines] = field(default_factory=dict)
    inside: dict[int, Tensor] = field(default_factory=dict)

    def add(self, low: Tensor, high: Tensor, rounding: Tensor | None) -> None:
        """The next node's bounds."""
        self.low.append(low)
        self.high.append(high)
        self.rounding.append(rounding)

    def in_range(self) -> Tensor:
        """Whether no sum of the deployed network can leave the range of its type within the ball: [B]."""
        sizes = [value.flatten(1).amax(1) for value in self.rounding if value is not None and value[0].numel()]
        return (
            torch.stack([size <= self.graph.ceiling for size in sizes]).all(0) if sizes else torch.ones(len(self.low[0]), dtype=torch.bool)
        )

    def take(self, rows: Tensor) -> Sweep:
        """The bounds of some samples."""
        low, high = ([value[rows] for value in side] for side in (self.low, self.high))
        rounding = [None if value is None else value[rows] for value in self.rounding]
        found = {i: value.take(rows) for i, value in self.lines.items()}
        return Sweep(graph=self.graph, ball=self.ball.take(rows), low=low, high=high, rounding=rounding, lines=found)

    def cut(self, windows: Windows, rows: Tensor, places: Tensor) -> Sweep:
        """What lines need of the windows at (row, place) [N] pairs, one after the other."""

        def at(node: int, value: Tensor) -> Tensor:
            return windows.cut(value, node, rows, places)

        ball = replace(self.ball, x=at(0, self.ball.x), radius=self.ball.radius[rows])
        known = [None if j is None else self.rounding[j] for j in windows.origin]
        rounding = [None if value is None else at(k, value) for k, value in enumerate(known)]
        found = {
            k: Lines(**{f.name: at(k, getattr(self.lines[j], f.name)) for f in fields(Lines)})
            for k, j in enumerate(windows.origin)
            if j in self.lines
        }
        inside = {k: value[places] for k, value in windows.inside.items()}
        return Sweep(graph=windows.graph, ball=ball, rounding=rounding, lines=found, inside=inside)

    def stop(self, node: int, A: Tensor) -> tuple[None, Tensor]:
        """Coefficients on a nonlinear node end at its interval: interval arithmetic with the affine operations after it fused."""
        return None, _over(A, self.low[node], self.high[node])

    def relax(self, node: int, A: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients on a ReLU or tanh go through its lines."""
        mine = self.lines[node]
        positive, negative = A.clamp_min(0), A.clamp_max(0)
        below, below_at, above, above_at = (v.flatten(1) for v in (mine.below, mine.below_at, mine.above, mine.above_at))
        constant = torch.einsum("brn,bn->br", negative, above_at)
        if bool(below_at.any()):
            constant = constant + torch.einsum("brn,bn->br", positive, below_at)
        return positive * below[:, None] + negative * above[:, None], constant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """<A, x'> + constant, a lower bound over a ball: A [B, R, n], constant [B, R]."""

    A: Tensor
    constant: Tensor

    def lowest(self, ball: Ball) -> Tensor:
        """Its smallest value [B, R] over the ball."""
        return self.constant + ball.lowest(self.A)

    def critical(self, ball: Ball) -> Tensor:
        """The largest radius [B, R] up to which it is positive around the ball's centre; see `Ball.critical`.

        In a box, where that has to be sought, a smaller one for rows that are not a sample's least: what holds without the box.
        """
        found = ball.released().critical(self.A, self.constant)
        if ball.free or found.shape[1] == 0:
            return found
        order, samples = found.argsort(dim=1), torch.arange(len(found))[:, None]

        def sought(ranks: slice) -> None:
            at = samples, order[:, ranks]
            found[at] = ball.critical(self.A[at], self.constant[at])

        sought(slice(1))
        least = found.gather(1, order[:, :1])
        sought(slice(1, 1 + int((found < least).sum(1).max())))
        return found


@dataclass(slots=True, kw_only=True, eq=False)
class Bounder:
    """A graph and what is worth computing once for it.

    `spread`: for nodes that are affine in the network's input, the dual norm of each element's gradient [*shape]: of linear and
    convolutional layers, and of the inputs of nonlinear nodes. `gradients`: these themselves [elements, n], of nodes whose elements all
    see the whole input, once they were needed. `direct`: those of them that read each element of the network's input
    once at most. `windows`: of nodes that lines were taken back from, what their units see.
    """

    graph: Graph
    norm: Norm
    spread: dict[int, Tensor] = field(init=False)
    direct: frozenset[int] = field(init=False)
    windows: dict[int, Windows | None] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    _maps: tuple[Tensor, dict[int, Tensor]] | None = None

    @property
    def pixels(self) -> Tensor:
        """The elements [n] of the flat input that reach anything."""
        return self._affine()[0]

    @property
    def maps(self) -> dict[int, Tensor]:
        """{node that is affine in the input: its value for no input, then its change for each of `pixels`, [1 + n, *shape]}."""
        return self._affine()[1]

    def _affine(self) -> tuple[Tensor, dict[int, Tensor]]:
        if self._maps is None:
            nodes = self.graph.nodes
            count = torch.Size(nodes[0].shape).numel()
            inputs = torch.cat([torch.zeros(1, count), torch.eye(count)]).double().reshape(-1, *nodes[0].shape)
            found = {0: inputs}
            for i, node in enumerate(nodes[1:], 1):
                if node.operation is not None and node.operation.affine and all(j in found for j in node.inputs):
                    found[i] = mapped(node.operation, [found[j] for j in node.inputs])
            used = [i for i, node in enumerate(nodes) if i not in found for i in node.inputs if i in found]
            used += [len(nodes) - 1] if len(nodes) - 1 in found else []
            moved = sum((found[i][1:].flatten(1).abs().sum(1) for i in used if i != 0), torch.zeros(count, dtype=torch.float64))
            moved[:1] += ~moved.any()  # a constant network keeps one
            pixels = torch.arange(count) if 0 in used else torch.nonzero(moved).squeeze(1)
            kept = torch.cat([torch.zeros(1, dtype=torch.long), pixels + 1])
            self._maps = pixels, {i: value[kept] for i, value in found.items()}
        return self._maps

    def __post_init__(self) -> None:
        self.spread = spread(self.graph, self.norm)
        self.direct = direct(self.graph)

    def cast(self, dtype: torch.dtype) -> Bounder:
        """The same for `Graph.cast`."""
        other = copy(self)
        other.graph, other.windows, other.gradients, other._maps = self.graph.cast(dtype), {}, {}, None
        other.spread = {i: value.to(dtype) for i, value in self.spread.items()}
        return other

    def sweep(self, ball: Ball, refine: Refine, slopes: Slopes = "adaptive", known: Sequence[tuple[Tensor, Tensor]] | None = None) -> Sweep:
        """Bounds of all nodes over `ball`, in the order of the graph, deployed rounding included; `known`: what holds of them already.

        Nodes that are affine in the input are bound by their own dual norms, others by intervals, and with `refine` = "lines" those
        inputs of ReLU and tanh that intervals leave undecided by lines taken back to the input.
        """
        graph, found = self.graph, Sweep(graph=self.graph, ball=ball)
        before = {node.inputs[0] for _, node in graph.nonlinear()}
        low, high = ball.hull()
        found.add(low, high, None)
        centre: tuple[list[Tensor], list[Tensor]] = [ball.x], [ball.x]  # of nodes affine in the input: what they may be at x itself
        for i, node in enumerate(graph.nodes[1:], 1):
            assert node.operation is not None
            rounding = node_rounding(graph, node, found.low, found.high)
            if i in self.direct and isinstance(node.operation, Linear | Convolution):  # a ball's inputs are not all at its hull's corners
                nearby = node_rounding(graph, node, *centre)
                assert rounding is not None
                assert nearby is not None
                farther = graph.gamma()(node.operation.terms).to(nearby) * per_row(ball.radius, rounding) * self.spread[i] + graph.floor
                rounding = torch.minimum(rounding, nearby + farther)
            low, high = widened(*node_interval(node, found.low, found.high), rounding)
            if i <= max(self.spread, default=0):
                for side, value in zip(centre, widened(*node_interval(node, *centre), rounding), strict=True):
                    side.append(value)
            if i in self.spread:
                reach = per_row(ball.radius, low) * self.spread[i]
                low, high = torch.maximum(low, centre[0][i] - reach), torch.minimum(high, centre[1][i] + reach)
            if known:
                low, high = torch.maximum(low, known[i][0]), torch.minimum(high, known[i][1])
            found.add(low, high, rounding)
            if i in before and refine == "lines" and not (i in self.spread and ball.free):
                at = (centre[0][i], centre[1][i]) if i in self.spread else None
                found.low[i], found.high[i] = self._refined(found, i, low, high, at)
            if not node.operation.affine:
                source = node.inputs[0]
                found.lines[i] = lines(node.operation, found.low[source], found.high[source], slopes)
        return found

    def _refined(self, found: Sweep, i: int, low: Tensor, high: Tensor, at: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The bounds of node i's undecided elements by lines, kept where they are tighter; `at`: at the centre, where that is known."""
        if i not in self.windows:
            self.windows[i] = windows(self.graph, i)
        seen = self.windows[i]
        if seen is not None:
            return _refined_within(found, seen, low, high)
        return _refined(found, i, low, high) if at is None else self._around(found.ball, i, low, high, at)

    def _around(self, ball: Ball, i: int, low: Tensor, high: Tensor, at: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same of a node that is affine in the input: its elements' gradients are their lines, whatever the sample."""
        if i not in self.gradients:
            self.gradients[i] = gradient(self.graph, i, unit_rows_of(self.graph.nodes[i].shape, slice(None), self.graph.dtype)).flatten(1)
        undecided = ((low < 0) & (high > 0)).flatten(1)
        units = torch.nonzero(undecided.any(0)).squeeze(1)
        A, sides = self.gradients[i][units], []
        reach = ball.radius[:, None].expand(-1, len(units))
        for sign, side, centre in ((1, low, at[0]), (-1, -high, -at[1])):
            flat = side.flatten(1).clone()
            tighter = torch.maximum(flat[:, units], centre.flatten(1)[:, units] - ball.drop((sign * A).expand(len(low), -1, -1), reach)[0])
            flat[:, units] = torch.where(undecided[:, units], tighter, flat[:, units])
            sides.append(flat.view_as(low))
        return sides[0], -sides[1]


def mapped(operation: Operation, ins: list[Tensor]) -> Tensor:
    """An affine operation on maps [rows, *in], of which the first row is a value and the others are changes."""
    out = operation.forward(*ins)
    out[1:] -= operation.forward(*[torch.zeros_like(v[:1]) for v in ins])
    return out


def _refined(found: Sweep, i: int, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of node i's undecided elements by lines, kept where they are tighter; decided ones stay, whatever else is in the batch."""
    shape, low, high = low.shape, low.flatten(1).clone(), high.flatten(1).clone()
    undecided = (low < 0) & (high > 0)
    counts, order = undecided.sum(1).sort(descending=True, stable=True)
    first, total = 0, int((counts > 0).sum())
    while first < total:
        most = int(counts[first])
        some = order[first : min(total, first + rows_at_once(found.graph, 2 * most))].sort().values
        index = undecided[some].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        mine = found if len(some) == len(low) else found.take(some)
        for part in row_parts(found.graph, 2 * len(some), most):
            at = some[:, None], index[:, part]
            bound, count = backward(mine, {i: unit_rows(found.graph, i, index[:, part])}, mine.relax).lowest(mine.ball), len(at[1][0])
            low[at] = torch.where(undecided[at], torch.maximum(low[at], bound[:, :count]), low[at])
            high[at] = torch.where(undecided[at], torch.minimum(high[at], -bound[:, count:]), high[at])
        first += len(some)
    return low.view(shape), high.view(shape)


def _refined_within(found: Sweep, seen: Windows, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a node whose units see windows: the undecided units of one sample at one place are rows over their own window."""
    shape, low, high = low.shape, low.flatten(2).clone(), high.flatten(2).clone()
    undecided = (low < 0) & (high > 0)
    counts, order = undecided.sum(1).flatten().sort(descending=True, stable=True)
    last, first, total = len(seen.graph.nodes) - 1, 0, int((counts > 0).sum())
    while first < total:
        most = int(counts[first])
        pairs = order[first : min(total, first + rows_at_once(seen.graph, 2 * most))]
        rows, places = pairs // low.shape[2], pairs % low.shape[2]
        index = undecided[rows, :, places].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        part = found.cut(seen, rows, places)
        bound = backward(part, {last: unit_rows(seen.graph, last, index)}, part.relax).lowest(part.ball)
        at = rows[:, None], index, places[:, None]
        open_ = undecided[at]
        low[at] = torch.where(open_, torch.maximum(low[at], bound[:, :most]), low[at])
        high[at] = torch.where(open_, torch.minimum(high[at], -bound[:, most:]), high[at])
        first += len(pairs)
    return low.view(shape), high.view(shape)


def unit_rows(graph: Graph, i: int, index: Tensor) -> Tensor:
    """Coefficients [B, 2R, n] that pick the elements index [B, R] of node i, then their negatives."""
    n = torch.Size(graph.nodes[i].shape).numel()
    chosen = torch.zeros(*index.shape, n, dtype=graph.dtype).scatter_(2, index[:, :, None], 1.0)
    return torch.cat([chosen, -chosen], 1)


def backward(found: Sweep, start: dict[int, Tensor], relax: Relax) -> Form:
    """A lower bound over the ball of sum_i <A_i, node_i>, for the coefficients `start` {node: A [B, R, n]}, deployed rounding included."""
    graph, pending = found.graph, dict(start)
    own: set[int] = set()  # nodes whose coefficients are ours alone, to be added to in place
    batch, rows = next(iter(start.values())).shape[:2]
    constant = torch.zeros(batch, rows, dtype=graph.dtype)
    for i in range(max(pending), 0, -1):
        A = pending.pop(i, None)
        if A is None:
            continue
        A = _present(found, i, A)
        node, rounding = graph.nodes[i], found.rounding[i]
        assert node.operation is not None
        if rounding is not None:
            constant = constant - torch.einsum("brn,bn->br", A.abs(), rounding.flatten(1))
        if not node.operation.affine:
            passed, shift = relax(i, A)
            constant = constant + shift
            if passed is not None:
                _add(pending, node.inputs[0], passed)
            continue
        whole = A.reshape(batch * rows, *node.shape)
        moved = node.operation.shift(whole)
        constant = constant if moved is None else constant + moved.view(batch, rows)
        if isinstance(node.operation, Move) and node.operation.taps is not None:
            source = node.inputs[0]
            shape = graph.nodes[source].shape
            if source not in own:
                own.add(source)
                nothing = A.new_zeros(batch, rows, math.prod(shape))
                pending[source] = nothing + pending[source] if source in pending else nothing
            node.operation.function(pending[source].view(-1, *shape)).add_(whole)
            continue
        for source, part in zip(node.inputs, node.operation.transposed(whole, graph.sizes_of(i)), strict=True):
            _add(pending, source, part.reshape(batch, rows, -1))
    A = pending.get(0)
    A = torch.zeros(batch, rows, found.ball.x[0].numel(), dtype=graph.dtype) if A is None else A
    return Form(A=_present(found, 0, A), constant=constant)


def _present(found: Sweep, i: int, A: Tensor) -> Tensor:
    """The coefficients on those elements of node i that are there."""
    return A * found.inside[i][:, None] if i in found.inside else A


def _over(A: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """min <A, h> over low <= h <= high: [B, R]."""
    below = torch.einsum("brn,bn->br", A.clamp_min(0), low.flatten(1))
    return below + torch.einsum("brn,bn->br", A.clamp_max(0), high.flatten(1))


def _add(pending: dict[int, Tensor], i: int, A: Tensor) -> None:
    pending[i] = pending[i] + A if i in pending else A


def margin_rows(graph: Graph, y: Tensor) -> Tensor:
    """Coefficients [B, C - 1, C] of the differences z_y - z_k on the last node, k in order without y; [B, 1, 1] for a single output."""
    if graph.single:
        return (2.0 * y.to(graph.dtype) - 1)[:, None, None]
    others = torch.arange(graph.classes)[None].expand(len(y), -1)
    others = others[others != y[:, None]].view(len(y), -1)
    A = torch.zeros(len(y), graph.classes - 1, graph.classes, dtype=graph.dtype)
    return A.scatter_(2, y[:, None, None].expand(-1, graph.classes - 1, 1), 1.0).scatter_(2, others[:, :, None], -1.0)
