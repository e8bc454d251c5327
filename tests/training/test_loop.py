"""The training loop: it learns, repeats itself to the bit, obeys its masks, and says when it cannot go on."""

from __future__ import annotations

import dataclasses

import pydantic
import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.sparsity import Masks, Progressive
from isogrid.training import EarlyStop, FitConfig, OptimizerConfig, fit


def problem(n: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(0, "problem")
    x = torch.rand(n, 10, generator=g)
    return x, (x @ torch.randn(10, 3, generator=g)).argmax(1)


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=generator(1, "init", i)))
    return net


def accuracy(net, x, y):
    return (net(x).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), OptimizerConfig(name="adam", lr=1e-2), OptimizerConfig(name="adamw", lr=1e-2)])
@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_it_learns(optimizer, schedule):
    x, y = problem()
    net = network()
    before = accuracy(net, x, y)
    log = fit(net, x, y, FitConfig(epochs=40, batch_size=32, schedule=schedule, optimizer=optimizer), seed=0)
    assert accuracy(net, x, y) > max(0.9, before)
    assert log.losses[-1] < log.losses[0]
    assert not net.training
    assert all(p.grad is None for p in net.parameters())


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    x, y = problem()
    nets = [network() for _ in range(3)]
    torch.manual_seed(1)
    fit(nets[0], x, y, FitConfig(epochs=3), seed=7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    fit(nets[1], x, y, FitConfig(epochs=3), seed=7)
    assert torch.equal(state, torch.get_rng_state())
    fit(nets[2], x, y, FitConfig(epochs=3), seed=8)
    flat = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_masks_hold_through_a_fit():
    x, y = problem()
    net = network()
    masks = Progressive(rate=0.7).prune(net, Masks.dense(net))
    fit(net, x, y, FitConfig(epochs=5, optimizer=OptimizerConfig(weight_decay=1e-3)), seed=0, masks=masks)
    assert all(not net.get_parameter(n)[~m].any() for n, m in masks.items())
    assert Masks.of_zeros(net).digest() == masks.digest()


def test_early_stop_ends_on_a_plateau_only():
    x, y = problem()
    frozen = FitConfig(epochs=50, optimizer=OptimizerConfig(lr=1e-12), early_stop=EarlyStop(patience=3, min_delta=1e-3))
    assert len(fit(network(), x, y, frozen, seed=0).losses) == 4
    learning = dataclasses.replace(frozen, epochs=6, optimizer=OptimizerConfig(lr=0.05))
    assert len(fit(network(), x, y, learning, seed=0).losses) == 6


def test_zero_epochs_change_nothing_but_the_mode():
    x, y = problem(64)
    net, untouched = network(), network()
    assert fit(net, x, y, FitConfig(epochs=0), seed=0).losses == ()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), untouched.parameters(), strict=True))


def test_a_loss_that_is_not_finite_ends_with_advice():
    x, y = problem(64)
    with pytest.raises(ModelError, match=r"lower optimizer\.lr"):
        fit(network(), x, y, FitConfig(epochs=30, optimizer=OptimizerConfig(lr=1e12)), seed=0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: FitConfig(epochs=-1), "epochs"),
        (lambda: FitConfig(batch_size=0), "batch_size"),
        (lambda: FitConfig(schedule="warm"), "schedule"),
        (lambda: FitConfig(objective="robust"), "objective"),
        (lambda: OptimizerConfig(name="lion"), "optimizer"),
        (lambda: OptimizerConfig(lr=0), r"optimizer\.lr"),
        (lambda: OptimizerConfig(momentum=1), r"optimizer\.momentum"),
        (lambda: OptimizerConfig(momentum=0), r"optimizer\.nesterov"),
        (lambda: OptimizerConfig(weight_decay=-1), r"optimizer\.weight_decay"),
        (lambda: EarlyStop(patience=0), r"early_stop\.patience"),
    ],
)
def test_bad_settings_name_the_field(make, field):
    with pytest.raises(InputError, match=field):
        make()


class Written(pydantic.BaseModel):
    training: FitConfig = FitConfig()


def test_the_settings_are_parts_of_a_specification_as_they_are():
    given = {"epochs": 3, "penalty": {"name": "l1-weights", "weight": 0.1}, "optimizer": {"name": "adam"}, "early_stop": {"patience": 2}}
    read = Written.model_validate({"training": given}).training
    assert read == FitConfig(epochs=3, penalty=given["penalty"], optimizer=OptimizerConfig(name="adam"), early_stop=EarlyStop(patience=2))
    assert Written.model_validate_json(Written(training=read).model_dump_json()).training == read


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"epoch": 3}, ("training", "epoch")),
        ({"optimizer": {"rate": 3}}, ("training", "optimizer", "rate")),
        ({"early_stop": {"epochs": 3}}, ("training", "early_stop", "epochs")),
        ({"epochs": "many"}, ("training", "epochs")),
        ({"optimizer": {"lr": float("nan")}}, ("training", "optimizer", "lr")),
        ({"optimizer": {"lr": -1}}, ("training", "optimizer")),
    ],
)
def test_unknown_keys_and_wrong_values_are_refused_there(given, where):
    with pytest.raises(pydantic.ValidationError) as caught:
        Written.model_validate({"training": given})
    assert caught.value.errors()[0]["loc"] == where
