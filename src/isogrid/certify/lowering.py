"""Which torch operation becomes which nodes: one row of LOWERINGS each; the arithmetic ones. Not here: moves.py, what nodes compute."""

from __future__ import annotations

from typing import Final

import torch

from isogrid.certify import moves
from isogrid.certify.call import Call, Lowering, Ref, Unsupported, constant, per_sample, ref, scale
from isogrid.certify.graph import Builder
from isogrid.certify.operations import Convolution, Linear, Move, Relu, Scale, Sum, Tanh


def _linear(builder: Builder, call: Call) -> Ref:
    bias = None if call["bias"] is None else constant(call["bias"], "a bias")
    return Ref(builder.add(call.name, Linear.of(constant(call["weight"], "a weight"), bias), ref(call["input"])))


def _matmul(builder: Builder, call: Call) -> Ref:
    other = call.arguments.get("other", call.arguments.get("mat2"))
    weight = constant(other, "the right factor")
    if weight.dim() != 2:
        raise Unsupported("a product with a constant that is no matrix")
    return Ref(builder.add(call.name, Linear.of(weight.T.contiguous(), None), ref(call["self"], "the left factor")))


def _addmm(builder: Builder, call: Call) -> Ref:
    if call["beta"] != 1 or call["alpha"] != 1:
        raise Unsupported("addmm with factors")
    weight = constant(call["mat2"], "the right factor").T.contiguous()
    bias = per_sample(call, call["self"], (len(weight),)).expand(len(weight))
    return Ref(builder.add(call.name, Linear.of(weight, bias), ref(call["mat1"], "the left factor")))


def _convolution(builder: Builder, call: Call) -> Ref:
    weight, x = constant(call["weight"], "a weight"), ref(call["input"])
    if call.arguments.get("transposed"):
        raise Unsupported("a transposed convolution")
    dims = weight.dim() - 2
    stride, dilation = (tuple(call[key]) * (dims if len(call[key]) == 1 else 1) for key in ("stride", "dilation"))
    padding = call["padding"]
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        if any(total):
            x = builder.add(f"{call.name} padding", Move(function=lambda v: torch.nn.functional.pad(v, sides)), x)
        padding = (0,) * dims
    bias = weight.new_zeros(len(weight)) if call["bias"] is None else constant(call["bias"], "a bias")
    operation = Convolution(
        weight=weight,
        bias=bias,
        stride=stride,
        padding=tuple(padding) * (dims if len(padding) == 1 else 1),
        dilation=dilation,
        groups=call["groups"],
    )
    return Ref(builder.add(call.name, operation, x))


def _batch_norm(builder: Builder, call: Call) -> Ref:
    if call["training"]:
        raise Unsupported("batch normalisation by the statistics of the batch")
    x = ref(call["input"])
    mean, variance = (constant(call[key], "a running statistic") for key in ("running_mean", "running_var"))
    weight = (variance + call["eps"]).rsqrt() * (1.0 if call["weight"] is None else constant(call["weight"], "a weight"))
    shift = torch.zeros_like(mean) if call["bias"] is None else constant(call["bias"], "a bias")
    weight, shift, mean = (v.reshape(-1, *([1] * (len(builder.nodes[x].shape) - 1))) for v in (weight, shift, mean))
    extra = (weight * mean).abs() + shift.abs()
    return Ref(builder.add(call.name, Scale(weight=weight, bias=shift - weight * mean, roundings=8, extra=extra), x))


def _arithmetic(sign: float) -> Lowering:
    """self + sign * alpha * other; rsub: other - alpha * self."""

    def lower(builder: Builder, call: Call) -> Ref:
        first, second = call["self"], call["other"]
        alpha = float(call.arguments.get("alpha", 1))
        if call.target._schema.name == "aten::rsub":
            first, second = second, first
        if isinstance(first, Ref) and isinstance(second, Ref):
            if builder.nodes[first.node].shape != builder.nodes[second.node].shape or alpha != 1:
                raise Unsupported("a sum of values of different shapes, or with a factor")
            return Ref(builder.add(call.name, Sum(signs=(1.0, sign), roundings=1), first.node, second.node))
        factors = (1.0, sign * alpha)
        x, factor, other, times = (first, factors[0], second, factors[1]) if isinstance(first, Ref) else (second, factors[1], first, 1.0)
        node = ref(x)
        return Ref(scale(builder, call.name, node, factor, times * per_sample(call, other, builder.nodes[node].shape), 2))

    return lower


def _product(builder: Builder, call: Call) -> Ref:
    first, second = call["self"], call["other"]
    if isinstance(first, Ref) == isinstance(second, Ref):
        raise Unsupported("a product of two values that both depend on the input")
    node, other = (first.node, second) if isinstance(first, Ref) else (second.node, first)
    return Ref(scale(builder, call.name, node, per_sample(call, other, builder.nodes[node].shape), 0.0))


def _quotient(builder: Builder, call: Call) -> Ref:
    node = ref(call["self"], "the dividend")
    if isinstance(call["other"], Ref) or call.arguments.get("rounding_mode") is not None:
        raise Unsupported("a quotient that is rounded, or whose divisor depends on the input")
    return Ref(scale(builder, call.name, node, 1 / per_sample(call, call["other"], builder.nodes[node].shape), 0.0))


def _negative(builder: Builder, call: Call) -> Ref:
    return Ref(scale(builder, call.name, ref(call["self"]), -1.0, 0.0, 0))


def _same(builder: Builder, call: Call) -> Ref:
    if call.arguments.get("train"):
        raise Unsupported("dropout in training mode")
    return Ref(ref(call.arguments.get("self", call.arguments.get("input"))))


def _to(builder: Builder, call: Call) -> Ref:
    node = ref(call["self"])
    if call.dtype not in (torch.float32, torch.float64):
        raise Unsupported(f"a cast to {call.dtype}")
    return Ref(scale(builder, call.name, node, 1.0, 0.0, 1))


def _relu(builder: Builder, call: Call) -> Ref:
    return Ref(builder.add(call.name, Relu(), ref(call["self"])))


def _leaky(builder: Builder, call: Call) -> Ref:
    """a z + (1 - a) relu(z); `prelu` has one slope a per channel."""
    x = ref(call["self"])
    if "weight" in call.arguments:
        slope = constant(call["weight"], "a slope")
        slope = slope.reshape(-1, *([1] * (len(builder.nodes[x].shape) - 1)))
    else:
        slope = torch.tensor(call["negative_slope"], dtype=call.dtype).double()
    kept = scale(builder, f"{call.name} linear part", x, slope, 0.0, 0)
    positive = scale(builder, f"{call.name} positive part", builder.add(call.name, Relu(), x), 1 - slope, 0.0, 0)
    return Ref(builder.add(call.name, Sum(signs=(1.0, 1.0), roundings=1), kept, positive))


def _clamp(builder: Builder, call: Call) -> Ref:
    """low + relu(z - low) - relu(z - high), for the limits that there are."""
    limits = {"relu6": (0.0, 6.0)}.get(call.target._schema.name.removeprefix("aten::").rstrip("_"))
    low, high = limits or (
        call.arguments.get("min", call.arguments.get("min_val")),
        call.arguments.get("max", call.arguments.get("max_val")),
    )
    x = ref(call["self"])
    if isinstance(low, Ref) or isinstance(high, Ref):
        raise Unsupported("limits that depend on the input")
    shape = builder.nodes[x].shape
    if low is not None:
        x = moves.at_least(builder, call.name, x, per_sample(call, low, shape))
    if high is not None:
        limit = per_sample(call, high, shape)
        below = builder.add(call.name, Relu(), scale(builder, call.name, x, -1.0, limit, 0))  # high - relu(high - z)
        x = scale(builder, call.name, below, -1.0, limit, 0)
    return Ref(x)


def _tanh(builder: Builder, call: Call) -> Ref:
    return Ref(builder.add(call.name, Tanh(), ref(call["self"])))


def _sigmoid(builder: Builder, call: Call) -> Ref:
    inner = builder.add(call.name, Tanh(), scale(builder, f"{call.name} halved", ref(call["self"]), 0.5, 0.0, 0))
    return Ref(scale(builder, f"{call.name} shifted", inner, 0.5, 0.5))


LOWERINGS: Final[dict[str, Lowering]] = (
    {"linear": _linear, "matmul": _matmul, "mm": _matmul, "addmm": _addmm, "batch_norm": _batch_norm}
    | dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution)
    | {"add": _arithmetic(1.0), "sub": _arithmetic(-1.0), "rsub": _arithmetic(-1.0)}
    | {"mul": _product, "div": _quotient, "neg": _negative}
    | dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "detach", "alias", "clone", "contiguous", "lift_fresh_copy"), _same)
    | {"to": _to, "_to_copy": _to, "relu": _relu, "leaky_relu": _leaky, "prelu": _leaky, "tanh": _tanh, "sigmoid": _sigmoid}
    | dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"), _clamp)
    | {"maximum": moves.elementwise_maximum}
    | dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), moves.max_pool)
    | dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d", "mean", "sum"), moves.average)
    | dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), moves.average)
    | dict.fromkeys(("flatten", "view", "reshape", "_unsafe_view", "unflatten", "squeeze", "unsqueeze"), moves.reshape)
    | dict.fromkeys(("permute", "transpose", "select", "index", "pad", "constant_pad_nd", "flip", "roll"), moves.move)
    | {"slice": moves.cut, "cat": moves.joined, "stack": moves.joined}
)
"""Name of an ATen operation, without the underscore of its in-place form -> how it is lowered."""
