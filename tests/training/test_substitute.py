"""The substitute: its augmentation against a formula, its queries counted, its strength on real digits between noise and white-box."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isogrid.attacks import FGS, PGD, Noise
from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.data import load
from isogrid.models import build
from isogrid.training import FitConfig, OptimizerConfig, fit
from isogrid.training.substitute import SubstituteConfig, blackbox, labels_of, train_substitute

SHORT = FitConfig(epochs=1, batch_size=8, optimizer=OptimizerConfig(name="adam", lr=1e-12))  # the weights stay where they were


class Counting:
    """An oracle that remembers what it was asked."""

    def __init__(self, labels):
        self.labels, self.asked = labels, []

    def __call__(self, x):
        self.asked.append(x.clone())
        return self.labels(x)


def halves(x):
    return (x[:, 0] > 0.5).long()


def start(n=20, d=4):
    return torch.rand(n, d, generator=generator(0, "start"))


def line(scale=1.0):
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.3, -0.2, 0.9, 0.7], [-0.4, 0.5, 0.1, 0.2]]) * scale)
        model.bias.zero_()
    return model


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_new_points_step_along_the_sign_of_the_jacobian(scale):
    x, config = start(), SubstituteConfig(rounds=3, step=0.05, period=1, reservoir_after=9, fit=SHORT)
    got = train_substitute(halves, x, lambda: line(scale), config)
    w = line().weight.detach()
    slope = {0: (w[0] - w[1]).sign(), 1: (w[1] - w[0]).sign()}  # of p_y, for the oracle's label y; however sure the substitute is
    want = [x]
    for step in (0.05, -0.05):
        points = torch.cat(want)
        want.append(torch.stack([(p + step * slope[int(halves(p[None]))]).clamp(0, 1) for p in points]))
    assert torch.allclose(got.x, torch.cat(want), atol=1e-6)
    assert torch.equal(got.y, halves(got.x))


def test_the_oracle_is_asked_once_per_point_and_the_reservoir_bounds_it():
    oracle = Counting(halves)
    config = SubstituteConfig(rounds=5, reservoir=30, reservoir_after=1, fit=SHORT)
    got = train_substitute(oracle, start(), line, config)
    assert [len(x) for x in oracle.asked] == [20, 20, 30, 30, 30]
    assert got.queries == 130
    assert torch.equal(torch.cat(oracle.asked), got.x)
    assert len(got.agreement) == 4


def test_points_stay_in_the_box():
    x = start() * 4 - 2
    got = train_substitute(halves, x, line, SubstituteConfig(rounds=3, step=1.0, fit=SHORT), box=(-2.0, 2.0))
    assert got.x.min() >= -2
    assert got.x.max() <= 2
    assert (got.x.abs() == 2).any()


def test_equal_arguments_give_equal_bits_and_no_global_state_moves():
    def make(seed):
        return train_substitute(
            halves,
            start(),
            lambda: build("lenet-300-100", (4,), 2, 3),
            SubstituteConfig(rounds=3, reservoir=10, reservoir_after=0),
            seed=seed,
        )

    state = torch.get_rng_state()
    one, again, other = make(0), make(0), make(1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.x, again.x)
    pairs = list(zip(one.model.parameters(), again.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"oracle": lambda x: x}, InputError, "oracle: got torch.float32"),
        ({"oracle": lambda x: halves(x)[1:]}, InputError, "oracle"),
        ({"oracle": lambda x: halves(x) - 1}, InputError, "oracle"),
        ({"oracle": lambda x: None}, InputError, "oracle: got NoneType"),
        ({"oracle": lambda x: halves(x) + 1}, InputError, "the model has 2 classes"),
        ({"x": torch.zeros(0, 4)}, InputError, "substitute x"),
        ({"x": torch.full((3, 4), torch.nan)}, InputError, "substitute x"),
        ({"factory": lambda: None}, InputError, "substitute: got NoneType"),
        ({"factory": lambda: nn.Linear(5, 2)}, ModelError, "forward raised"),
    ],
)
def test_unusable_arguments_are_refused(arguments, error, said):
    given = {"oracle": halves, "x": start(), "factory": line, "config": SubstituteConfig(rounds=2, fit=SHORT)} | arguments
    with pytest.raises(error, match=said):
        train_substitute(**given)


@pytest.mark.parametrize("change", [{"rounds": 0}, {"rounds": 1.5}, {"step": 0.0}, {"period": 0}, {"reservoir": 0}, {"step": float("nan")}])
def test_unusable_settings_are_refused_by_name(change):
    with pytest.raises(InputError, match=f"substitute.{next(iter(change))}"):
        SubstituteConfig(**change)


def test_on_digits_transfer_lies_between_noise_and_white_box():
    split = load("digits")
    target = build("lenet-300-100", split.train.shape, 10, 0)
    fit(target, split.train.x, split.train.y, FitConfig(epochs=12), seed=0)
    before = [p.clone() for p in target.parameters()]
    mine, x, y = split.test.x[:100], split.test.x[100:], split.test.y[100:]
    substitute = train_substitute(labels_of(target), mine, lambda: build("lenet-300-100", split.train.shape, 10, 7))
    attacks = [FGS(eps=0.15), PGD(eps=0.15, steps=20)]
    found = blackbox(target, substitute.model, attacks, x, y)
    assert found.agreement > 0.85
    clean = float((labels_of(target)(x) == y).double().mean())
    noise = float(Noise(norm="linf", eps=0.15)(target, x, y).robust.double().mean())
    for attack, outcome in zip(attacks, found.transferred, strict=True):
        moved, white = (float(o.robust.double().mean()) for o in (outcome, attack(target, x, y)))
        assert white < moved < clean
        assert moved < noise
        assert outcome.backwards.sum() == 0
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, target.parameters(), strict=True))
