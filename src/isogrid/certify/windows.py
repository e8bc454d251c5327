"""Units that see a window of each earlier node, as in convolutions: the network within such windows. Not here: bounds (bounds.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.graph import Graph, Node
from isogrid.certify.operations import Convolution, Linear, Move, Operation, Relu, Scale, Shape, Sum, Tanh

_SMALLER: Final = 2  # windows are used where they are so many times smaller than the nodes that they are cut from
_ENTRIES: Final = 2**18  # a convolution within a window becomes a matrix of up to so many entries
_FULLER: Final = 8  # if that has at most so many times its weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """The same `graph` for each of P places of a node's units: its inputs are the window of the network's input that the place sees.

    The last node holds the units of one place. `origin`: the node that each of the graph's nodes is cut from, and `index` [P, n] its
    elements there, their number where a window sticks out of the node. `inside`: where windows of values stick out of what a convolution
    reads, whether the elements exist [P, n], 1 or 0.
    """

    graph: Graph
    origin: tuple[int | None, ...]
    index: tuple[Tensor | None, ...]
    inside: dict[int, Tensor]

    def cut(self, value: Tensor, node: int, rows: Tensor, places: Tensor) -> Tensor:
        """The windows [N, n] of the graph's node at (row, place) [N] pairs, from values [B, *shape] of its origin; 0 beside it."""
        index = self.index[node]
        assert index is not None
        return torch.nn.functional.pad(value.flatten(1), (0, 1))[rows[:, None], index[places]]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Per dimension: where the window of the first place starts, how far the next place's is, how large each is."""

    start: Shape
    stride: Shape
    size: Shape

    def before(self, operation: Operation | None) -> _Frame:
        """What an operation with this window of outputs reads of its inputs."""
        dims, first, steps, reach = len(self.size), [0] * len(self.size), [1] * len(self.size), [1] * len(self.size)
        if isinstance(operation, Convolution):
            first, steps = [-pad for pad in operation.padding], list(operation.stride)
            reach = [gap * (k - 1) + 1 for gap, k in zip(operation.dilation, operation.weight.shape[2:], strict=True)]
        elif isinstance(operation, Move) and operation.taps is not None:
            dim, offset, step = operation.taps
            first[dim - 2], steps[dim - 2] = offset, step
        return _Frame(
            tuple(self.start[d] * steps[d] + first[d] for d in range(dims)),
            tuple(self.stride[d] * steps[d] for d in range(dims)),
            tuple((self.size[d] - 1) * steps[d] + reach[d] for d in range(dims)),
        )

    def joined(self, other: _Frame) -> _Frame | None:
        """The smallest window that holds both; None where they move apart from place to place."""
        if self.stride != other.stride:
            return None
        start = tuple(min(pair) for pair in zip(self.start, other.start, strict=True))
        ends = [max(a + n, b + m) for a, n, b, m in zip(self.start, self.size, other.start, other.size, strict=True)]
        return _Frame(start, self.stride, tuple(end - first for end, first in zip(ends, start, strict=True)))


def windows(graph: Graph, i: int) -> Windows | None:
    """The windows of the units of node i; None where an operation before it is not local, or where windows save nothing."""
    shape = graph.nodes[i].shape
    places = math.prod(shape[1:])
    frames = _frames(graph, i) if places > 1 else None
    if frames is None:
        return None
    seen = sum(graph.nodes[j].shape[0] * math.prod(frame.size) for j, frame in frames.items() if j != i)
    if seen * _SMALLER > sum(math.prod(graph.nodes[j].shape) for j in frames if j != i):
        return None
    nodes: list[Node] = []
    origin: list[int | None] = []
    place: dict[int, int] = {}
    outer: list[int] = []
    for j in sorted(frames):
        node, size = graph.nodes[j], frames[j].size
        inputs: list[int] = []
        for source in node.inputs:
            read = frames[j].before(node.operation)
            if read == frames[source]:
                inputs.append(place[source])
            else:
                nodes.append(_crop(nodes[place[source]], place[source], frames[source], read))
                origin.append(None)
                inputs.append(len(nodes) - 1)
        place[j] = len(nodes)
        readers = [k for k in frames if j in graph.nodes[k].inputs]
        alike = all(not isinstance(graph.nodes[k].operation, Convolution | Move) and frames[k] == frames[j] for k in readers)
        operation, whole = node.operation, (node.shape[0], *size)
        if isinstance(operation, Convolution):
            operation = _within(operation, whole, nodes[inputs[0]].shape, alike)
        elif isinstance(operation, Move):
            operation = _taken(operation)
        flat = (math.prod(whole),) if isinstance(operation, Linear) else whole
        nodes.append(replace(node, operation=operation, inputs=tuple(inputs), shape=flat, hull=None))
        origin.append(j)
        read_by_convolution = any(isinstance(graph.nodes[k].operation, Convolution) for k in readers)
        if read_by_convolution and not isinstance(operation, Relu | Tanh):  # their lines are 0 beside the node
            outer.append(place[j])
    index = {k: _index(graph.nodes[j].shape, frames[j], shape[1:]) for k, j in enumerate(origin) if j is not None}
    counts = {k: math.prod(graph.nodes[j].shape) for k, j in enumerate(origin) if j is not None}
    return Windows(
        graph=Graph(nodes=tuple(nodes), unit=graph.unit, single=False, dtype=graph.dtype),
        origin=tuple(origin),
        index=tuple(index.get(k) for k in range(len(nodes))),
        inside={k: (index[k] < counts[k]).to(graph.dtype) for k in outer if bool((index[k] == counts[k]).any())},
    )


def _frames(graph: Graph, i: int) -> dict[int, _Frame] | None:
    """{node: window} of all that node i depends on; None where something is not local."""
    dims = len(graph.nodes[i].shape) - 1
    one = (1,) * dims
    frames = {i: _Frame((0,) * dims, one, one)}
    for j in range(i, 0, -1):
        if j not in frames:
            continue
        node = graph.nodes[j]
        if not _local(node.operation, dims):
            return None
        for source in node.inputs:
            read: _Frame | None = frames[j].before(node.operation)
            if source in frames and read is not None:
                read = read.joined(frames[source])
            if read is None or len(graph.nodes[source].shape) != dims + 1:
                return None
            frames[source] = read
    return frames if 0 in frames else None


def _local(operation: Operation | None, dims: int) -> bool:
    """Whether an output element depends on its neighbourhood only, and everywhere alike."""
    if isinstance(operation, Convolution):
        return operation.weight.dim() == dims + 2
    if isinstance(operation, Scale):
        return all(all(n == 1 for n in value.shape[max(0, value.dim() - dims) :]) for value in (operation.weight, operation.bias))
    return isinstance(operation, Relu | Tanh | Sum) or (isinstance(operation, Move) and operation.taps is not None)


def _within(operation: Convolution, shape: Shape, read: Shape, alike: bool) -> Operation:
    """A convolution on windows, without padding; as a matrix where that is small and `alike`: no reader needs the output's shape."""
    bare = replace(operation, padding=(0,) * len(operation.padding))
    outputs, inputs = math.prod(shape), math.prod(read)
    if not alike or outputs * inputs > _ENTRIES or inputs > _FULLER * operation.weight[0].numel():
        return bare
    rows = torch.eye(outputs, dtype=operation.weight.dtype).reshape(-1, *shape)
    bias = operation.bias.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).flatten()
    return Linear.of(bare.transposed(rows, [read])[0].flatten(1), bias)


def _taken(operation: Move) -> Move:
    """Every step-th element of a window, which begins at the first and ends at the last of them."""
    assert operation.taps is not None
    dim, _, step = operation.taps
    index = (slice(None),) * dim + (slice(None, None, step),)
    return Move(function=lambda value: value[index])


def _crop(node: Node, place: int, whole: _Frame, part: _Frame) -> Node:
    """The window `part` of the window `whole` that a node holds."""
    slices = tuple(slice(b - a, b - a + n) for a, b, n in zip(whole.start, part.start, part.size, strict=True))
    move = Move(function=lambda value: value[(slice(None), slice(None), *slices)])
    return Node(name=f"{node.name} cut", operation=move, inputs=(place,), shape=(node.shape[0], *part.size))


def _index(shape: Shape, frame: _Frame, places: Shape) -> Tensor:
    """[P, n]: the elements of a node [channels, *sides] in the window of each place, their number where there is none."""
    total = math.prod(shape)
    where, valid = torch.zeros((1, 1), dtype=torch.long), torch.ones((1, 1), dtype=torch.bool)
    for side, start, stride, size, count in zip(shape[1:], frame.start, frame.stride, frame.size, places, strict=True):
        at = start + stride * torch.arange(count)[:, None] + torch.arange(size)[None]
        where = (where[:, None, :, None] * side + at[None, :, None, :]).reshape(len(where) * count, -1)
        valid = (valid[:, None, :, None] & ((at >= 0) & (at < side))[None, :, None, :]).reshape(len(where), -1)
    channels = torch.arange(shape[0])[None, :, None] * math.prod(shape[1:])
    return torch.where(valid[:, None], channels + where[:, None], total).flatten(1)
