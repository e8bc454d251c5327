"""Norms of unrolled layers against numpy, constants against sampled gradients and against each other, on networks of every kind."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from isogrid.certify import lipschitz
from isogrid.certify.ball import Ball
from isogrid.certify.bounds import Bounder, margin_rows
from isogrid.certify.fast_lip import margin_gradients, stable_share
from isogrid.certify.lipschitz import Everywhere
from isogrid.certify.reading import read_graph
from isogrid.core.norms import L2, LINF
from isogrid.core.random import generator
from isogrid.theory import eclipse_fast
from tests.certify.networks import inputs, networks, perturbed, randomised

CONVOLUTIONS = [
    nn.Conv2d(2, 3, 3),
    nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False),
    nn.Conv2d(2, 3, 2, padding=2, dilation=2),
    nn.Conv2d(2, 3, (1, 4), stride=(1, 2), padding=(0, 1)),
    nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)),
    nn.Sequential(nn.Conv2d(2, 3, 2), nn.AvgPool2d(2, 1), nn.Flatten(), nn.LazyLinear(7)),
]


def with_relu(part):
    net = nn.Sequential(part, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    net(inputs())
    return randomised(net.eval(), 1), inputs()


def unrolled(part, x):
    """The matrix of the affine map, from autograd."""
    copied = copy.deepcopy(part).double()
    return torch.autograd.functional.jacobian(lambda v: copied(v[None]).flatten(), x[0].double()).flatten(1).numpy()


@pytest.mark.parametrize("part", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("unroll", [True, False])
def test_the_norms_of_a_layer_are_those_of_its_unrolled_matrix(part, unroll, monkeypatch):
    net, x = with_relu(part)
    if not unroll:
        monkeypatch.setattr(lipschitz, "SIDE", 0)
    layer = Everywhere(graph=read_graph(net, x)).layers[0]
    W = unrolled(part, x)
    spectral = np.linalg.norm(W, 2)
    assert layer.norms.exact == unroll
    assert layer.norms.spectral >= spectral * (1 - 1e-12)
    assert layer.norms.spectral <= spectral * (1 + 1e-6 if unroll else 5)
    folded = "Linear" not in str(part)
    if unroll or folded:
        assert layer.norms.frobenius == pytest.approx(np.linalg.norm(W), rel=1e-9)
        assert layer.norms.row_sum == pytest.approx(np.linalg.norm(W, np.inf), rel=1e-9)
    assert layer.norms.row_sum >= np.linalg.norm(W, np.inf) * (1 - 1e-9)
    if unroll and np.linalg.matrix_rank(W) == min(W.shape):
        assert layer.norms.condition == pytest.approx(np.linalg.cond(W), rel=1e-4)


def test_the_torus_bounds_a_kernel_whose_reshaped_norm_does_not():
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    conv.weight.data.copy_(kernel)
    W = unrolled(conv, torch.zeros(1, 1, 9, 9))
    operation = lipschitz.Convolution(weight=kernel, bias=kernel.new_zeros(1), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)
    bound = lipschitz.torus_norm(operation, kernel, (1, 9, 9))
    assert kernel.flatten(1).norm() < np.linalg.norm(W, 2) <= bound <= 9 * (1 + 1e-6)


def sampled(net, x, y, radius, norm, domain, count=200):
    """The largest dual norm of grad (g_y - g_k) at points of the ball around one sample, per k: [C - 1]."""
    model = net.double()
    points = perturbed(x, torch.full((1,), radius, dtype=torch.float64), norm.name, domain, count)[0].requires_grad_()
    z = model(points)
    z = nn.functional.pad(z, (1, 0)) if z.shape[1] == 1 else z
    found = []
    for k in range(z.shape[1]):
        if k != int(y):
            (gradient,) = torch.autograd.grad((z[:, y] - z[:, k]).sum(), points, retain_graph=True)
            found.append(norm.dual_size(gradient).max())
    net.float()
    return torch.stack(found)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_no_gradient_exceeds_the_constants_and_they_keep_their_order(name, sparsity):
    net, x = networks(sparsity)[name], inputs()
    y, graph = torch.arange(len(x)) % 2, read_graph(net, x)
    everywhere, maxima = Everywhere(graph=graph), any(node.hull is not None for node in graph.nodes)
    chain = everywhere.chain()
    for norm, kinds in ((L2, ("spectral", "frobenius")), (LINF, ("absolute", "row_sum"))):
        for radius, domain in ((0.05, "box"), (1.0, "free"), (30.0, "free")):
            limits = {"low": 0.0, "high": 1.0} if domain == "box" else {}
            ball = Ball(x=x.double(), radius=torch.full((len(x),), radius, dtype=torch.float64), norm=norm, **limits)
            sweep = Bounder(graph=graph, norm=norm).sweep(ball, "lines")
            near = margin_gradients(sweep, y).sizes(norm)
            for i in range(len(x)):
                seen = sampled(net, x[i : i + 1], y[i], radius, norm, domain)
                rows = margin_rows(graph, y[i : i + 1])[0]
                tight, loose = (everywhere.constants(rows, kind) for kind in kinds)
                assert bool((seen <= near[i] * (1 + 1e-9)).all())
                assert bool((seen <= tight * (1 + 1e-9)).all())
                assert bool((tight <= loose * (1 + 1e-6)).all())
                if norm is LINF and not maxima:
                    assert bool((near[i] <= tight * (1 + 1e-6)).all())
                if norm is L2 and chain is not None:
                    between = eclipse_fast(chain[:-1], rows @ chain[-1])
                    assert bool((seen <= between * (1 + 1e-9)).all())
                    assert bool((between <= tight * (1 + 1e-6)).all())


def test_a_chain_is_the_network():
    net, x = networks()["mlp"], inputs()
    chain = Everywhere(graph=read_graph(net, x)).chain()
    assert [tuple(W.shape) for W in chain] == [(8, 32), (8, 8), (3, 8)]
    assert all(torch.equal(W, layer.weight.double()) for W, layer in zip(chain, (net[1], net[3], net[5]), strict=True))
    assert Everywhere(graph=read_graph(networks()["pooled"], x)).chain() is None
    assert Everywhere(graph=read_graph(networks()["residual"], x)).chain() is None


def test_where_no_unit_is_undecided_the_local_constant_is_the_gradient():
    net, x = networks()["mlp"], inputs()
    y, graph = net(x).argmax(1), read_graph(net, x)
    for norm in (L2, LINF):
        ball = Ball(x=x.double(), radius=torch.full((len(x),), 1e-7, dtype=torch.float64), norm=norm)
        sweep = Bounder(graph=graph, norm=norm).sweep(ball, "lines")
        assert bool((stable_share(sweep) == 1).all())
        near = margin_gradients(sweep, y).sizes(norm)
        for i in range(len(x)):
            assert torch.allclose(near[i], sampled(net, x[i : i + 1], y[i], 1e-7, norm, "free", 1), rtol=1e-6)


def test_disjoint_pooling_has_factor_one_and_overlapping_pooling_the_root_of_its_overlaps():
    for pool, factor in ((nn.MaxPool2d(2), 1.0), (nn.MaxPool2d(3, 1), 3.0)):
        net = nn.Sequential(pool, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        x = torch.rand(4, 1, 6, 6, generator=generator(0, "pool"))
        net(x)
        graph = read_graph(net.eval(), x)
        row = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
        found = Everywhere(graph=graph).constants(row, "spectral")
        assert float(found) == pytest.approx(factor * float(net[3].weight[0].detach().double().norm()), rel=1e-6)
        assert float(Everywhere(graph=graph).constants(row, "row_sum")) == pytest.approx(
            float(net[3].weight[0].detach().abs().sum()), rel=1e-5
        )


def test_a_network_without_live_weights_has_constants_of_zero():
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3))
    net[1].weight.data.zero_()
    graph = read_graph(net, inputs())
    everywhere = Everywhere(graph=graph)
    assert everywhere.constants(torch.eye(3, dtype=torch.float64), "spectral").tolist() == [0.0] * 3
    assert math.isnan(everywhere.layers[0].norms.condition)


@pytest.mark.parametrize("domain", ["box", "free"])
@pytest.mark.parametrize("norm", [L2, LINF])
def test_bounds_at_radius_zero_are_values(norm, domain):
    net, x = networks()["mlp"], inputs()
    graph = read_graph(net, x)
    limits = {"low": 0.0, "high": 1.0} if domain == "box" else {}
    ball = Ball(x=x.double(), radius=torch.zeros(len(x), dtype=torch.float64), norm=norm, **limits)
    for A in (
        torch.randn(len(x), 5, 32, dtype=torch.float64, generator=generator(0, "A")),
        torch.zeros(len(x), 5, 32, dtype=torch.float64),
    ):
        assert torch.allclose(ball.lowest(A), ball.centre(A), atol=1e-12)
    sweep = Bounder(graph=graph, norm=norm).sweep(ball, "lines")
    assert torch.allclose(sweep.low[-1], net.double()(x.double()), atol=1e-4)
