"""The input gradient of a convolution of few channels: autograd's own up to rounding, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from isogrid.core.random import generator
from isogrid.training import first_layer
from isogrid.training.ascent import ascend, ball
from isogrid.training.first_layer import FewChannels


def gradients(layer, x):
    """Autograd's own, and that inside."""
    z = layer(x.requires_grad_())
    weights = torch.randn(z.shape, generator=generator(0, "weights"), dtype=z.dtype)
    (own,) = torch.autograd.grad(z, x, weights, retain_graph=True)
    with FewChannels():
        (found,) = torch.autograd.grad(z, x, weights)
    return own, found


@pytest.fixture
def taken(monkeypatch):
    """How often the short way was taken."""
    calls = []
    inner = first_layer.input_gradient
    monkeypatch.setattr(first_layer, "input_gradient", lambda *args: calls.append(args) or inner(*args))
    return calls


@settings(deadline=None, max_examples=40)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 7),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    last=st.booleans(),
)
def test_it_is_the_gradient(channels, outputs, kernel, padding, size, last):
    draw = generator(0, "first layer")
    x = torch.rand(3, channels, *size, generator=draw, dtype=torch.float64)
    weight = torch.randn(outputs, channels, *kernel, generator=draw, dtype=torch.float64)
    order = torch.channels_last if last else torch.contiguous_format
    x, weight = x.contiguous(memory_format=order), weight.contiguous(memory_format=order)
    own, found = gradients(lambda given: F.conv2d(given, weight, padding=padding), x)
    assert found.shape == x.shape
    torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "channels", "times"),
    [
        (nn.Conv2d(1, 3, 3), 1, 1),
        (nn.Conv2d(3, 3, 3, padding="same"), 3, 1),
        (nn.Conv2d(5, 3, 3), 5, 0),
        (nn.Conv2d(2, 3, 3, stride=2), 2, 0),
        (nn.Conv2d(2, 3, 3, dilation=2), 2, 0),
        (nn.Conv2d(2, 4, 3, groups=2), 2, 0),
        (nn.ConvTranspose2d(2, 4, 3), 2, 0),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.MaxPool2d(2)), 2, 2),
    ],
)
def test_it_takes_what_it_is_for_and_leaves_the_rest(layer, channels, times, taken):
    own, found = gradients(layer.requires_grad_(False), torch.rand(3, channels, 8, 8))
    assert len(taken) == times
    assert torch.equal(own, found) if not times else torch.allclose(own, found, rtol=1e-5, atol=1e-6)


def test_a_product_that_is_too_large_and_gradients_of_weights_are_left_alone(taken, monkeypatch):
    layer, x = nn.Conv2d(1, 3, 3), torch.rand(2, 1, 8, 8, requires_grad=True)
    with FewChannels():
        torch.autograd.grad(layer(x).sum(), [x, layer.weight])
    monkeypatch.setattr(first_layer, "MOST", 9 * 2 * 36 - 1)
    own, found = gradients(layer.requires_grad_(False), torch.rand(2, 1, 8, 8))
    assert torch.equal(own, found)
    assert taken == []
    monkeypatch.setattr(first_layer, "MOST", 9 * 2 * 36)
    gradients(layer, torch.rand(2, 1, 8, 8))
    assert len(taken) == 1


def test_an_ascent_takes_it_once_a_step_where_there_is_such_a_layer(taken):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4))
    x = torch.rand(5, 1, 8, 8)
    ascend(net, x, torch.sign, ball(x, 0.1, "l2", (0.0, 1.0)), steps=3, step=0.05)
    assert len(taken) == 3
    assert all(p.requires_grad for p in net.parameters())
    maps = torch.rand(5, 3, 6, 6)
    ascend(net[2:], maps, torch.sign, ball(maps, 0.1, "l2", (0.0, 1.0)), steps=3, step=0.05)
    assert len(taken) == 3
