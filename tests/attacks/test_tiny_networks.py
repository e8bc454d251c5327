"""The envelope of the minimum-norm attacks against exact optima: random tiny ReLU networks whose linear regions are enumerated."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from isogrid.attacks import ATTACKS, PGD, Minimise
from isogrid.core.random import generator
from isogrid.testing import exact_distance, tiny_network
from isogrid.testing.bench import converging

NETWORKS = 50
POINTS = 2
SHAPES = [((6,), 2, 3), ((4, 4), 2, 3), ((5,), 3, 2), ((6, 6), 2, 4), ((4,), 4, 2)]  # hidden layers, inputs, classes


def minimum_norm_attacks(norm, domain):
    """Every registered white-box attack that minimises this norm, in its converging form, and PGD by bisection over its radius."""
    attacks = []
    for cls in ATTACKS.values():
        choice = {"norm": norm} if "norm" in {f.name for f in dataclasses.fields(cls)} else {}
        attack = converging(cls, domain=domain, **choice)
        if attack.budget is None and attack.threat.name == norm and not attack.gradient_free:
            attacks.append(attack)
    descent = PGD(norm=norm, domain=domain, eps=0.2, steps=10, loss="margin")
    return [*attacks, Minimise(attack=descent, domain=domain, searches=8)]


def problem(seed):
    hidden, inputs, classes = SHAPES[seed % len(SHAPES)]
    net = tiny_network(seed, inputs=inputs, hidden=hidden, classes=classes)
    x = torch.rand(POINTS, inputs, dtype=torch.float64, generator=generator(seed, "tiny samples"))
    return net, x, net(x).argmax(1)


def gaps(norm, domain, seeds):
    """(envelope / optimum - 1 over the samples that can be broken, attack by attack and for the envelope; the number of failures)."""
    attacks = minimum_norm_attacks(norm, domain)
    ratios, failures, breakable = [], 0, 0
    for seed in seeds:
        net, x, y = problem(seed)
        exact = exact_distance(net, x, y, norm, domain=domain)
        found = torch.stack([attack(net, x, y, seed=seed).distance for attack in attacks])
        can = torch.isfinite(exact)
        assert bool(torch.isinf(found[:, ~can]).all()), f"network {seed}: success where the {domain} holds no adversarial point"
        below = found < exact * (1 - 1e-5)
        assert not bool(below.any()), (
            f"network {seed}: below the optimum: {[repr(a) for a, b in zip(attacks, below.any(1), strict=True) if b]}"
        )
        envelope = found.amin(0)[can]
        failures += int(torch.isinf(envelope).sum())
        breakable += int(can.sum())
        ratios.append((envelope / exact[can] - 1)[torch.isfinite(envelope)])
    return torch.cat(ratios), failures, breakable


@pytest.mark.parametrize("networks", [15, pytest.param(NETWORKS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_envelope_is_near_the_optimum_and_never_below(norm, networks):
    above, failures, breakable = gaps(norm, "box", range(networks))
    assert breakable >= 0.5 * networks * POINTS, "the networks are too easy or too hard to tell anything"
    assert failures <= 0.02 * breakable
    assert above.median() <= 0.01
    assert above.quantile(0.75) <= 0.05


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_so_it_is_in_the_free_domain(norm):
    above, failures, breakable = gaps(norm, "free", range(NETWORKS, NETWORKS + 8))
    assert failures <= 0.02 * breakable
    assert above.median() <= 0.01
    assert math.isfinite(above.max())
