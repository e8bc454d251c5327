"""Criteria against their formulas; nothing of the model moves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isogrid.core.errors import ModelError
from isogrid.core.random import generator
from isogrid.sparsity import CRITERIA, Masks, Progressive
from isogrid.sparsity.criteria import scores_of


def network():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=generator(1, "criteria", i)))
    return net.train()


def batch(n=40):
    draw = generator(0, "criteria")
    return torch.rand(n, 6, generator=draw), torch.randint(3, (n,), generator=draw)


def loss(model, x, y):
    return cross_entropy(model(x), y)


def scores(name, net, samples, seed=0, **settings):
    return scores_of(CRITERIA.make({"name": name} | settings), net, samples, loss, seed=seed, purpose=("test",))


def by_hand(net, x, y):
    """Gradients of the mean loss in eval mode."""
    net = copy.deepcopy(net).eval()
    loss(net, x, y).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def test_snip_is_weight_times_gradient_however_many_samples_a_pass_takes():
    net, (x, y) = network(), batch(300)
    for name, gradient in by_hand(net, x, y).items():
        torch.testing.assert_close(scores("snip", net, (x, y))[name], (net.get_parameter(name) * gradient).abs().detach())


def test_taylor_squares_before_it_averages():
    net, (x, y) = network(), batch(8)
    each = [by_hand(net, x[i : i + 1], y[i : i + 1]) for i in range(8)]
    found = scores("taylor", net, (x, y), batch=1)
    for name, weight in net.named_parameters():
        expected = torch.stack([(weight * gradient[name]) ** 2 for gradient in each]).mean(0)
        torch.testing.assert_close(found[name], expected.detach())
    whole = scores("taylor", net, (x, y), batch=8)
    for name, score in scores("snip", net, (x, y)).items():
        torch.testing.assert_close(whole[name], score.square())


@pytest.mark.parametrize("name", CRITERIA)
def test_scoring_moves_nothing_and_repeats_from_its_seed_alone(name):
    net, samples = network(), batch()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    first = scores(name, net, samples)
    torch.rand(5)
    again = scores(name, net, samples)
    torch.set_rng_state(state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_scores_differ_from_seed_to_seed_and_are_uniform():
    net = nn.Linear(100, 100)
    first, second = (scores("random", net, batch(), seed=seed)["weight"] for seed in (0, 1))
    assert not torch.equal(first, second)
    assert abs(float(first.mean()) - 0.5) < 0.01
    assert 0 <= float(first.min()) < 0.001


def test_a_weight_that_is_no_number_is_named():
    net = network()
    net[4].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"magnitude.*4\.weight.*not finite"):
        scores("magnitude", net, batch())


def test_progressive_by_hand_takes_criteria_that_need_no_samples():
    net = network()
    assert Progressive(rate=0.5, criterion="random").prune(net, Masks.dense(net)).kept == 36
