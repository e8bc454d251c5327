"""Pruners in loops of one's own: the same bits as when `fit`'s hooks are called one by one."""

from __future__ import annotations

import contextlib
import copy
import dataclasses

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.sparsity import PRUNERS, Cubic, Masks, Surgery, prune_during
from tests.sparsity.bench import network, run, samples, training

STEPS = 24


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_does_what_it_does_in_fit(name):
    pruner, first = PRUNERS[name](), network().state_dict()
    expected = network()
    told = dataclasses.replace(training(expected, STEPS, initial=first), purpose=())
    torch.manual_seed(7)
    masks, state = run(pruner.begin(told), told)
    net, (x, y) = network(), samples()
    optimizer, seen = sgd(net), []
    torch.manual_seed(7)
    with prune_during(pruner, net, optimizer, steps=STEPS, samples=samples(32), size=64, initial=first) as pruning:
        net.register_forward_pre_hook(lambda *_: seen.append([bool(p[~m].any()) for p, m in pairs(net, pruning.masks)]))
        for _ in range(STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    ended, kept = pruning.finish()
    assert not any(any(one) for one in seen)
    assert ended.digest() == masks.digest()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), expected.parameters(), strict=True))
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], state[key]) for key in kept)


def pairs(net, masks):
    weights = dict(net.named_parameters())
    return [(weights[name], mask) for name, mask in masks.items()]


def test_nothing_is_left_behind_also_where_the_loop_breaks_off():
    net = network()
    optimizer = sgd(net)
    with contextlib.suppress(ZeroDivisionError), prune_during(Surgery(c=1.0), net, optimizer, steps=9, samples=samples(8)) as pruning:
        nn.functional.cross_entropy(net(samples()[0]), samples()[1]).backward()
        optimizer.step()
        raise ZeroDivisionError
    assert not any(bool(p[~m].any()) for p, m in pairs(net, pruning.masks))
    before = copy.deepcopy(net.state_dict())
    weight = net[0].weight
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert not torch.equal(weight[~pruning.masks["0.weight"]], before["0.weight"][~pruning.masks["0.weight"]])  # free again


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pruner": "cubic"}, "pruner"),
        ({"steps": 0}, "steps"),
        ({"size": 0}, "size"),
        ({"samples": torch.rand(4, 12)}, "samples"),
        ({"optimizer": None}, "optimizer"),
        ({"masks": {}}, "masks: got a dict"),
        ({"masks": Masks({"9.weight": torch.ones(2, dtype=torch.bool)})}, "9.weight"),
    ],
)
def test_unusable_arguments_are_one_line(change, line):
    net = network()
    given = {"pruner": Cubic(), "model": net, "optimizer": sgd(net), "steps": 5, "samples": samples(8)} | change
    with pytest.raises(InputError, match=line), prune_during(**given):
        pass


def test_a_closure_is_refused():
    net = network()
    optimizer = sgd(net)
    with pytest.raises(InputError, match="closure"), prune_during(Cubic(), net, optimizer, steps=5, samples=samples(8)):
        optimizer.step(lambda: 0.0)


def test_a_step_without_a_forward_pass_of_the_model_is_refused():
    net = network()
    optimizer = sgd(net)
    loss = nn.functional.cross_entropy(net.eval()(samples()[0]), samples()[1])
    loss.backward()
    with pytest.raises(InputError, match="no forward pass"), prune_during(Cubic(), net, optimizer, steps=5, samples=samples(8)):
        optimizer.step()


def test_the_recipes_prune(recipe):
    section = recipe("Pruning in a training loop of your own")
    (x, y), given = samples(), {}
    exec(section, given)

    def train(net, optimizer, steps=10):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

    net = network()
    given["keep_masks"](net, torch.optim.Adam(net.parameters()), train)
    assert Masks.of_zeros(net).sparsity == pytest.approx(0.5, abs=0.01)
    masks, _ = given["prune_while_training"](net, torch.optim.Adam(net.parameters()), x, y, train, 10)
    assert masks.sparsity == Masks.of_zeros(net).sparsity == pytest.approx(0.9, abs=0.01)
