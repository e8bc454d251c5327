"""Parts that the input does not move or that nothing reads are left out; logits, deployed rounding and certificates stay as they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.certify import make, method
from isogrid.certify.folding import folded
from isogrid.certify.intervals import deployed_range
from isogrid.certify.reading import read_graph
from isogrid.core.random import generator

from .networks import inputs, networks, randomised


def pruned(net, seed, rows=0.5, columns=0.3):
    """The network without a random share of each weight's rows and of its columns; biases stay, so that dead units are constant."""
    for i, value in enumerate(p for p in net.parameters() if p.dim() > 1):
        stream = generator(seed, "dead parts", i)
        with torch.no_grad():
            value[torch.rand(len(value), generator=stream) < rows] = 0
            value[:, torch.rand(value.shape[1], generator=stream) < columns] = 0
    return net


def shapes(graph):
    return [node.shape for node in graph.nodes if hasattr(node.operation, "weight") and node.operation.weight.dim() > 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", list(networks()))
def test_logits_and_rounding_stay(name, seed):
    net, x = pruned(networks()[name], seed), inputs(rows=40, seed=seed)
    graph = read_graph(net, x)
    small = folded(graph)
    assert torch.allclose(small(x.double()), graph(x.double()), rtol=1e-12, atol=1e-12)
    (low, high), (low_before, high_before) = (deployed_range(g, x.double()) for g in (small, graph))
    with torch.no_grad():
        z = net(x).double()
    assert bool(((low <= z) & (z <= high)).all())
    assert bool((high - low <= (high_before - low_before) * (1 + 1e-6)).all())
    assert bool((high - low >= (high_before - low_before) * 0.9).all())


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("method_name", ["ibp", "crown-ibp", "crown", "fast-lip", "norm-product"])
@pytest.mark.parametrize("name", list(networks()))
def test_certificates_stay(name, method_name, norm, monkeypatch):
    net, x = pruned(networks()[name], 1), inputs(seed=1)
    with torch.no_grad():
        y = net(x).flatten(1).argmax(1) if net(x).shape[1] > 1 else (net(x)[:, 0] > 0).long()
    certify = make({"name": method_name, "norm": norm})
    found = certify(net, x, y).radius
    monkeypatch.setattr(method, "folded", lambda graph: graph)
    before = certify(net, x, y).radius
    if method_name == "norm-product":  # parts of matrices have smaller norms
        assert bool((found >= before * (1 - 2e-3)).all())
    else:
        assert torch.allclose(found, before, rtol=2e-3, atol=1e-9)


def test_dead_units_and_what_reads_them_go():
    net = randomised(nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
    with torch.no_grad():
        net[1].weight[:3] = 0  # constant units
        net[3].weight[:, 3] = 0  # a unit that nothing reads
        net[3].weight[0, 3:] = 0  # a unit that reads constants alone
        net[5].weight[:, 5] = 0
    assert shapes(folded(read_graph(net, inputs()))) == [(4,), (4,), (3,)]


def test_dead_channels_go_through_pooling_and_flattening():
    net = randomised(
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    )
    with torch.no_grad():
        net[0].weight[[1, 4]] = 0
        net[4].weight[:, 5] = 0
    assert shapes(folded(read_graph(net, inputs()))) == [(3, 2, 2), (5,), (3,)]


def test_a_constant_channel_whose_border_shows_stays():
    net = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)))
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[0] = 0.5
    assert shapes(folded(read_graph(net, inputs()))) == [(4, 2, 2), (2, 2, 2), (3,)]
    with torch.no_grad():
        net[0].bias[0] = -0.5
    assert shapes(folded(read_graph(net, inputs()))) == [(3, 2, 2), (2, 2, 2), (3,)]


def test_a_network_that_nothing_moves_is_certified_everywhere():
    net = randomised(nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)))
    nn.init.zeros_(net[1].weight)
    x = inputs()
    y = net(x).argmax(1)
    assert bool(make({"name": "crown", "norm": "linf"})(net, x, y).radius.isinf().all())
