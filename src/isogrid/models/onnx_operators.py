"""ONNX operators without windows: products, elementwise ones, shapes. One row of OPERATORS each. Not here: the file, the graph."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from isogrid.models.onnx_step import Live, Node, Reading, Step, Unsupported
from isogrid.models.onnx_windows import WINDOWS

_FLOAT: Final = 1  # TensorProto.FLOAT


def _gemm(node: Node) -> Step:
    """alpha x W + beta c, W transposed where transB says so; factors other than 1 stay factors, so that they round as they do there."""
    node.demand(transA=0)
    weight, bias = node.constant(1, "the right factor"), node.optional(2, "the bias")
    alpha, beta = _float32(node, "alpha", 1.0), _float32(node, "beta", 1.0)
    weight = weight if node.flag("transB") else weight.T.contiguous()
    if bias is not None:
        if bias.numel() not in (1, len(weight)) or bias.dim() > 2 or (bias.dim() == 2 and len(bias) != 1):
            raise Unsupported(f"a bias of shape {tuple(bias.shape)}; accepted: one value, or one for each of the {len(weight)} outputs")
        bias = bias.flatten().expand(len(weight)).contiguous()
    if alpha == 1 and beta == 1:
        return node.step(F.linear, weight, bias)
    return node.step(lambda x, w, b=None: F.linear(x, w) * alpha if b is None else F.linear(x, w) * alpha + b * beta, weight, bias)


def _float32(node: Node, name: str, default: float) -> float:
    """An attribute that is one number; a Python float prints more digits than the file's float32 has, and is the same number."""
    return float(struct.unpack("f", struct.pack("f", float(node.attributes.get(name, default))))[0])


def _matmul(node: Node) -> Step:
    node.live(0, "the left factor")
    weight = node.constant(1, "the right factor")
    if weight.dim() != 2:
        raise Unsupported(f"a right factor of shape {tuple(weight.shape)}; accepted: a matrix")
    return node.step(F.linear, weight.T.contiguous())


def _batch_normalisation(node: Node) -> Step:
    node.demand(training_mode=0)
    constants = [node.constant(i, name) for i, name in enumerate(("the input", "scale", "bias", "mean", "variance")) if i]
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return node.step(lambda x, w, b, mean, variance: F.batch_norm(x, mean, variance, w, b, False, 0.0, epsilon), *constants)


def _elementwise(function: Callable[[Tensor, Tensor], Tensor], both: bool) -> Reading:
    """Two operands that numpy would broadcast; `both` may depend on the input."""

    def read(node: Node) -> Step:
        if len(node.inputs) != 2:
            raise Unsupported(f"{len(node.inputs)} operands; accepted: 2")
        first, second = node.given(0), node.given(1)
        if isinstance(first, Live) and isinstance(second, Live):
            if not both or first.example.dim() != second.example.dim():
                raise Unsupported("two operands that both depend on the network's input" + (", of different dimensions" if both else ""))
            return node.step(function, of=(0, 1))
        if isinstance(first, Live):
            return node.step(function, _operand(node.constant(1, "an operand"), first))
        value = _operand(node.constant(0, "an operand"), node.live(1))
        return node.step(lambda x, c: function(c, x), value, of=(1,))

    return read


def _maximum(node: Node) -> Step:
    """Of any number of operands; a constant's NaN counts, as it does there."""
    places = [i for i, value in enumerate(node.inputs) if isinstance(value, Live)]
    first = node.live(places[0])
    if any(node.live(i).example.dim() != first.example.dim() for i in places):
        raise Unsupported("operands that depend on the network's input, of different dimensions")
    fixed = [_operand(node.constant(i, "an operand"), first) for i in range(len(node.inputs)) if i not in places]
    return node.step(lambda *values: functools.reduce(torch.maximum, values), *fixed, of=places)


def _operand(value: Tensor, beside: Live) -> Tensor:
    rank = beside.example.dim()
    if value.dim() > rank or (value.dim() == rank and len(value) != 1):
        raise Unsupported(f"a constant of shape {tuple(value.shape)} beside {tuple(beside.example.shape)}: it would enlarge the batch")
    return value


def _divide(node: Node) -> Step:
    if isinstance(node.given(1), Live):
        raise Unsupported("a divisor that depends on the network's input")
    return _elementwise(torch.div, both=False)(node)


def _unary(function: Callable[[Tensor], Tensor]) -> Reading:
    return lambda node: node.step(function)


def _leaky(node: Node) -> Step:
    slope = _float32(node, "alpha", 0.01)
    return node.step(lambda x: F.leaky_relu(x, slope))


def _prelu(node: Node) -> Step:
    """torch's prelu takes one slope, or one for each channel, the dimension after the batch's."""
    slope, x = node.constant(1, "the slope"), node.live(0).example
    shape = (1,) * (x.dim() - slope.dim()) + tuple(slope.shape)
    if slope.numel() != 1 and (len(shape) != x.dim() or shape[1] != slope.numel() or shape[1] != x.shape[1]):
        raise Unsupported(f"slopes of shape {tuple(slope.shape)}; accepted: one, or one for each channel")
    return node.step(F.prelu, slope.flatten())


def _clip(node: Node) -> Step:
    limits = []
    for i, name in ((1, "min"), (2, "max")):
        given = node.optional(i, name)
        limits.append(node.attributes.get(name) if given is None else given.item())
    low, high = limits
    if low is None and high is None:
        return node.step(lambda x: x)
    return node.step(lambda x: x.clamp(low, high))


def _dropout(node: Node) -> Step:
    training = node.optional(2, "training_mode")
    if training is not None and bool(training.any()):
        raise Unsupported("dropout in training mode")
    return node.step(lambda x: x)


def _cast(node: Node) -> Step:
    node.demand(to=_FLOAT)
    return node.step(lambda x: x)


def _flatten(node: Node) -> Step:
    shape = node.live(0).example.shape
    axis = node.flag("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return node.reshaped((math.prod(shape[:axis]), math.prod(shape[axis:])))


def _reshape(node: Node) -> Step:
    before, wanted = node.live(0).example.shape, node.integers("shape", 1)
    if wanted is None:
        raise Unsupported("no shape")
    if not node.flag("allowzero"):
        wanted = [before[i] if n == 0 and i < len(before) else n for i, n in enumerate(wanted)]
    return node.reshaped(torch.empty(before).reshape(wanted).shape)


def _squeeze(node: Node) -> Step:
    shape, axes = node.live(0).example.shape, node.integers("axes", 1)
    gone = [i for i, n in enumerate(shape) if n == 1] if axes is None else [a + len(shape) if a < 0 else a for a in axes]
    if any(not 0 <= i < len(shape) or shape[i] != 1 for i in gone) or 0 in gone:
        raise Unsupported(f"axes {gone} of the shape {list(shape)} squeezed away; accepted: dimensions of size 1, not the batch's")
    return node.reshaped([n for i, n in enumerate(shape) if i not in gone])


def _unsqueeze(node: Node) -> Step:
    shape, axes = node.live(0).example.shape, node.integers("axes", 1) or []
    rank = len(shape) + len(axes)
    new = sorted(node.axis(0, axis, rank) for axis in axes)
    rest = iter(shape)
    return node.reshaped([1 if i in new else next(rest) for i in range(rank)])


def _transpose(node: Node) -> Step:
    rank = node.live(0).example.dim()
    order = node.integers("perm") or list(reversed(range(rank)))
    if order[0] != 0:
        raise Unsupported(f"perm {order} moves the batch; accepted: one that begins with 0")
    return node.step(lambda x: x.permute(order))


def _concat(node: Node) -> Step:
    places = [i for i, value in enumerate(node.inputs) if isinstance(value, Live)]
    axis = node.axis(places[0], node.flag("axis"))
    fixed = [value for value in node.inputs if isinstance(value, Tensor)]
    if any(len(value) != 1 for value in fixed):
        raise Unsupported("a constant that differs between the samples of a batch")

    def function(*values: Tensor) -> Tensor:
        live, rest = iter(values[: len(places)]), iter(values[len(places) :])
        rows = len(values[0])
        parts = [next(live) if i in places else (c := next(rest)).expand(rows, *c.shape[1:]) for i in range(len(node.inputs))]
        return torch.cat(parts, axis)

    return node.step(function, *fixed, of=places)


def _pad(node: Node) -> Step:
    if node.attributes.get("mode", "constant") != "constant":
        raise Unsupported(f"mode {node.attributes['mode']}; accepted: constant")
    rank = node.live(0).example.dim()
    pads, axes = node.integers("pads", 1) or [], node.integers("axes", 3)
    places = list(range(rank)) if axes is None else [a + rank if a < 0 else a for a in axes]
    sides = [[0, 0] for _ in range(rank)]
    for k, place in enumerate(places):
        sides[place] = [pads[k], pads[k + len(places)]]
    if any(sides[0]) or min(pads, default=0) < 0:
        raise Unsupported(f"pads {pads}; accepted: numbers >= 0, none for the batch")
    given = node.optional(2, "the value")
    value = float(node.attributes.get("value", 0.0)) if given is None else given.item()
    flat = [side for pair in reversed(sides[1:]) for side in pair]
    return node.step(lambda x: F.pad(x, flat, value=value))


def _reduced(function: Callable[..., Tensor]) -> Reading:
    def read(node: Node) -> Step:
        axes, keep = node.integers("axes", 1), bool(node.flag("keepdims", 1))
        if not axes and node.flag("noop_with_empty_axes"):
            return node.step(lambda x: x)
        dims = [node.axis(0, axis) for axis in axes or [0]]  # without axes over everything, the batch too
        return node.step(lambda x: function(x, dims, keepdim=keep))

    return read


def _slice(node: Node) -> Step:
    starts, ends = node.integers("starts", 1) or [], node.integers("ends", 2) or []
    axes, steps = node.integers("axes", 3) or list(range(len(starts))), node.integers("steps", 4) or [1] * len(starts)
    index = [slice(None)] * node.live(0).example.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise Unsupported(f"a slice with step {step}; accepted: steps >= 1")
        index[node.axis(0, axis)] = slice(start, end, step)
    cut = tuple(index)
    return node.step(lambda x: x[cut])


OPERATORS: Final[dict[str, Reading]] = WINDOWS | {
    "Add": _elementwise(torch.add, both=True),
    "BatchNormalization": _batch_normalisation,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Identity": _unary(lambda x: x),
    "LeakyRelu": _leaky,
    "MatMul": _matmul,
    "Max": _maximum,
    "Mul": _elementwise(torch.mul, both=False),
    "Neg": _unary(torch.neg),
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub, both=True),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operator -> how a node of it is read. Constants of any operator are folded beforehand (onnx_file.py)."""
