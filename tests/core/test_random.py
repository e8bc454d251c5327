"""Random streams: their distribution, and that a sample's numbers are its own."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
from scipy import stats

from isogrid.core.random import Streams, derive, generator, isolated

LEVEL = 1e-4  # every test is seeded: it either always passes or never


def streams(n, seed=0):
    return Streams(seed=seed, ids=torch.arange(n))


@pytest.mark.parametrize("shape", [(20000, 1), (1, 20000), (200, 100)])
def test_uniform_is_uniform(shape):
    u = streams(shape[0]).uniform(shape, "u", dtype=torch.float64).flatten().numpy()
    assert 0 < u.min() < u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > LEVEL
    assert stats.chisquare(np.histogram(u, 64, (0, 1))[0]).pvalue > LEVEL


@pytest.mark.parametrize("shape", [(20000, 1), (1, 20000), (200, 100)])
def test_normal_and_sign(shape):
    normal = streams(shape[0]).normal(shape, "n", dtype=torch.float64).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > LEVEL
    sign = streams(shape[0]).sign(shape, "s").flatten()
    assert set(sign.tolist()) == {-1.0, 1.0}
    assert stats.binomtest(int((sign > 0).sum()), len(sign)).pvalue > LEVEL


def test_float32_draws_are_finite():
    assert bool(torch.isfinite(streams(300).normal((300, 1000), "n")).all())


@pytest.mark.parametrize("bit", range(0, 64, 7))
def test_every_bit_is_fair(bit):
    ones = int(((streams(100).bits((100, 100), "bits") >> bit) & 1).sum())
    assert stats.binomtest(ones, 10000).pvalue > LEVEL


def test_neighbours_are_independent():
    """Adjacent rows, columns, seeds and purposes: no correlation, and no shared values."""
    base = streams(200).uniform((200, 200), "a", dtype=torch.float64)
    pairs = {
        "rows": (base[1:], base[:-1]),
        "columns": (base[:, 1:], base[:, :-1]),
        "diagonals": (base[1:, :-1], base[:-1, 1:]),  # ids and elements are hashed, not added up
        "seeds": (base, streams(200, seed=1).uniform((200, 200), "a", dtype=torch.float64)),
        "purposes": (base, streams(200).uniform((200, 200), "b", dtype=torch.float64)),
        "draws": (base, streams(200).uniform((200, 200), "a", 1, dtype=torch.float64)),
    }
    for what, (first, second) in pairs.items():
        assert stats.pearsonr(first.flatten().numpy(), second.flatten().numpy()).pvalue > LEVEL, what
        assert not bool((first == second).any()), what
    assert len(torch.unique(streams(200).bits((200, 200), "a"))) == 40000


def test_a_row_does_not_depend_on_its_batch():
    whole = streams(50)
    order = torch.randperm(50, generator=generator(0, "order"))
    values = whole.normal((50, 3, 4), "x")
    assert torch.equal(whole.take(order).normal((50, 3, 4), "x"), values[order])
    assert torch.equal(whole.take(torch.tensor([7])).normal((1, 3, 4), "x")[0], values[7])
    picked = torch.arange(50) % 3 == 0
    assert torch.equal(whole.take(picked).normal((17, 3, 4), "x"), values[picked])
    assert torch.equal(Streams(seed=0, ids=torch.tensor([7, 7])).normal((2, 12), "x")[1], values[7].flatten())


def test_generators_belong_to_seed_and_purpose():
    def first(*purpose, seed=0):
        return torch.rand(4, generator=generator(seed, *purpose)).tolist()

    draws = [first("a"), first("b"), first("a", 1), first("a", seed=1), first("a1"), first()]
    assert first("a") == draws[0]
    assert len({tuple(d) for d in draws}) == len(draws)
    assert derive(0, "a", "b") != derive(0, "ab")
    assert all(0 <= derive(seed, "x") < 2**63 for seed in range(100))


def test_no_global_state_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    streams(5).normal((5, 5), "x")
    torch.rand(3, generator=generator(0, "x"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


def _global_draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


@pytest.mark.parametrize("raises", [False, True])
def test_isolated_gives_every_global_generator_the_seed_and_then_its_own_state_back(raises):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    found = []
    for purpose in (("a", 1), ("a", 1), ("a", 2)):
        with contextlib.suppress(KeyError), isolated(3, *purpose):
            found.append(_global_draws())
            if raises:
                raise KeyError
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert before[2] == random.getstate()


def test_one_isolation_in_another_does_not_move_it():
    def outer(inner):
        with isolated(0, "outer"):
            torch.rand(1)
            if inner:
                with isolated(0, "inner"):
                    _global_draws()
            return _global_draws()

    assert outer(True) == outer(False)
