"""What is known of the nodes that are affine in a network's input, before any radius. Not here: bounds over a ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isogrid.certify.graph import Graph, row_parts
from isogrid.certify.operations import Convolution, Linear, Move, Scale
from isogrid.certify.windows import windows
from isogrid.core.norms import Norm


def spread(graph: Graph, norm: Norm) -> dict[int, Tensor]:
    """The dual norm of each element's gradient [*shape], of linear and convolutional nodes and of the inputs of nonlinear ones."""
    affine = {0}
    for i, node in enumerate(graph.nodes):
        if node.operation is not None and node.operation.affine and all(j in affine for j in node.inputs):
            affine.add(i)
    wanted = {node.inputs[0] for _, node in graph.nonlinear()}
    wanted |= {i for i, node in enumerate(graph.nodes) if isinstance(node.operation, Linear | Convolution)}
    return {i: _sizes(graph, norm, i) for i in sorted(wanted & affine - {0})}


def _sizes(graph: Graph, norm: Norm, i: int) -> Tensor:
    """[*shape]: the dual norm of each element's gradient; where units see windows, of one place's units masked by what is there."""
    shape, seen = graph.nodes[i].shape, windows(graph, i)
    if seen is None:
        parts = row_parts(graph, 1, math.prod(shape))
        return torch.cat([norm.dual_size(gradient(graph, i, unit_rows_of(shape, part, graph.dtype))) for part in parts]).reshape(shape)
    last, sizes = len(seen.graph.nodes) - 1, []
    rows = unit_rows_of(seen.graph.nodes[last].shape, slice(None), graph.dtype)
    for part in row_parts(seen.graph, len(rows), math.prod(shape[1:])):
        inside = {k: value[part].repeat_interleave(len(rows), 0) for k, value in seen.inside.items()}
        many = rows.repeat(part.stop - part.start, *[1] * (rows.dim() - 1))
        sizes.append(norm.dual_size(gradient(seen.graph, last, many, inside)).view(-1, len(rows)))
    return torch.cat(sizes).T.reshape(shape)


def unit_rows_of(shape: tuple[int, ...], part: slice, dtype: torch.dtype) -> Tensor:
    """Coefficients that pick some elements of a node."""
    n = math.prod(shape)
    rows = torch.arange(n)[part]
    return torch.zeros(len(rows), n, dtype=dtype).scatter_(1, rows[:, None], 1.0).reshape(-1, *shape)


def gradient(graph: Graph, i: int, A: Tensor, inside: dict[int, Tensor] | None = None) -> Tensor:
    """Rows A [M, *shape] on a node i that is affine in the input -> on the input [M, *S].

    `inside` {node: [M, n]}: 0 where an element is not there.
    """
    pending = {i: A}
    for j in range(i, -1, -1):
        if j not in pending:
            continue
        mine, operation = pending.pop(j), graph.nodes[j].operation
        if inside is not None and j in inside:
            mine = mine * inside[j].view_as(mine)
        if operation is None:
            return mine
        mine = mine.reshape(-1, *graph.nodes[j].shape)
        for source, part in zip(graph.nodes[j].inputs, operation.transposed(mine, graph.sizes_of(j)), strict=True):
            pending[source] = pending[source] + part if source in pending else part
    return A.new_zeros(len(A), *graph.nodes[0].shape)


def direct(graph: Graph) -> frozenset[int]:
    """Linear and convolutional nodes whose path to the input only scales elements and moves them without repeating any."""
    once, found = {0}, set()
    for i, node in enumerate(graph.nodes[1:], 1):
        if len(node.inputs) != 1 or node.inputs[0] not in once:
            continue
        if isinstance(node.operation, Linear | Convolution):
            found.add(i)
        elif isinstance(node.operation, Scale):
            once.add(i)
        elif isinstance(node.operation, Move) and node.operation.terms == 1:
            repeats = node.operation.transposed(torch.ones(1, *node.shape, dtype=torch.float64), graph.sizes_of(i))[0]
            once |= {i} if bool((repeats <= 1).all()) else set()
    return frozenset(found)
