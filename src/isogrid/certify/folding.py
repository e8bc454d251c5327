"""A graph without what cannot matter: channels and units that the input does not move or that nothing reads. Not here: how it is read.

Pruning leaves many of them. A part is a position on the first axis of a node's samples: a channel of an image, a unit of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.graph import RUN_UNIT, Graph, Node, used
from isogrid.certify.intervals import deployed_bounds
from isogrid.certify.operations import Convolution, Linear, Move, Operation, Scale, Weighted
from isogrid.core.random import generator

_ALIKE: Final = 1e-12  # how far constant values may lie apart in a channel, as a share of their terms, to become one bias


def folded(graph: Graph) -> Graph:
    """The same logits with the same deployed rounding, or the graph itself where nothing can be left out.

    Constant inputs of linear and convolutional layers become part of the bias; what the deployed network rounds in them stays in
    `Weighted.count`, `size` and `slack`.
    """
    if any(len(node.shape) == 0 for node in graph.nodes):
        return graph
    found = _Folding(graph)
    found.settle()
    if all(bool(kept.all()) for kept in found.kept):
        return graph
    return replace(graph, nodes=used([found.rebuilt(i) for i in range(len(graph.nodes))], len(graph.nodes) - 1))


@dataclass(init=False, slots=True, eq=False)
class _Folding:
    """Which parts of a graph's nodes stay: `kept` [parts] of each, from the logits back to the input.

    `moving` [*shape]: the elements that depend on the input; `low`, `high` [*shape]: what the deployed network gives for the others.
    `alike`: moves that do the same to every part. `index`: of other moves, the element [*shape] that each output is.
    """

    graph: Graph
    absolute: list[Operation | None]
    moving: list[Tensor]
    low: list[Tensor]
    high: list[Tensor]
    alike: set[int]
    index: dict[int, Tensor]
    kept: list[Tensor]

    def __init__(self, graph: Graph) -> None:
        nodes = graph.nodes
        self.graph, self.moving = graph, [torch.ones(nodes[0].shape, dtype=torch.bool)]
        self.absolute = [None if n.operation is None or not n.operation.affine else n.operation.absolute() for n in nodes]
        for node, operation in zip(nodes[1:], self.absolute[1:], strict=True):
            seen = [self.moving[j] for j in node.inputs]
            self.moving.append(seen[0] if operation is None else operation.forward(*[v[None].double() for v in seen])[0] > 0)
        self.low, self.high = ([v[0] for v in side] for side in deployed_bounds(graph, torch.zeros(1, *nodes[0].shape).double()))
        moves = {i: node.operation for i, node in enumerate(nodes) if isinstance(node.operation, Move)}
        self.alike = {i for i, move in moves.items() if _alike(move, nodes[i], graph.sizes_of(i))}
        self.index = {i: _index(move, graph.sizes_of(i)) for i, move in moves.items() if i not in self.alike and _picks(move, nodes[i])}
        self.index = {i: index for i, index in self.index.items() if bool((index >= 0).all())}
        self.kept = [torch.full(node.shape[:1], i in (0, len(nodes) - 1)) for i, node in enumerate(nodes)]

    def settle(self) -> None:
        """Keep what the logits need, until nothing asks for more."""
        before = -1
        while before != (now := sum(int(kept.sum()) for kept in self.kept)):
            before = now
            for i in range(len(self.graph.nodes) - 1, 0, -1):
                if bool(self.kept[i].any()):
                    self._need(i)

    def whole(self, i: int) -> Tensor:
        """The kept elements [*shape] of a node."""
        shape = self.graph.nodes[i].shape
        return self.kept[i].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)

    def _need(self, i: int) -> None:
        """Keep what node i's kept parts need of the nodes before it."""
        node, absolute, mine = self.graph.nodes[i], self.absolute[i], self.whole(i)
        reads = [mine]
        if absolute is not None:
            reads = [v[0] > 0 for v in absolute.transposed(mine[None].double(), self.graph.sizes_of(i))]
        for j, read in zip(node.inputs, reads, strict=True):
            self._keep(_parts(read & self.moving[j]), j)
            if not bool(self.kept[j].any()):
                self._keep(torch.arange(len(self.kept[j])) == 0, j)
        operation = node.operation
        if isinstance(operation, Convolution):
            if operation.groups > 1 or not self._uniform(i, operation):
                self._keep(True, *node.inputs)
            if operation.groups > 1:
                self._keep(True, i)
        elif i in self.index:
            self._keep(_parts(reads[0]), node.inputs[0])
            self._keep(_parts(self.whole(node.inputs[0]).flatten()[self.index[i]]), i)
        elif isinstance(operation, Move) and i not in self.alike:
            self._keep(True, i, *node.inputs)
        elif not isinstance(operation, Linear) or len(node.shape) > 1:
            tied = i, *node.inputs, *(node.hull or ())
            self._keep(torch.stack([self.kept[j] for j in tied]).any(0), *tied)

    def _keep(self, parts: Tensor | bool, *nodes: int) -> None:
        for j in nodes:
            self.kept[j] = self.kept[j] | parts

    def _left_out(self, i: int) -> tuple[Tensor, Tensor]:
        """(value, how far the deployed one may lie from it) [1, *shape] of what is constant and left out of node i, 0 elsewhere."""
        out = self.whole(i) | self.moving[i]
        middle, reach = (self.low[i] + self.high[i]) / 2, (self.high[i] - self.low[i]) / 2
        return middle.masked_fill(out, 0.0)[None], reach.masked_fill(out, 0.0)[None]

    def _constant(self, i: int, operation: Weighted) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of node i's products with what is left out, how far it may lie off, sum of their absolute values) [out]."""
        value, reach = self._left_out(self.graph.nodes[i].inputs[0])
        products = operation.linear(value, operation.weight, None)[0].reshape(len(operation.weight), -1)
        off = operation.linear(reach, operation.weight.abs(), None)[0].reshape(len(operation.weight), -1).amax(1)
        size = operation.linear(value.abs(), operation.weight.abs(), None)[0].reshape(len(operation.weight), -1).amax(1)
        most, least = products.amax(1), products.amin(1)
        return (most + least) / 2, off + (most - least) / 2, size

    def _uniform(self, i: int, operation: Convolution) -> bool:
        """Whether what is left out adds the same to a channel everywhere."""
        value, _ = self._left_out(self.graph.nodes[i].inputs[0])
        products = operation.linear(value, operation.weight, None)[0].flatten(1)
        size = operation.linear(value.abs(), operation.weight.abs(), None)[0].flatten(1).amax(1)
        return bool((products.amax(1) - products.amin(1) <= _ALIKE * size).all())

    def rebuilt(self, i: int) -> Node:
        """Node i with its kept parts alone."""
        node, kept, operation = self.graph.nodes[i], self.kept[i], self.graph.nodes[i].operation
        shape = (int(kept.sum()), *node.shape[1:])
        if i in self.index:
            source = self.whole(node.inputs[0]).flatten()
            place = (source.cumsum(0) - 1)[self.index[i][kept]].flatten()
            operation = _moved(place, int(source.sum()), shape)
        elif isinstance(operation, Move) and operation.offset is not None:
            operation = replace(operation, offset=operation.offset[kept])
        elif isinstance(operation, Scale):
            held = {name: getattr(operation, name) for name in ("weight", "bias", "extra")}
            operation = replace(operation, **{k: v[kept] if v.dim() == len(shape) and len(v) > 1 else v for k, v in held.items()})
        elif isinstance(operation, Convolution) or (isinstance(operation, Linear) and len(shape) == 1):
            operation = self._reduced(i, operation)
        return replace(node, operation=operation, shape=shape)

    def _reduced(self, i: int, operation: Linear | Convolution) -> Operation:
        """The layer on the kept parts, with what is left out in its bias."""
        kept, read = self.kept[i], self.kept[self.graph.nodes[i].inputs[0]]
        if bool(kept.all()) and bool(read.all()):
            return operation
        constant, off, size = self._constant(i, operation)
        size, count = size + operation.bias.abs(), operation.terms.flatten()
        off = off + 2 * RUN_UNIT * (count + 1) * size  # our own sum
        weight = operation.weight[kept]
        if isinstance(operation, Linear):
            layer: Linear | Convolution = Linear.of(weight[:, read], None)
        else:
            layer = replace(operation, weight=weight if operation.groups > 1 else weight[:, read])
        return replace(layer, bias=(operation.bias + constant)[kept], count=count[kept], size=size[kept], slack=off[kept])


def _parts(elements: Tensor) -> Tensor:
    """The parts [parts] of which an element is true."""
    return elements.reshape(len(elements), -1).any(1)


def _alike(move: Move, node: Node, sizes: list[tuple[int, ...]]) -> bool:
    """Whether a move of some parts gives these parts of its whole output."""
    parts = node.shape[0]
    if any(size[0] != parts for size in sizes):
        return False
    random = generator(0, "folding probe")
    probes = [torch.randn(1, *size, dtype=torch.float64, generator=random) for size in sizes]
    some = torch.arange(parts) % 3 != 1
    try:
        found = move.function(*[probe[:, some] for probe in probes])
    except (RuntimeError, IndexError):
        return False
    return torch.equal(found, move.function(*probes)[:, some])


def _picks(move: Move, node: Node) -> bool:
    """Whether each output is an input."""
    return move.terms == 1 and move.offset is None and len(node.inputs) == 1


def _index(move: Move, sizes: list[tuple[int, ...]]) -> Tensor:
    """The flat input element [*out] that each output is, -1 for a zero."""
    count = torch.Size(sizes[0]).numel()
    return move.function(torch.arange(1.0, count + 1, dtype=torch.float64).reshape(1, *sizes[0]))[0].long() - 1


def _moved(index: Tensor, count: int, shape: tuple[int, ...]) -> Move:
    """The elements `index` of a flat input of so many, as outputs of a shape."""
    if torch.equal(index, torch.arange(count)):
        return Move(function=lambda v: v.reshape(len(v), *shape))
    return Move(function=lambda v: v.flatten(1)[:, index].reshape(len(v), *shape))
