"""Batch-norm statistics after a training: those of the network that it ended with, oracle: the averages written out here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import Dense, Masks, Progressive
from isogrid.training import FitConfig, fit


def problem(n=96):
    draw = generator(0, "normalisation")
    return torch.rand(n, 6, generator=draw), torch.randint(0, 3, (n,), generator=draw)


def network(seed=0, **settings):
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, **settings), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(seed, "normalisation", i)))
    return net


@pytest.mark.parametrize("epochs", [0, 1, 4])
@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_statistics_are_those_of_the_pruned_network_over_the_training_samples(epochs, momentum):
    x, y = problem()
    net = network(momentum=momentum)
    fit(net, x, y, FitConfig(epochs=epochs, batch_size=96), seed=0, pruner=Progressive(rate=0.8))  # one batch, so one exact average
    z = net[0](x)
    torch.testing.assert_close(net[1].running_mean, z.mean(0))
    torch.testing.assert_close(net[1].running_var, z.var(0))
    assert net[1].momentum == momentum


def test_the_average_is_over_batches_of_an_order_that_the_seed_gives():
    x, y = problem(90)
    found = []
    for seed in (0, 0, 1):
        net = network()
        fit(net, x, y, FitConfig(epochs=1, batch_size=32), seed=seed)
        found.append(net[1].running_var.clone())
        assert int(net[1].num_batches_tracked) == 3
        torch.testing.assert_close(net[1].running_mean, _mean_of_batches(net, x, seed, 32))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def _mean_of_batches(net, x, seed, size):
    order = torch.randperm(len(x), generator=generator(seed, "recalibration"))
    return torch.stack([net[0](x[rows]).mean(0) for rows in torch.split(order, size)]).mean(0)


def test_the_dense_control_is_measured_in_the_same_way():
    x, y = problem()
    nets = [network(), network()]
    for net, pruner in zip(nets, (Dense(), None), strict=True):
        fit(net, x, y, FitConfig(epochs=2, batch_size=32), seed=0, pruner=pruner)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].state_dict().values(), nets[1].state_dict().values(), strict=True))


def test_adversarial_training_is_recalibrated_on_its_own_samples():
    x, y = problem()
    x = x.clamp(0.3, 0.7)
    clean, robust = network(), network()
    for net, objective in ((clean, "natural"), (robust, {"name": "fast-at", "eps": 0.3})):
        fit(net, x, y, FitConfig(epochs=0, batch_size=96, objective=objective), seed=0, pruner=Dense())
    torch.testing.assert_close(clean[1].running_mean, clean[0](x).mean(0))
    assert not torch.allclose(robust[1].running_mean, clean[1].running_mean)


def test_no_training_and_no_pruner_is_no_change():
    net = network()
    before = copy.deepcopy(net.state_dict())
    fit(net, *problem(), FitConfig(epochs=0), seed=0, masks=Masks.dense(net))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Frozen(nn.Module):
    """Keeps its batch-norm in eval mode, as fine-tuning does."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x)

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self


def test_statistics_that_the_model_keeps_fixed_stay():
    net = Frozen()
    net.body[1].running_mean.fill_(0.25)
    fit(net, *problem(), FitConfig(epochs=1), seed=0)
    assert (net.body[1].running_mean == 0.25).all()
    plain = network(track_running_stats=False)
    fit(plain, *problem(), FitConfig(epochs=1), seed=0)
    assert plain[1].running_mean is None
