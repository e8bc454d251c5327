"""Flying Bird: how much moves at a revision, in which way, and for how long."""

from __future__ import annotations

import math

import pytest
import torch

from isogrid.core.errors import InputError
from isogrid.sparsity import FlyingBird
from tests.sparsity.bench import network, run, training


@pytest.mark.parametrize("growth", ["random", "gradient"])
def test_half_is_exchanged_at_first_and_nothing_at_the_end(growth):
    net, steps = network(), 40
    told = training(net, steps)
    dynamics = FlyingBird(sparsity=0.5, every=4, growth=growth).begin(told)
    counts = {name: int(mask.sum()) for name, mask in dynamics.masks.items()}
    exchanged = {}

    original = dynamics._exchange

    def exchange(step, share):
        exchanged[step] = share
        original(step, share)

    dynamics._exchange = exchange
    masks, state = run(dynamics, told)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == counts
    assert exchanged == {s: pytest.approx(0.25 * (1 + math.cos(math.pi * (s + 1) / steps))) for s in range(3, steps, 4)}
    assert exchanged[steps - 1] == 0
    assert (state["revisions"][:, 1] == state["revisions"][:, 2]).all()
    assert state["revisions"][0, 1] > 0


def test_growth_by_the_gradient_takes_the_largest():
    net = network()
    told = training(net, 4)
    dynamics = FlyingBird(sparsity=0.8, every=4, until=1.0, growth="gradient", drop=1.0).begin(told)
    before = dynamics.masks
    told.loss(net, *told.batch).backward()
    size = net[0].weight.grad.abs().clone()
    dynamics._exchange(0, 0.5)
    born, left = dynamics.masks["0.weight"] & ~before["0.weight"], ~(dynamics.masks["0.weight"] | before["0.weight"])
    assert born.any()
    assert size[born].min() >= size[left].max()
    assert not net[0].weight[born].any()


def test_growth_is_one_of_two():
    with pytest.raises(InputError, match=r"growth: got momentum.*random"):
        FlyingBird(growth="momentum")
    assert torch.tensor(FlyingBird().drop) == 0.5
