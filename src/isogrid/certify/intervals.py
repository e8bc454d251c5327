"""Interval arithmetic over a graph, with the rounding that a deployed network may add. Not here: linear relaxations.

The deployed network is the exact one with a disturbance at each operation: h_i = f_i(h_j, ...) + d_i, |d_i| <= `rounding` of the
operation on values of the sizes that its inputs' intervals allow. Bounds that allow for these disturbances hold for every order of
summation, as long as no sum leaves the range of the deployed type (`Sweep.in_range`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isogrid.certify.graph import Graph, Node


def node_interval(node: Node, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Bounds of one node [B, *shape] from those of all nodes before it, without its own rounding; a maximum's own where it is one."""
    assert node.operation is not None
    low, high = node.operation.interval([lows[i] for i in node.inputs], [highs[i] for i in node.inputs])
    if node.hull is not None:
        a, b = node.hull
        low, high = torch.maximum(low, torch.maximum(lows[a], lows[b])), torch.minimum(high, torch.maximum(highs[a], highs[b]))
    return low, high


def node_rounding(graph: Graph, node: Node, lows: Sequence[Tensor], highs: Sequence[Tensor]) -> Tensor | None:
    """How far a deployed operation's value may lie from the exact one's on the same inputs: [B, *shape]; None: 0."""
    assert node.operation is not None
    found = node.operation.rounding([torch.maximum(lows[i].abs(), highs[i].abs()) for i in node.inputs], graph.gamma())
    return found if found is None or graph.floor == 0 else found + graph.floor * (found > 0)


def widened(low: Tensor, high: Tensor, rounding: Tensor | None) -> tuple[Tensor, Tensor]:
    """The interval with a disturbance on both sides."""
    return (low, high) if rounding is None else (low - rounding, high + rounding)


def deployed_bounds(graph: Graph, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Bounds of what every node of a deployed network may give at the points x [B, *S] themselves."""
    lows, highs = [x], [x]
    for node in graph.nodes[1:]:
        low, high = widened(*node_interval(node, lows, highs), node_rounding(graph, node, lows, highs))
        lows.append(low)
        highs.append(high)
    return lows, highs


def deployed_range(graph: Graph, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same of the last node alone: [B, C]."""
    lows, highs = deployed_bounds(graph, x)
    return lows[-1], highs[-1]
