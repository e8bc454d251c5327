"""SET and RigL: what goes, what comes, by what, and how many."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import SET, Masks, RigL, Static
from isogrid.training import FitConfig, OptimizerConfig, fit
from tests.sparsity.bench import network, run, samples, training

BOTH = pytest.mark.parametrize("method", [RigL, SET])


@BOTH
@pytest.mark.parametrize("start", ["reference", "scratch"])
def test_as_many_come_as_go_in_every_layer_by_the_published_share(method, start):
    net = network()
    told = training(net, 40, initial=network(3).state_dict())
    dynamics = method(sparsity=0.6, every=5, until=0.8, start=start).begin(told)
    first = dynamics.masks
    assert first.kept == round(0.4 * first.total)
    counts = {name: int(mask.sum()) for name, mask in first.items()}
    before = [first]

    def look(step):
        after = dynamics.masks
        t = (step + 1) / 32
        share = 0.3 * (1 + math.cos(math.pi * t)) / 2 if step <= 31 and (31 - step) % 5 == 0 else 0
        for name, mask in after.items():
            assert int(mask.sum()) == counts[name], "fewer or more came back than went"
            came = int((mask & ~before[0][name]).sum())
            assert came == int((~mask & before[0][name]).sum()) <= int(share * counts[name])
        before[0] = after

    _, state = run(dynamics, told, look)
    assert state["revisions"][:, 2].sum() > 10
    assert torch.equal(state["revisions"][:, 1], state["revisions"][:, 2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@BOTH
def test_touching_only_what_is_exchanged_gives_what_a_whole_revision_gives(method, optimizer, monkeypatch):
    draw = generator(0, "regrowth", "images")
    x, y = torch.rand(96, 3, 6, 6, generator=draw), torch.randint(0, 4, (96,), generator=draw)
    config = FitConfig(epochs=6, batch_size=16, optimizer=OptimizerConfig(name=optimizer, lr=0.01, weight_decay=0.01))

    def trained():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
        log = fit(net, x, y, config, seed=0, pruner=method(sparsity=0.7, every=2, drop=0.5))
        assert not net[2].weight.is_contiguous(), "the order in memory is one of the things that could go wrong"
        assert log.state["revisions"][:, 2].min() > 0
        return {**net.state_dict(), **{f"mask {name}": mask for name, mask in log.masks.items()}}

    sparingly = trained()
    monkeypatch.setattr(Static, "exchange", lambda self, masks, touched: self.revise(masks))
    wholly = trained()
    assert sparingly.keys() == wholly.keys()
    assert all(torch.equal(value, wholly[name]) for name, value in sparingly.items())


def test_an_exchange_is_allowed_where_only_deterministic_operations_are():
    torch.use_deterministic_algorithms(True)
    try:
        masks = growing(RigL, [5.0, 4.0, 0.2, 0.1, 0, 0, 0, 0], [True] * 4 + [False] * 4, [0.0, 0, 0, 0, 1, 3, 2, 0])[1]
    finally:
        torch.use_deterministic_algorithms(False)
    assert masks.tolist() == [True, True, False, False, False, True, True, False]


def growing(method, weights, alive, gradient, share=0.5):
    """One exchange on one layer of one row, whose optimizer remembers 1 of each weight."""
    net = nn.Linear(len(weights), 1, bias=False)
    net.weight.data = torch.tensor([weights])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.5)
    told = training_of(net, optimizer)
    dynamics = method(sparsity=0.0, every=1, until=1.0, drop=0.99).begin(told)
    dynamics.revise(Masks({"weight": torch.tensor([alive])}))
    net.weight.grad = torch.tensor([gradient])
    optimizer.state[net.weight]["momentum_buffer"] = torch.ones(1, len(weights))
    dynamics._exchange(0, share)
    return net.weight.detach().flatten(), dynamics.masks["weight"].flatten(), optimizer.state[net.weight]["momentum_buffer"].flatten()


def training_of(net, optimizer, seed=0):
    batch = torch.rand(4, net.in_features), torch.zeros(4).long()
    told = training(nn.Linear(12, 1), 4, seed=seed)
    return replace(told, model=net, optimizer=optimizer, masks=Masks.dense(net), batch=batch)


def test_rigl_grows_the_largest_gradients_at_zero_and_forgets_their_momentum():
    weights, masks, momentum = growing(RigL, [5.0, 4.0, 0.2, 0.1, 0, 0, 0, 0], [True] * 4 + [False] * 4, [9.0, 9, 0, 0, 1, -3, 2, 0])
    assert masks.tolist() == [True, True, False, False, False, True, True, False]
    assert weights.tolist() == [5, 4, 0, 0, 0, 0, 0, 0]
    assert momentum.tolist() == [1, 1, 0, 0, 1, 0, 0, 1], "of what died or was born nothing is remembered"


def test_what_rigl_drops_and_grows_at_once_is_as_if_untouched():
    weights, masks, momentum = growing(RigL, [5.0, 4.0, 0.2, 0.1, 0, 0, 0, 0], [True] * 4 + [False] * 4, [0.0, 0, 7, 0, 1, -3, 2, 0])
    assert masks.tolist() == [True, True, True, False, False, True, False, False]
    torch.testing.assert_close(weights[:4], torch.tensor([5.0, 4, 0.2, 0]))
    assert momentum.tolist() == [1, 1, 1, 0, 1, 0, 1, 1]


def test_what_set_drops_and_draws_at_once_starts_at_zero():
    weights, masks, momentum = growing(SET, [5.0, 4.0, 0.2, 0.1], [True] * 4, [0.0] * 4)
    assert masks.tolist() == [True] * 4, "there is no other place"
    assert weights.tolist() == [5, 4, 0, 0]
    assert momentum.tolist() == [1, 1, 0, 0]


def test_set_draws_places_evenly_and_never_one_that_lives():
    drawn = torch.zeros(12)
    for seed in range(300):
        net = nn.Linear(12, 1, bias=False)
        net.weight.data = torch.arange(12.0, 0, -1)[None]
        told = training_of(net, torch.optim.SGD(net.parameters(), lr=0.1), seed)
        dynamics = SET(sparsity=0.0, every=1, until=1.0).begin(told)
        dynamics.revise(Masks({"weight": (torch.arange(12) < 6)[None]}))
        dynamics._exchange(0, 0.34)  # two of six
        masks = dynamics.masks["weight"].flatten()
        assert int(masks.sum()) == 6
        assert masks[:4].all()
        drawn += masks
    # two of the eight places that are empty after the drop: 75 of 300 each
    assert all(45 < int(count) < 105 for count in drawn[4:])


def test_growth_is_by_the_gradient_of_the_network_with_its_masks():
    net = network()
    told = training(net, 1, optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    dynamics = RigL(sparsity=0.6, every=1, until=1.0).begin(told)
    x, y = samples()
    masked = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert all(not masked[name][~mask].any() for name, mask in dynamics.masks.items())
    told.loss(net, x, y).backward()
    dynamics.after_backward(0)
    told.optimizer.step()
    expected = {name: net.get_parameter(name).grad.abs() for name in dynamics.masks}
    before = dynamics.masks
    dynamics._exchange(0, 0.5)
    grown = 0
    for name, mask in dynamics.masks.items():
        came, out = mask & ~before[name], ~mask & ~before[name]
        grown += int(came.sum())
        if came.any() and out.any():
            assert expected[name][came].min() >= expected[name][out].max()
    assert grown > 10


@BOTH
def test_the_first_masks_are_the_references_largest_or_at_random_from_scratch(method):
    first = network(3).state_dict()
    large = method(sparsity=0.8).begin(training(network(), 4))
    for name, mask in large.masks.items():
        size = network().get_parameter(name).abs()
        if name != "4.weight" and mask.any() and not mask.all():
            assert size[mask].min() >= size[~mask].max()
    net = network()
    scratch = method(sparsity=0.8, start="scratch").begin(training(net, 4, initial=first))
    for name, mask in scratch.masks.items():
        assert torch.equal(net.get_parameter(name), first[name] * mask)
    other = method(sparsity=0.8, start="scratch").begin(training(network(), 4, initial=first, seed=1))
    assert other.masks.digest() != scratch.masks.digest()
    assert [int(m.sum()) for m in other.masks.values()] == [int(m.sum()) for m in scratch.masks.values()]


@BOTH
def test_what_was_dead_in_the_reference_does_not_grow(method):
    net = network()
    given = Masks({n: torch.rand(w.shape, generator=generator(5, n)) < 0.5 for n, w in net.named_parameters() if w.dim() > 1})
    told = training(net, 30, masks=given)
    dynamics = method(sparsity=0.7, every=2).begin(told)

    def look(step):
        assert not any((mask & ~given[name]).any() for name, mask in dynamics.masks.items())

    run(dynamics, told, look)
    assert dynamics.masks.kept == round(0.3 * given.total)
