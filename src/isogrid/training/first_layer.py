"""The input gradient of a convolution of few channels, which the ascents of adversarial training need of a network's first layer and a
plain training step does not. Not here: any other operation, or when (`ascent`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

FEW = 4
"""Channels of the input up to which the sums are the faster way: those of images."""
MOST = 1 << 24
"""Numbers that the matrix product may have."""
_BACKWARD = torch.ops.aten.convolution_backward.default


class FewChannels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, input gradients of 2-D convolutions of at most `FEW` channels and stride 1 are one matrix product and k x k shifted sums.

    dx[b, :, u + i, v + j] = sum over i, j of W[:, :, i, j]^T g[b, :, u, v]. The kernels for many channels take 2 to 4 times as long: on the
    CPU a third of a LeNet-5's pass forward and back. Equal to them up to rounding; everything else is left as it is.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is _BACKWARD and _fits(*args):
            gradient, x, weight, _, _, padding, *_ = args
            return input_gradient(gradient, x, weight, padding), None, None
        return func(*args, **(kwargs or {}))


def first_layer_of(model: nn.Module, x: Tensor) -> bool:
    """Whether the model, on samples like x, may have such a layer at all."""
    layers = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    return x.device.type == "cpu" and any(m.in_channels <= FEW and m.stride == (1, 1) for m in layers)


def _fits(gradient: Tensor, x: Tensor, weight: Tensor, sizes: Any, stride: Any, padding: Any, dilation: Any, *rest: Any) -> bool:
    transposed, _, groups, wanted = rest
    plain = x.dim() == 4 and set(stride) == set(dilation) == {1} and groups == 1 and not transposed and list(wanted) == [True, False, False]
    small = plain and x.shape[1] <= FEW and weight[0].numel() * gradient[:, 0].numel() <= MOST
    return small and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """[B, C, H, W]: of `gradient` [B, O, H', W'] through x [B, C, H, W] * weight [O, C, k, l]."""
    (outputs, channels, height, width), (rows, columns) = weight.shape, gradient.shape[2:]
    pixels = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
    parts = weight.permute(2, 3, 1, 0).reshape(-1, outputs) @ pixels.t()
    parts = parts.view(height, width, channels, len(x), rows, columns)
    found = gradient.new_zeros(channels, len(x), rows + height - 1, columns + width - 1)
    for i in range(height):
        for j in range(width):
            found[:, :, i : i + rows, j : j + columns] += parts[i, j]
    top, left = padding
    return found[:, :, top : top + x.shape[2], left : left + x.shape[3]].transpose(0, 1)
