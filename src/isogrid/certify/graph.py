"""A network as a graph of supported operations. Not here: how a model is read (reading.py), bounds.

The graph is the network in exact arithmetic with the weights that are deployed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from isogrid.certify.operations import Convolution, Gamma, Linear, Move, Operation, Shape, gamma_of
from isogrid.core.errors import InputError
from isogrid.core.random import generator

RUN_UNIT: Final = 2.0**-53
"""The rounding unit of our own computations."""
_TERMS: Final = 2**26
"""More products than any output adds up."""
_PROBES: Final = 3
ROW_BYTES: Final = 4 * 2**20
"""Rows are taken back in parts whose coefficients at the widest node stay within this: small enough for a cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One operation on earlier nodes; node 0, the input, has none.

    `shape`: one sample's output. `hull`: two nodes of which this one is the elementwise maximum, whatever its operation says: intervals
    and rounding of a maximum are better taken from them.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...]
    shape: Shape
    hull: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """Nodes in the order of computation; the last one gives the logits [C] (or a single z). `unit`: the deployed rounding unit.

    `single`: the one output z stands for the logits (0, z). `dtype`: what our own computations are in.
    """

    nodes: tuple[Node, ...]
    unit: float
    single: bool
    dtype: torch.dtype = torch.float64

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 2 if self.single else self.nodes[-1].shape[0]

    @property
    def widest(self) -> int:
        """Elements of the largest node."""
        return max(torch.Size(node.shape).numel() for node in self.nodes)

    def values(self, x: Tensor) -> list[Tensor]:
        """Every node's output on x [B, *S]."""
        found: list[Tensor] = []
        for node in self.nodes:
            found.append(x if node.operation is None else node.operation.forward(*[found[i] for i in node.inputs]))
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """x [B, *S] -> logits [B, C], in x's type and in exact arithmetic up to its rounding."""
        z = self.values(x)[-1].flatten(1)
        return nn.functional.pad(z, (1, 0)) if self.single else z

    def cast(self, dtype: torch.dtype) -> Graph:
        """The same graph computing in `dtype`, for searches whose results are checked in float64."""
        nodes = tuple(n if n.operation is None else replace(n, operation=n.operation.cast(dtype)) for n in self.nodes)
        return replace(self, nodes=nodes, dtype=dtype)

    def gamma(self) -> Gamma:
        """Rounding of the deployed network and of our own run over it, whose sums are at most as long as the widest layer.

        In float32 we only guess: the deployed network's alone.
        """
        return gamma_of((self.unit, 0), *([(RUN_UNIT, 4 * self.widest + 64)] if self.dtype == torch.float64 else []))

    @property
    def floor(self) -> float:
        """What a deployed operation may lose besides, where products are too small for normal numbers; in float32 we only guess."""
        return self._deployed.tiny * _TERMS if self.dtype == torch.float64 else 0.0

    @property
    def ceiling(self) -> float:
        """Rounding up to which no deployed sum can have overflowed: it is at least `unit` times the sum's size."""
        return self._deployed.max * self.unit

    @property
    def _deployed(self) -> torch.finfo:
        return torch.finfo(torch.float32 if self.unit > RUN_UNIT else torch.float64)

    def nonlinear(self) -> Iterator[tuple[int, Node]]:
        """(index, node) of every ReLU and tanh."""
        return ((i, node) for i, node in enumerate(self.nodes) if node.operation is not None and not node.operation.affine)

    def sizes_of(self, i: int) -> list[Shape]:
        """The shapes of node i's inputs."""
        return [self.nodes[j].shape for j in self.nodes[i].inputs]


class Builder:
    """Collects nodes while a program is lowered, and tries each on samples: that gives its shape, and shows what mixes a batch."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = [Node(name="input", operation=None, inputs=(), shape=tuple(shape))]

    def add(self, name: str, operation: Operation, *inputs: int, hull: tuple[int, int] | None = None) -> int:
        """Append a node and return its index; ValueError for an operation that is not one on each sample by itself."""
        random = generator(0, "graph probe")
        probes = [torch.randn(_PROBES, *self.nodes[i].shape, dtype=torch.float64, generator=random) for i in inputs]
        try:
            together = operation.forward(*probes)
            alone = [operation.forward(*[probe[row : row + 1] for probe in probes]) for row in range(_PROBES)]
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"cannot run on other batches: {str(error).splitlines()[0]}") from None
        if together.dim() == 0 or not all(one.shape == (1, *together.shape[1:]) for one in alone):
            raise ValueError("mixes the samples of a batch")
        if not together.isfinite().all():
            raise ValueError("gives numbers that are not finite")
        if not torch.allclose(together, torch.cat(alone), rtol=1e-9, atol=1e-9):
            raise ValueError("mixes the samples of a batch")
        if isinstance(operation, Move):
            offset = operation.forward(*[torch.zeros_like(probe[:1]) for probe in probes])[0]
            operation = replace(operation, offset=offset) if bool(offset.any()) else operation
        self.nodes.append(Node(name=name, operation=operation, inputs=inputs, shape=tuple(together.shape[1:]), hull=hull))
        return len(self.nodes) - 1


def used(nodes: list[Node], output: int) -> tuple[Node, ...]:
    """The nodes that `output` depends on, renumbered; the input stays even where nothing depends on it."""
    needed = {0, output}
    for i in range(output, 0, -1):
        if i in needed:
            needed.update(nodes[i].inputs, nodes[i].hull or ())
    order = {old: new for new, old in enumerate(sorted(needed))}

    def moved(node: Node) -> Node:
        hull = None if node.hull is None else (order[node.hull[0]], order[node.hull[1]])
        return replace(node, inputs=tuple(order[i] for i in node.inputs), hull=hull)

    return tuple(moved(nodes[old]) for old in sorted(needed))


def rows_at_once(graph: Graph, batch: int) -> int:
    """How many rows of each of a batch stay within ROW_BYTES."""
    return max(1, ROW_BYTES // (graph.dtype.itemsize * graph.widest * batch))


def row_parts(graph: Graph, batch: int, rows: int) -> list[slice]:
    """Slices over `rows` that are taken back one after the other."""
    step = rows_at_once(graph, batch)
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


def replaced(graph: Graph, pairs: Sequence[tuple[Tensor, Tensor]]) -> Graph:
    """The graph with other weights in its linear and convolutional nodes: each that equals the first of a pair becomes the second.

    Raises InputError where one of them is in no node (its layer computes with another tensor than its parameter).
    """
    nodes = list(graph.nodes)
    for before, after in pairs:
        known, weight, found = before.detach().double().cpu(), after.detach().double().cpu(), False
        for i, node in enumerate(graph.nodes):
            mine = node.operation
            if isinstance(mine, Linear | Convolution) and torch.equal(mine.weight, known):
                made = Linear.of(weight, mine.bias) if isinstance(mine, Linear) else replace(mine, weight=weight)
                nodes[i], found = replace(node, operation=made), True
        if not found:
            accepted = "the weight of a linear or convolutional layer, as it computes with it"
            raise InputError("weights", f"one of shape {tuple(before.shape)} that the graph does not hold", accepted)
    return replace(graph, nodes=tuple(nodes))
