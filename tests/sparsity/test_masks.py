"""Masks and their enforcement: dead weights stay exactly zero, the model stays a plain module."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.sparsity import Masks, Progressive, enforce, prunable
from isogrid.sparsity.own_loop import begin


def network(seed: int = 0) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed, "test", parameter.shape)) + 0.01)
    return net


def random_masks(net: nn.Module, share: float = 0.5, seed: int = 0) -> Masks:
    return Masks({n: torch.rand(w.shape, generator=generator(seed, n)) > share for n, w in prunable(net).items()})


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_exactly_through_1000_steps_that_began_dense(name):
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    g = generator(0, "data")
    x, y = torch.randn(32, 12, generator=g), torch.randint(0, 4, (32,), generator=g)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    for _ in range(5):  # momentum from dense steps is what revives weights under naive masking
        step()
    masks = random_masks(net)
    with enforce(masks, net, optimizer):
        for _ in range(1000):
            step()
            for key, mask in masks.items():
                assert not net.get_parameter(key)[~mask].any()
    assert all((net.get_parameter(key)[mask] != 0).any() for key, mask in masks.items())
    step()
    assert any(net.get_parameter(key)[~mask].any() for key, mask in masks.items()), "enforcement was not undone on exit"


@pytest.mark.parametrize(
    "other", [lambda net: nn.Linear(4, 3), copy.deepcopy, lambda net: net[2]], ids=["foreign", "copy", "batch norm only"]
)
def test_an_optimizer_that_moves_no_masked_weight_is_refused(other):
    net = network()
    before = copy.deepcopy(net.state_dict())
    wrong = torch.optim.SGD(other(net).parameters(), lr=0.1)
    with (
        pytest.raises(InputError, match="optimizer: got one that holds none of the masked weights"),
        enforce(random_masks(net), net, wrong),
    ):
        pass
    with pytest.raises(InputError, match="holds none of the masked weights"):
        begin(Progressive(), net, wrong, steps=3, samples=(torch.rand(4, 12), torch.arange(4)))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_frozen_weights_and_several_optimizers_are_no_mistake():
    net = network()
    masks = random_masks(net)
    optimizers = [
        torch.optim.SGD(net[0].parameters(), lr=0.1),
        torch.optim.Adam([{"params": net[2].parameters()}, {"params": net[3].weight}]),
    ]
    with enforce(masks, net, optimizers[0]), enforce(masks, net, optimizers[1]):
        pass
    for layer in (0, 3, 5):
        net[layer].weight.requires_grad_(False)
    with enforce(masks, net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)):
        pass


@pytest.mark.parametrize("masks", [{}, None, Masks({}), Masks.dense(nn.Linear(3, 2)), {"0.weight": torch.ones(16, 12, dtype=torch.bool)}])
def test_a_round_needs_the_masks_of_its_network(masks):
    with pytest.raises(InputError, match=r"masks: got (none|a dict|weight); accepted: (the masks of that network|a parameter)"):
        Progressive().prune(network(), masks)


def test_the_model_stays_plain():
    net = network()
    keys = list(net.state_dict())
    with enforce(random_masks(net), net, torch.optim.SGD(net.parameters(), lr=0.1)):
        assert list(net.state_dict()) == keys
        copy.deepcopy(net)
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


def test_save_and_load_round_trip_and_refuse_what_is_no_mask(tmp_path):
    masks = random_masks(network())
    masks.save(tmp_path / "m.safetensors")
    back = Masks.load(tmp_path / "m.safetensors")
    assert back.digest() == masks.digest()
    assert back.kept == masks.kept
    with pytest.raises(InputError, match=r"torch\.bool"):
        Masks({"a": torch.ones(2)})
    with pytest.raises(InputError, match="a parameter of the model"):
        Masks({"nope": torch.ones(2, dtype=torch.bool)}).apply(network())
    with pytest.raises(InputError, match="shape"):
        Masks({"0.weight": torch.ones(2, dtype=torch.bool)}).apply(network())


def test_digest_sees_every_bit():
    masks = random_masks(network())
    flipped = {n: m.clone() for n, m in masks.items()}
    flipped["5.weight"][0, 0] ^= True
    assert Masks(flipped).digest() != masks.digest()


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(0.05, 0.95), rounds=st.integers(1, 25), seed=st.integers(0, 10))
def test_progressive_is_monotone_removes_the_smallest_and_keeps_a_weight_per_class(rate, rounds, seed):
    net = network(seed)
    masks = Masks.dense(net)
    for _ in range(rounds):
        new = Progressive(rate=rate).prune(net, masks)
        for name, mask in new.items():
            assert not (mask & ~masks[name]).any(), "a removed weight came back"
            removed, kept = masks[name] & ~mask, mask
            weight = net.get_parameter(name).abs()
            alive = int(masks[name].sum())
            least = len(mask) if name == "5.weight" else 1
            assert int(kept.sum()) == max(alive - int(rate * alive + 0.5), least), "the rate of each layer, which keeps its last weights"
            assert kept.any()
            if name == "5.weight":
                assert kept.any(1).all()
            elif removed.any() and int(kept.sum()) > 1:
                assert weight[removed].max() <= weight[kept].min()
        masks = new


def test_sparsity_after_k_rounds_is_the_papers():
    big = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    masks, seen = Masks.dense(big), []
    for _ in range(12):
        masks = Progressive(rate=1 / 3).prune(big, masks)
        seen.append(round(100 * masks.sparsity, 1))
    assert seen == [33.3, 55.6, 70.4, 80.2, 86.8, 91.2, 94.1, 96.1, 97.4, 98.3, 98.8, 99.2]


@pytest.mark.parametrize("value", [0, 1, -0.5, 2, True])
def test_a_rate_outside_0_1_is_refused(value):
    with pytest.raises(InputError, match="rate"):
        Progressive(rate=value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_what_is_dead_is_plus_zero_whatever_it_was_and_what_lives_keeps_its_bits(dtype):
    net = nn.Linear(6, 2).to(dtype)
    values = torch.tensor([1.5, -2.0, torch.inf, -torch.inf, torch.nan, -0.0], dtype=dtype)
    with torch.no_grad():
        net.weight[:] = values
    Masks({"weight": torch.tensor([[True] * 6, [False] * 6])}).apply(net)
    assert torch.equal(net.weight[0].view(torch.uint8), values.view(torch.uint8))
    assert not bool(net.weight[1].contiguous().view(torch.uint8).any())
