"""Lowerings of operations that move, join, average or compare values: pooling, reshaping, slicing. Not here: arithmetic (lowering.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isogrid.certify.call import Call, Ref, Unsupported, per_sample, ref, scale
from isogrid.certify.graph import Builder
from isogrid.certify.operations import Move, Relu, Sum


def maximum(builder: Builder, name: str, a: int, b: int) -> int:
    """max(a, b) = a + relu(b - a): what is deployed compares and rounds nothing."""
    gap = builder.add(f"{name} difference", Sum(signs=(1.0, -1.0), roundings=0), b, a)
    return builder.add(name, Sum(signs=(1.0, 1.0), roundings=0), a, builder.add(name, Relu(), gap), hull=(a, b))


def at_least(builder: Builder, name: str, x: int, limit: Tensor) -> int:
    """max(x, limit) = limit + relu(x - limit)."""
    above = builder.add(name, Relu(), scale(builder, name, x, 1.0, -limit, 0))
    return scale(builder, name, above, 1.0, limit, 0)


def elementwise_maximum(builder: Builder, call: Call) -> Ref:
    """torch.maximum of two values, or of a value and a constant c: c + relu(x - c)."""
    first, second = call["self"], call["other"]
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        x, other = (ref(second), first) if isinstance(first, Tensor) else (ref(first), second)
        limit = per_sample(call, other, builder.nodes[x].shape)
        return Ref(at_least(builder, call.name, x, limit))
    a, b = ref(first), ref(second)
    if builder.nodes[a].shape != builder.nodes[b].shape:
        raise Unsupported("a maximum of values of different shapes")
    return Ref(maximum(builder, call.name, a, b))


def max_pool(builder: Builder, call: Call) -> Ref:
    """The maximum over the taps of each dimension in turn, two by two; taps in the padding are replaced by others of their window."""
    x = ref(call["self"])
    dims = len(call["kernel_size"]) if len(call["kernel_size"]) > 1 else int(call.target._schema.name[-2])
    kernel, stride, padding, dilation = (
        tuple(call[key] or call["kernel_size"]) * (dims if len(call[key] or call["kernel_size"]) == 1 else 1)
        for key in ("kernel_size", "stride", "padding", "dilation")
    )
    for place in range(dims):
        dim = len(builder.nodes[x].shape) - dims + place
        size, outputs = builder.nodes[x].shape[dim], call.shape[1 + dim]
        taps = _taps(size, outputs, kernel[place], stride[place], padding[place], dilation[place])
        moved = [builder.add(f"{call.name} tap", _take(1 + dim, tap), x) for tap in taps]
        while len(moved) > 1:
            pairs = [maximum(builder, call.name, a, b) for a, b in zip(moved[::2], moved[1::2], strict=False)]
            moved = pairs + moved[len(pairs) * 2 :]
        x = moved[0]
    return Ref(x)


def _taps(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> list[list[int]]:
    """For each tap of a window, the input position that each output reads with it."""
    windows = []
    for o in range(outputs):
        places = [o * stride - padding + t * dilation for t in range(kernel)]
        inside = [i for i in places if 0 <= i < size]
        if not inside:
            raise Unsupported("a window that lies in the padding")
        windows.append([i if 0 <= i < size else inside[0] for i in places])
    return [[window[t] for window in windows] for t in range(kernel)]


def _take(dim: int, places: list[int]) -> Move:
    step = places[1] - places[0] if len(places) > 1 else 1
    if step > 0 and places == list(range(places[0], places[0] + step * len(places), step)):
        index = (slice(None),) * dim + (slice(places[0], places[-1] + 1, step),)
        return Move(function=lambda v: v[index], taps=(dim, places[0], step))
    chosen = torch.tensor(places)
    return Move(function=lambda v: v.index_select(dim, chosen))


def average(builder: Builder, call: Call) -> Ref:
    """Sums and means; an output that averages k inputs meets k + 1 roundings."""
    if call.arguments.get("divisor_override") or call.arguments.get("dtype") not in (None, call.dtype):
        raise Unsupported("a divisor or a type of its own")
    before, after = builder.nodes[ref(call["self"])].shape, call.shape[1:]
    if "kernel_size" in call.arguments:
        kernel = call["kernel_size"]
        terms = math.prod(kernel) ** (int(call.target._schema.name[-2]) if len(kernel) == 1 else 1)
    elif "output_size" in call.arguments:  # windows of adaptive pooling overlap
        terms = math.prod(-(-n // m) + 1 for n, m in zip(before, after, strict=True) if n != m)
    else:
        terms = math.prod(before) // max(1, math.prod(after))
    return _moved(builder, call, terms + 1)


def move(builder: Builder, call: Call) -> Ref:
    """One output for one input, nothing computed."""
    return _moved(builder, call, 1)


def _moved(builder: Builder, call: Call, terms: int) -> Ref:
    """The operation itself on whole batches, its other arguments as they are."""
    first = next(iter(call.arguments))
    rest = {key: value for key, value in call.arguments.items() if key != first}
    target = call.target

    def function(v: Tensor) -> Tensor:
        moved: Tensor = target(v, **rest)
        return moved

    return Ref(builder.add(call.name, Move(function=function, terms=terms), ref(call[first])))


def reshape(builder: Builder, call: Call) -> Ref:
    """Another shape of each sample."""
    shape = call.shape[1:]
    return Ref(builder.add(call.name, Move(function=lambda v: v.reshape(len(v), *shape)), ref(call["self"])))


def cut(builder: Builder, call: Call) -> Ref:
    """A slice, but of the batch."""
    if call["dim"] == 0:  # what x[:, ...] exports for its first colon
        if call.shape[0] != 2:
            raise Unsupported("a slice of the batch")
        value: Ref = call["self"]
        return value
    return move(builder, call)


def joined(builder: Builder, call: Call) -> Ref:
    """cat and stack; constants among the parts stay where they are."""
    parts, dim, target = call["tensors"], call["dim"], call.target
    nodes = [part.node for part in parts if isinstance(part, Ref)]
    fixed = [None if isinstance(part, Ref) else per_sample(call, part, part.shape[1:]) for part in parts]

    def function(*values: Tensor) -> Tensor:
        given = iter(values)
        rows = len(values[0])
        found: Tensor = target([next(given) if c is None else c.to(values[0]).expand(rows, *c.shape) for c in fixed], dim)
        return found

    return Ref(builder.add(call.name, Move(function=function), *nodes))
