"""Lipschitz constants of a graph that hold everywhere, from the norms of its layers.

A layer is an affine map between anchors: the input, nonlinear nodes, maxima. It is taken whole, with batch normalisation, pooling by means
and reshaping folded in, as the matrix that a convolution is when it is unrolled. What does not belong here: constants near a sample
(fast_lip.py), matrices without a network (theory/lipschitz.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from isogrid.certify.graph import Graph, Node
from isogrid.certify.operations import Convolution, Move, Scale
from isogrid.theory.lipschitz import SLACK, MatrixNorms, matrix_norms

SIDE: Final = 1024
"""A layer's spectral norm is exact where its smaller side is at most this and it can be unrolled; else it is a bound."""
ENTRIES: Final = 2**24
"""No matrix of more entries is unrolled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The affine map from anchor `source` to node `target`, and its norms."""

    name: str
    source: int
    target: int
    norms: MatrixNorms


def anchors(graph: Graph) -> frozenset[int]:
    """The input, nonlinear nodes and maxima: between them a network is affine."""
    return frozenset(
        i for i, node in enumerate(graph.nodes) if node.operation is None or not node.operation.affine or node.hull is not None
    )


def pulled(graph: Graph, i: int, A: Tensor, *, absolute: bool = False) -> dict[int, Tensor]:
    """Rows A [M, *shape] on node i taken back to the anchors it is an affine function of: {anchor: [M, *shape]}.

    `absolute`: with the absolute values of all coefficients.
    """
    stops, pending, found = anchors(graph), {i: A}, dict[int, Tensor]()
    for j in range(i, -1, -1):
        if j not in pending:
            continue
        mine, operation = pending.pop(j), graph.nodes[j].operation
        if j in stops:
            found[j] = mine
            continue
        assert operation is not None
        taken = operation.absolute() if absolute else operation
        for source, part in zip(graph.nodes[j].inputs, taken.transposed(mine, graph.sizes_of(j)), strict=True):
            pending[source] = pending[source] + part if source in pending else part
    return found


def matrices(graph: Graph, i: int) -> dict[int, Tensor] | None:
    """The unrolled matrices {anchor: [out, in]} of node i; None where they are larger than ENTRIES.

    Row by row backwards, or column by column forwards where the layer has one source that is smaller.
    """
    shape = graph.nodes[i].shape
    n = torch.Size(shape).numel()
    into = {source: part.numel() for source, part in pulled(graph, i, torch.zeros(1, *shape, dtype=torch.float64)).items()}
    if n * sum(into.values()) > ENTRIES:
        return None
    if len(into) == 1 and sum(into.values()) < n:
        ((source, width),) = into.items()
        units = torch.eye(width, dtype=torch.float64).view(width, *graph.nodes[source].shape)
        nothing = pushed(graph, source, i, torch.zeros_like(units[:1]))
        return {source: (pushed(graph, source, i, units) - nothing).flatten(1).T.contiguous()}
    rows = torch.eye(n, dtype=torch.float64).view(n, *shape)
    return {source: part.flatten(1) for source, part in pulled(graph, i, rows).items()}


def pushed(graph: Graph, source: int, i: int, x: Tensor, *, absolute: bool = False) -> Tensor:
    """Values x [B, *shape] of an anchor carried to node i, which lies before any other anchor; 0 for what else it reads.

    `absolute`: by the linear parts with the absolute values of all coefficients, where paths that could cancel are added.
    """
    stops, values = anchors(graph), {source: x}
    for j in range(source + 1, i + 1):
        node = graph.nodes[j]
        if j not in stops and any(k in values for k in node.inputs):
            assert node.operation is not None
            operation = node.operation.absolute() if absolute else node.operation
            values[j] = operation.forward(*[values.get(k, x.new_zeros(len(x), *graph.nodes[k].shape)) for k in node.inputs])
    return values[i]


def layers_into(graph: Graph, i: int) -> tuple[Layer, ...]:
    """The layers that give node i, one per anchor that it reads."""
    shape = graph.nodes[i].shape
    n = torch.Size(shape).numel()
    into = pulled(graph, i, torch.zeros(1, *shape, dtype=torch.float64))
    small = all(min(n, part.numel()) <= SIDE for part in into.values())
    found = matrices(graph, i) if small else None
    norms = {source: _large_norms(graph, i, source) if found is None else matrix_norms(found[source]) for source in into}
    return tuple(Layer(name=graph.nodes[i].name, source=source, target=i, norms=one) for source, one in sorted(norms.items()))


def _large_norms(graph: Graph, i: int, source: int) -> MatrixNorms:
    """Without the matrix: ||W||_2^2 <= ||W||_1 ||W||_inf, and for a convolution the largest of its transfer matrices on a torus."""
    ones = torch.ones(1, *graph.nodes[i].shape, dtype=torch.float64)
    columns = float(pulled(graph, i, ones, absolute=True)[source].max())
    rows = float(pushed(graph, source, i, torch.ones(1, *graph.nodes[source].shape, dtype=torch.float64), absolute=True).max())
    bound, frobenius, kernel = math.sqrt(rows * columns), math.nan, _kernel(graph, i, source)
    if kernel is not None:
        operation, weight = kernel
        shape = graph.nodes[source].shape
        squares = Convolution(
            weight=weight.square(),
            bias=weight.new_zeros(len(weight)),
            stride=operation.stride,
            padding=operation.padding,
            dilation=operation.dilation,
            groups=operation.groups,
        )
        frobenius = math.sqrt(float(squares.forward(torch.ones(1, *shape, dtype=torch.float64)).sum()))
        bound = min(bound, torus_norm(operation, weight, shape), frobenius)
    return MatrixNorms(spectral=bound * SLACK, frobenius=frobenius, row_sum=rows, exact=False)


def linear_part(node: Node, sizes: list[Tensor]) -> Tensor:
    """|W| sizes of an affine node."""
    assert node.operation is not None
    return node.operation.absolute().forward(*sizes)


def _kernel(graph: Graph, i: int, source: int) -> tuple[Convolution, Tensor] | None:
    """(convolution, its kernel with the scales after it) where node i is one of `source`, scaled by channel at most."""
    scale: Tensor | None = None
    node = graph.nodes[i]
    while isinstance(node.operation, Scale) and node.operation.weight.numel() in (1, node.shape[0]):
        mine = node.operation.weight.reshape(-1)
        scale = mine if scale is None else scale * mine
        i = node.inputs[0]
        node = graph.nodes[i]
    if not isinstance(node.operation, Convolution) or node.inputs != (source,):
        return None
    weight = node.operation.weight
    return node.operation, weight if scale is None else weight * scale.reshape(-1, *[1] * (weight.dim() - 1))


def torus_norm(operation: Convolution, kernel: Tensor, shape: tuple[int, ...]) -> float:
    r"""A bound on the spectral norm of an unrolled convolution of inputs `shape` [C, *spatial]: max over frequencies of ||K(omega)||_2.

    On a torus of at least input + kernel - 1 points nothing wraps around, so the zero-padded convolution (of any stride, which only
    leaves rows out) is a part of the circular one, whose norm is that of its largest transfer matrix. Source: Sedghi, Gupta & Long 2019.
    Pitfall: the norm of the reshaped kernel is no bound.
    """
    reach = [d * (k - 1) for k, d in zip(kernel.shape[2:], operation.dilation, strict=True)]
    sizes = [n + r for n, r in zip(shape[1:], reach, strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:2], *[r + 1 for r in reach])
    apart = (slice(None), slice(None), *(slice(None, None, d) for d in operation.dilation))
    spread[apart] = kernel
    places = tuple(range(2, kernel.dim()))
    transfer = torch.fft.fftn(spread, s=sizes, dim=places).flatten(2).permute(2, 0, 1)  # [frequencies, out, in / groups]
    parts = transfer.reshape(len(transfer), operation.groups, -1, transfer.shape[2])
    return float(torch.linalg.matrix_norm(parts, 2).max()) * SLACK


def sizes(graph: Graph) -> list[Tensor]:
    """Per node and element its l_inf Lipschitz constant [*shape]: |W_j| ... |W_1| 1, never above the product of the layers' row sums."""
    found: list[Tensor] = []
    for node in graph.nodes:
        if node.operation is None:
            found.append(torch.ones(1, *node.shape, dtype=torch.float64))
        elif node.hull is not None:
            found.append(torch.maximum(found[node.hull[0]], found[node.hull[1]]))
        else:
            inputs = [found[j] for j in node.inputs]
            found.append(linear_part(node, inputs) if node.operation.affine else inputs[0])
    return [size[0] for size in found]


@dataclass(slots=True, kw_only=True, eq=False)
class Everywhere:
    """Constants of one graph that hold for all inputs: `layers` in the order of the network, `constants` of rows on the logits.

    `kind`: "spectral" or "frobenius" for l2 (products of these norms), "row_sum" for linf (of the largest row sums), "absolute" for linf
    (the norm of the product of absolute matrices, never larger). A maximum passes the l2 norm of what it reads, times the square root of
    how often it reads one element: 1 for disjoint pooling.
    """

    graph: Graph
    _into: dict[int, tuple[Layer, ...]] = field(init=False, default_factory=dict)
    _absolute: list[Tensor] | None = field(init=False, default=None)

    def into(self, i: int) -> tuple[Layer, ...]:
        """The layers that give node i; computed once."""
        if i not in self._into:
            self._into[i] = layers_into(self.graph, i)
        return self._into[i]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers that what follows them depends on."""
        graph = self.graph
        wanted = {node.inputs[0] for _, node in graph.nonlinear()} | {len(graph.nodes) - 1}
        wanted = {i for i in wanted if not self._gap(i)}
        for i, node in enumerate(graph.nodes):
            wanted |= {t for t, _ in self._read(i)} if node.hull is not None else set()
        return tuple(layer for i in sorted(wanted - anchors(graph)) for layer in self.into(i))

    def _gap(self, i: int) -> bool:
        """Whether node i is the difference inside a maximum."""
        node = self.graph.nodes[i]
        return any(other.hull is not None and set(other.hull) == set(node.inputs) for other in self.graph.nodes[i:])

    def _read(self, i: int) -> Iterator[tuple[int, float]]:
        """(node, how often a maximum i reads one element of it at most), for maxima of maxima all that they read."""
        pending, leaves = [i], list[int]()
        while pending:
            hull = self.graph.nodes[pending.pop()].hull
            assert hull is not None
            for j in hull:
                (pending if self.graph.nodes[j].hull is not None else leaves).append(j)
        counts: dict[int, Tensor] = {}
        for leaf in leaves:
            node = self.graph.nodes[leaf]
            ones, source = torch.ones(1, *node.shape, dtype=torch.float64), leaf
            if isinstance(node.operation, Move) and node.operation.terms == 1 and len(node.inputs) == 1:
                source = node.inputs[0]
                ones = node.operation.transposed(ones, self.graph.sizes_of(leaf))[0]
            counts[source] = counts[source] + ones if source in counts else ones
        return ((source, float(count.max())) for source, count in counts.items())

    def node(self, i: int, kind: str) -> float:
        """The constant of node i as a whole."""
        node = self.graph.nodes[i]
        if node.operation is None:
            return 1.0
        if node.hull is not None:
            parts = [(self.node(source, kind), count) for source, count in self._read(i)]
            return max(size for size, _ in parts) if kind == "row_sum" else math.sqrt(sum(count * size**2 for size, count in parts))
        if not node.operation.affine:
            return self.node(node.inputs[0], kind)
        return float(sum(getattr(layer.norms, kind) * self.node(layer.source, kind) for layer in self.into(i)))

    def constants(self, rows: Tensor, kind: str) -> Tensor:
        """Of each row [M, C] on the logits: [M]."""
        direct, rest = self.terms(rows, kind)
        return (direct.norm(dim=1) if kind in ("spectral", "frobenius") else direct.abs().sum(1)) * SLACK + rest

    def terms(self, rows: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """(coefficients on the input itself [M, n], constants of all that passes an anchor [M]) of rows [M, C] on the logits."""
        graph, last = self.graph, len(self.graph.nodes) - 1
        if kind == "absolute" and self._absolute is None:
            self._absolute = sizes(graph)
        direct, rest = rows.new_zeros(len(rows), torch.Size(graph.nodes[0].shape).numel()), rows.new_zeros(len(rows))
        for source, part in pulled(graph, last, rows.view(len(rows), *graph.nodes[last].shape)).items():
            flat = part.flatten(1)
            if source == 0:
                direct = flat
            elif kind == "absolute":
                assert self._absolute is not None
                rest = rest + flat.abs() @ self._absolute[source].flatten()
            else:
                rest = rest + (flat.abs().sum(1) if kind == "row_sum" else flat.norm(dim=1)) * self.node(source, kind)
        return direct, rest * SLACK

    def chain(self) -> list[Tensor] | None:
        """The matrices W_1, ..., W_d of a network without branches, maxima and layers larger than ENTRIES; None of others."""
        graph = self.graph
        if any(node.hull is not None for node in graph.nodes):
            return None
        ends, source, found = [*(node.inputs[0] for _, node in graph.nonlinear()), len(graph.nodes) - 1], 0, list[Tensor]()
        for end, after in zip(ends, [*(i for i, _ in graph.nonlinear()), 0], strict=True):
            mine = matrices(graph, end)
            if mine is None or set(mine) != {source}:
                return None
            found.append(mine[source])
            source = after
        return found
