"""Sparse variational dropout: its divergence, its noise, and that what carries no signal goes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import Masks, VariationalDropout
from isogrid.sparsity.variational import K1, K2, K3, _noise, log_alpha, pull
from isogrid.training import FitConfig, OptimizerConfig, fit
from tests.sparsity.bench import network, run, training


def divergence(ratio):
    """The published fit to KL(log alpha), up to nothing: 0 at alpha = infinity."""
    return K1 - K1 * torch.sigmoid(K2 + K3 * ratio) + 0.5 * torch.log1p(torch.exp(-ratio))


@settings(max_examples=100, deadline=None)
@given(theta=st.floats(-2, 2).filter(lambda v: abs(v) > 1e-3), log_variance=st.floats(-12, 4))
def test_the_pull_is_the_derivative_of_the_fit(theta, log_variance):
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (theta, log_variance))
    expected = torch.autograd.grad(divergence(log_alpha(a, b)), (a, b))
    torch.testing.assert_close(pull(a.detach(), b.detach()), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ratio", [-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 5.0])
def test_the_fit_is_the_divergence_from_the_log_uniform_prior(ratio):
    """KL = E log|e| - log(alpha) / 2 + const over e ~ N(1, alpha), which at alpha = infinity is (-gamma - log 2) / 2 + const = 0."""

    def expectation(alpha):
        scale = math.sqrt(alpha)
        # with e = 1 + scale z; the singularity at z = -1 / scale is a point of the grid
        f = lambda z: math.log(abs(1 + scale * z)) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
        near = max(-12.0, -1 / scale)
        return quad(f, -12.0, near, limit=400)[0] + quad(f, near, 12.0, limit=400)[0]

    exact = expectation(math.exp(ratio)) - ratio / 2 + (np.euler_gamma + math.log(2)) / 2
    assert float(divergence(torch.tensor(ratio, dtype=torch.float64))) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 3), (6,)),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1, padding_mode="circular"), (2, 5, 5)),
        (nn.Conv1d(4, 4, 2, groups=2), (4, 5)),
    ],
)
def test_outputs_are_drawn_as_if_weights_were(layer, shape):
    draw = generator(0, "noise")
    x = torch.rand(1, *shape, generator=draw)
    log_variance = torch.randn(layer.weight.shape, generator=draw) - 1
    theta = layer.weight.detach().clone()
    mean, many = layer(x).detach(), 4000
    torch.manual_seed(0)
    with torch.no_grad():
        by_weights = []
        for _ in range(many):
            layer.weight.copy_(theta + (log_variance / 2).exp() * torch.randn_like(theta))
            by_weights.append(layer(x))
        layer.weight.copy_(theta)
    handle = layer.register_forward_hook(_noise(layer.weight, log_variance))
    by_outputs = layer(x.expand(many, *shape)).detach()
    with torch.no_grad():
        assert torch.equal(layer(x), mean), "a pass that nothing learns from has no noise"
    handle.remove()
    expected = torch.cat(by_weights)
    spread = expected.std(0)
    assert ((by_outputs.mean(0) - mean[0]).abs() < 5 * spread / many**0.5).all()
    torch.testing.assert_close(by_outputs.std(0), spread, rtol=0.08, atol=0)


def irrelevant(n=512):
    """Twelve inputs, of which the first two decide; a network on them, and samples."""
    draw = generator(0, "irrelevant")
    x = torch.rand(n, 12, generator=draw)
    return x, (x[:, 0] > x[:, 1]).long()


CONFIG = FitConfig(epochs=60, batch_size=64, optimizer=OptimizerConfig(name="adam", lr=0.01))


class Shared(nn.Module):
    """A layer whose weight is used without a call of it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.last(nn.functional.linear(x, self.first.weight).relu())


@pytest.mark.parametrize("net", [nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)), Shared()])
def test_what_carries_no_signal_goes_and_what_does_stays(net):
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(0, "start", i)) / 3)
    x, y = irrelevant()
    log = fit(net, x, y, replace(CONFIG, epochs=100), seed=0, pruner=VariationalDropout(strength=2.0))
    first = next(iter(log.masks.values())).float()
    assert first[:, 2:].mean() < 0.2 < 0.35 < first[:, :2].mean()
    with torch.no_grad():
        assert (net(x).argmax(1) == y).float().mean() > 0.95


def test_more_strength_makes_it_sparser_and_none_keeps_what_the_loss_wants():
    kept = []
    for strength in (0.0, 0.1, 3.0):
        net = network()
        x = torch.rand(512, 12, generator=generator(0, "x"))
        kept.append(fit(net, x, x[:, :4].argmax(1), CONFIG, seed=0, pruner=VariationalDropout(strength=strength)).masks.kept)
    assert kept[0] > kept[1] > kept[2]


def test_nothing_is_removed_before_its_time_and_nothing_moves_the_masks_after():
    net = network()
    told = training(net, 40)
    dynamics, seen = VariationalDropout(until=0.5, travel=60.0).begin(told), []
    _, state = run(dynamics, told, lambda step: seen.append((dynamics.busy, dynamics.masks.digest())))
    assert seen[:19] == [(True, Masks.dense(net).digest())] * 19
    assert len(set(seen[19:])) == 1
    assert not seen[19][0]
    assert state["revisions"].tolist() == [[19, Masks.dense(net).total - dynamics.masks.kept, 0]]


class Functional(nn.Linear):
    """As a linear layer, written by hand."""

    def forward(self, x):
        return x @ self.weight.T


@pytest.mark.parametrize("kind", [nn.Linear, Functional])
def test_the_mean_gradient_of_the_noise_is_that_of_the_expected_loss(kind):
    """E (x w)^2 / 2 = ((x theta)^2 + x^2 sigma^2) / 2, so by log sigma^2 it is x^2 sigma^2 / 2: whether outputs are drawn or weights."""
    net = kind(12, 1, bias=False)
    x = torch.rand(32, 12, generator=generator(0, "x"))
    pruner = VariationalDropout(strength=0.0, travel=1e-9, noise=-1.0)
    told = replace(training(nn.Linear(12, 1), 4000), model=net, masks=Masks.dense(net), batch=(x, torch.zeros(32)))
    dynamics, found = pruner.begin(told), []
    theta = net.weight.detach().clone()
    for step in range(3000):
        dynamics.before_forward(step)
        net.weight.grad = None
        (net(x).square().mean() / 2).backward()
        dynamics.after_backward(step)
        assert torch.equal(net.weight, theta)
        found.append(dynamics._log_variance["weight"].grad.flatten())
    found, expected = torch.stack(found[1:]), x.square().mean(0) * math.exp(-1.0) / 2
    assert ((found.mean(0) - expected).abs() < 4.5 * found.std(0) / 3000**0.5).all()


@pytest.mark.parametrize("net", [network(), Shared()])
def test_between_steps_the_model_is_plain_and_holds_the_means(net):
    told = training(net, 6, optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    dynamics, first = VariationalDropout().begin(told), [p.detach().clone() for p in net.parameters()]

    def look(step):
        assert not any(module._forward_hooks for module in net.modules())
        assert not dynamics.busy or all(torch.equal(p, before) for p, before in zip(net.parameters(), first, strict=True))

    run(dynamics, told, look)
