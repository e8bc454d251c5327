"""ONNX operators that slide a window: convolution and pooling. Not here: the other operators (onnx_operators.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from isogrid.models.onnx_step import Node, Reading, Step, Unsupported

_CONVOLUTIONS: Final[dict[int, Callable[..., Tensor]]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAXIMA: Final[dict[int, Callable[..., Tensor]]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS: Final[dict[int, Callable[..., Tensor]]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A window's geometry, a number per spatial dimension: size, stride, dilation, padding before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def even(self) -> bool:
        """Whether both sides are padded alike."""
        return self.before == self.after

    @property
    def sides(self) -> list[int]:
        """The padding as torch's `pad` takes it: the last dimension first."""
        return [side for pair in zip(reversed(self.before), reversed(self.after), strict=True) for side in pair]

    def outputs(self, sizes: tuple[int, ...], ceil: bool) -> list[int]:
        """How many windows there are along each dimension of an input of `sizes`; the last one of a rounded-up count starts inside."""
        found = []
        for n, k, s, d, before, after in zip(sizes, self.kernel, self.stride, self.dilation, self.before, self.after, strict=True):
            room = n + before + after - d * (k - 1) - 1
            count = (room + s - 1 if ceil else room) // s + 1
            found.append(count - 1 if ceil and (count - 1) * s >= n + before else count)
        return found


def _window(node: Node, kernel: tuple[int, ...]) -> _Window:
    dims = len(kernel)
    sizes = node.live(0).example.shape[2:]
    if len(sizes) != dims or dims not in _CONVOLUTIONS:
        raise Unsupported(f"a window of {dims} dimensions on {len(sizes)}; accepted: 1 to 3, as many as the input has")
    stride, dilation = (tuple(node.integers(name) or [1] * dims) for name in ("strides", "dilations"))
    pads = node.integers("pads") or [0] * 2 * dims
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * 2 * dims
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = less + more if auto == "SAME_UPPER" else more + less
    if min(pads, default=0) < 0:
        raise Unsupported(f"pads {pads}; accepted: numbers >= 0")
    return _Window(kernel=kernel, stride=stride, dilation=dilation, before=tuple(pads[:dims]), after=tuple(pads[dims:]))


def _convolution(node: Node) -> Step:
    weight, bias = node.constant(1, "the weight"), node.optional(2, "the bias")
    window, groups = _window(node, tuple(weight.shape[2:])), node.flag("group", 1)
    function, settings = _CONVOLUTIONS[weight.dim() - 2], {"stride": window.stride, "dilation": window.dilation, "groups": groups}
    if window.even:
        return node.step(lambda x, w, b=None: function(x, w, b, padding=window.before, **settings), weight, bias)
    sides = window.sides
    return node.step(lambda x, w, b=None: function(F.pad(x, sides), w, b, **settings), weight, bias)


def _kernel(node: Node) -> tuple[int, ...]:
    return tuple(node.integers("kernel_shape") or ())


def _max_pool(node: Node) -> Step:
    window, ceil = _window(node, _kernel(node)), bool(node.flag("ceil_mode"))
    node.demand(storage_order=0)
    if window.even and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True)):
        function = _MAXIMA[len(window.kernel)]
        settings: dict[str, Any] = {"padding": window.before, "dilation": window.dilation, "ceil_mode": ceil}
        return node.step(lambda x: function(x, window.kernel, window.stride, **settings))
    return _taps(node, window, ceil)


def _taps(node: Node, window: _Window, ceil: bool) -> Step:
    """A maximum over the taps of each dimension in turn; a tap in the padding reads another position of its window."""
    sizes = tuple(node.live(0).example.shape[2:])
    taps: list[tuple[int, Tensor]] = []
    for place, outputs in enumerate(window.outputs(sizes, ceil)):
        columns = []
        for o in range(outputs):
            start = o * window.stride[place] - window.before[place]
            places = [start + t * window.dilation[place] for t in range(window.kernel[place])]
            inside = [i for i in places if 0 <= i < sizes[place]]
            if not inside:
                raise Unsupported("a window that lies in the padding")
            columns.append([i if 0 <= i < sizes[place] else inside[0] for i in places])
        taps += [(2 + place, torch.tensor(tap)) for tap in zip(*columns, strict=True)]

    def function(x: Tensor, *indices: Tensor) -> Tensor:
        for dim in range(2, x.dim()):
            found = [x[(slice(None),) * dim + (index,)] for (d, _), index in zip(taps, indices, strict=True) if d == dim]
            x = found[0]
            for other in found[1:]:
                x = torch.maximum(x, other)
        return x

    return node.step(function, *[index for _, index in taps])


def _average_pool(node: Node) -> Step:
    window, ceil = _window(node, _kernel(node)), bool(node.flag("ceil_mode"))
    if any(d != 1 for d in window.dilation):
        raise Unsupported("an average over a dilated window")
    if ceil and window.outputs(tuple(node.live(0).example.shape[2:]), True) != window.outputs(tuple(node.live(0).example.shape[2:]), False):
        raise Unsupported("an average over a window that leaves the padded input (ceil_mode)")
    function, counted = _MEANS[len(window.kernel)], bool(node.flag("count_include_pad"))
    if window.even and all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True)):
        return node.step(lambda x: function(x, window.kernel, window.stride, window.before, count_include_pad=counted))
    sides = window.sides
    if counted:
        return node.step(lambda x: function(F.pad(x, sides), window.kernel, window.stride))
    share = function(F.pad(torch.ones_like(node.live(0).example), sides), window.kernel, window.stride)
    if not bool((share > 0).all()):
        raise Unsupported("a window that lies in the padding")
    return node.step(lambda x, factor: function(F.pad(x, sides), window.kernel, window.stride) * factor, 1 / share)


def _spatial(node: Node) -> tuple[int, ...]:
    return tuple(range(2, node.live(0).example.dim()))


def _global_average(node: Node) -> Step:
    dims = _spatial(node)
    return node.step(lambda x: x.mean(dims, keepdim=True))


def _global_maximum(node: Node) -> Step:
    sizes = tuple(node.live(0).example.shape[2:])
    if len(sizes) not in _MAXIMA:
        raise Unsupported(f"a maximum over {len(sizes)} dimensions; accepted: 1 to 3")
    function = _MAXIMA[len(sizes)]
    return node.step(lambda x: function(x, sizes))


WINDOWS: Final[dict[str, Reading]] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_maximum,
    "MaxPool": _max_pool,
}
"""Operator -> how a node of it is read."""
