"""An operation's transpose is its adjoint, however it is computed."""

from __future__ import annotations

import pytest
import torch

from isogrid.certify.operations import Convolution
from isogrid.core.random import generator

GEOMETRIES = {
    "1d": (1, 3, 2, (1,), (0,), (1,), 1),
    "2d": (2, 3, 4, (1, 1), (1, 1), (1, 1), 1),
    "2d, an image": (2, 1, 4, (2, 2), (1, 0), (1, 1), 1),
    "2d, strides and gaps": (2, 4, 4, (2, 3), (2, 1), (2, 1), 2),
    "2d, pixels that nothing reads": (2, 2, 3, (3, 3), (0, 0), (1, 1), 1),
    "3d": (3, 2, 2, (1, 2, 1), (1, 0, 1), (1, 1, 2), 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kept", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("name", list(GEOMETRIES))
def test_a_convolution_is_taken_back_by_its_adjoint(name, kept, dtype):
    dims, channels, outputs, stride, padding, dilation, groups = GEOMETRIES[name]
    stream = generator(0, "convolution", len(name))
    weight = torch.randn(outputs, channels // groups, *[3] * dims, dtype=torch.float64, generator=stream)
    weight *= torch.rand(weight.shape, generator=stream) < kept
    bias = torch.randn(outputs, dtype=torch.float64, generator=stream)
    made = Convolution(weight=weight, bias=bias, stride=stride, padding=padding, dilation=dilation, groups=groups).cast(dtype)
    x = torch.randn(5, channels, *[9, 8, 7][:dims], dtype=dtype, generator=stream)
    y = made.forward(x) - made.forward(torch.zeros_like(x))
    A = torch.randn(y.shape, dtype=dtype, generator=stream)
    back = made.transposed(A, [tuple(x.shape[1:])])[0]
    assert back.shape == x.shape
    assert back.dtype == dtype
    rtol = 1e-10 if dtype == torch.float64 else 1e-3
    assert torch.allclose((A * y).flatten(1).sum(1), (back * x).flatten(1).sum(1), rtol=rtol, atol=rtol)
