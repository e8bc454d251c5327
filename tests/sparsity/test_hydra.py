"""HYDRA against the published construction: a module whose weight is w o top-k(|s|), with a straight-through gradient for s."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from isogrid.sparsity import Hydra, Masks, OneShot
from tests.sparsity.bench import network, run, samples, training

LINEAR = (0, 2, 4)


class TopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, score, count):
        size, keep = score.abs().clone(), torch.zeros(score.numel())
        if len(score) == 4:  # every class keeps its best
            size[torch.arange(4), size.argmax(1)] = torch.inf
        keep[size.flatten().argsort()[score.numel() - count :]] = 1
        return keep.view_as(score)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Subnet(nn.Module):
    """The network of the bench with scores, its weights and biases constants."""

    def __init__(self, net, counts):
        super().__init__()
        self.layers = [(net[i].weight.detach().clone(), net[i].bias.detach().clone()) for i in LINEAR]
        first = [math.sqrt(6 / w.shape[1]) * w / w.abs().max() for w, _ in self.layers]
        self.scores, self.counts = nn.ParameterList([nn.Parameter(score) for score in first]), counts

    def masks(self):
        return [TopK.apply(score, count) for score, count in zip(self.scores, self.counts, strict=True)]

    def forward(self, x):
        for i, ((w, b), mask) in enumerate(zip(self.layers, self.masks(), strict=True)):
            x = nn.functional.linear(x, w * mask, b)
            x = x.relu() if i < 2 else x
        return x


@pytest.mark.parametrize("kind", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}])
def test_scores_and_weights_move_as_published(kind):
    net, steps = network(), 12
    told = training(net, steps, optimizer=torch.optim.SGD(net.parameters(), lr=5.0, **kind))
    dynamics = Hydra(sparsity=0.75, learn=0.5).begin(told)
    subnet = Subnet(network(), [int(mask.sum()) for mask in dynamics.masks.values()])
    optimizer = torch.optim.SGD(subnet.parameters(), lr=5.0, **kind)
    x, y = samples()
    learned, changed = [], 0
    for _ in range(steps // 2):
        before = [mask.bool() for mask in subnet.masks()]
        optimizer.zero_grad()
        nn.functional.cross_entropy(subnet(x), y).backward()
        optimizer.step()
        learned.append([mask.bool() for mask in subnet.masks()])
        changed += sum(int((a != b).sum()) for a, b in zip(before, learned[-1], strict=True))
    assert changed > 10  # the learning rate is such that masks do move

    def look(step):
        now = learned[min(step, len(learned) - 1)]
        for mask, expected, i in zip(dynamics.masks.values(), now, LINEAR, strict=True):
            assert torch.equal(mask, expected)
            if step < len(learned):
                torch.testing.assert_close(net[i].weight, subnet.layers[LINEAR.index(i)][0] * expected)
                assert torch.equal(net[i].bias, network()[i].bias)

    masks, state = run(dynamics, told, look)
    assert not torch.equal(net[0].bias, network()[0].bias)  # fine-tuned in the second half
    assert state["revisions"][:, 1:].sum() == changed
    assert state["revisions"][:, 0].max() < steps // 2
    assert masks.kept == round(0.25 * masks.total)


def test_fine_tuning_starts_with_nothing_remembered_of_scores():
    net, steps = network(), 8
    told = training(net, steps, optimizer=torch.optim.Adam(net.parameters(), lr=1e-2))
    dynamics = Hydra(sparsity=0.5, learn=0.5).begin(told)
    counts = []
    run(dynamics, told, lambda step: counts.append(float(told.optimizer.state[net[0].weight].get("step", torch.tensor(0.0)))))
    assert counts == [1, 2, 3, 0, 1, 2, 3, 4]


def test_without_learning_it_is_one_shot_magnitude():
    found = []
    for pruner in (Hydra(sparsity=0.8, learn=0.0), OneShot(sparsity=0.8)):
        net = network()
        told = training(net, 5)
        masks, _ = run(pruner.begin(told), told)
        found.append((masks.digest(), [p.detach().clone() for p in net.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_it_does_not_stop_early_while_scores_learn():
    told = training(network(), 10)
    dynamics = Hydra(learn=0.5).begin(told)
    busy = []
    run(dynamics, told, lambda step: busy.append(dynamics.busy))
    assert busy == [True] * 4 + [False] * 6


def test_what_the_reference_has_lost_stays_lost():
    net = network()
    first = Masks({name: torch.arange(mask.numel()).view(mask.shape) % 3 > 0 for name, mask in Masks.dense(net).items()})
    told = training(net, 6, masks=first)
    masks, _ = run(Hydra(sparsity=0.5).begin(told), told)
    assert not any(bool((masks[name] & ~first[name]).any()) for name in first)
    assert masks.kept == round(0.5 * masks.total)
