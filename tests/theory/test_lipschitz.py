"""Norms against numpy, ECLipsE-Fast against its published code, sampled gradients and the product, Bernoulli masks against Monte Carlo."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.norms import L2
from isogrid.core.random import generator
from isogrid.theory import eclipse_fast, expected_frobenius, expected_row_sum, matrix_norms
from isogrid.theory.local import gradients
from isogrid.theory.masks import magnitude_mask, mask_draw

seeds = st.integers(0, 2**31)


def matrix(seed, out, into, density=1.0):
    """Anisotropic: rows and columns differ by orders of magnitude."""
    random = generator(seed, "matrix")
    W = torch.randn(out, into, generator=random, dtype=torch.float64)
    W = W * torch.exp(
        torch.randn(out, 1, generator=random, dtype=torch.float64) + torch.randn(1, into, generator=random, dtype=torch.float64)
    )
    return W * (torch.rand(out, into, generator=random) < density)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 0.4, 0.0]))
def test_norms_are_numpys(seed, out, into, density):
    W = matrix(seed, out, into, density)
    found, values = matrix_norms(W), np.linalg.svd(W.numpy(), compute_uv=False)
    assert found.spectral >= values[0]
    assert found.spectral == pytest.approx(values[0], rel=1e-7)
    assert found.frobenius == pytest.approx(np.linalg.norm(W.numpy()), rel=1e-12)
    assert found.row_sum == pytest.approx(np.linalg.norm(W.numpy(), np.inf), rel=1e-12)
    live = W.numpy()[W.any(1).numpy()][:, W.any(0).numpy()]
    if live.size and np.linalg.cond(live) < 1e4:
        assert found.condition == pytest.approx(np.linalg.cond(live), rel=1e-5)


def test_dead_rows_and_columns_leave_the_condition_number_alone():
    W = torch.diag(torch.tensor([1.0, 5.0, 0.0, 0.0]))
    assert matrix_norms(W).condition == pytest.approx(5.0)
    assert math.isinf(matrix_norms(torch.ones(2, 2)).condition)
    with pytest.raises(InputError):
        matrix_norms(torch.zeros(0, 3))


def layers(seed, sizes, density=1.0):
    return [matrix(seed + i, out, into, density) for i, (into, out) in enumerate(itertools.pairwise(sizes))]


@settings(max_examples=40, deadline=None)
@given(seeds, st.lists(st.integers(1, 12), min_size=2, max_size=5), st.sampled_from([1.0, 0.5, 0.2]))
def test_eclipse_lies_between_gradients_and_the_product(seed, sizes, density):
    *hidden, last = layers(seed, sizes, density)
    found = eclipse_fast(hidden, last)
    product = math.prod(matrix_norms(W).spectral for W in hidden) * last.norm(dim=1)
    assert bool((found <= product * (1 + 1e-7) + 1e-300).all())
    net = nn.Sequential(*(module for W in hidden for module in (dense(W, seed), nn.ReLU())), dense(last, seed))
    x = torch.randn(500, sizes[0], dtype=torch.float64, generator=generator(seed, "points"))
    leaf = x.requires_grad_()
    z = net(leaf)
    for k in range(len(last)):
        (gradient,) = torch.autograd.grad(z[:, k].sum(), leaf, retain_graph=True)
        assert float(gradient.norm(dim=1).max()) <= float(found[k]) * (1 + 1e-9)


def dense(W, seed):
    layer = nn.Linear(W.shape[1], W.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(W)
        layer.bias.copy_(torch.randn(len(W), generator=generator(seed, "bias"), dtype=torch.float64))
    return layer


def test_eclipse_of_one_layer_is_the_norm_of_its_rows_and_of_a_dead_one_zero():
    W = matrix(0, 3, 4)
    assert torch.allclose(eclipse_fast([], W), W.norm(dim=1), rtol=1e-8)
    assert eclipse_fast([torch.zeros(5, 4)], torch.ones(2, 5)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("sizes", [(3, 4, 1), (6, 8, 5, 1), (4, 9, 9, 9, 1)])
def test_eclipse_is_the_published_code(sizes):
    spec = importlib.util.find_spec("eclipse_nn")
    if spec is None or spec.origin is None:
        pytest.skip("the package eclipse-nn is not installed (`make peers`)")
    path = Path(spec.origin).parent / "eclipsE_fast.py"  # its package needs a solver that this file does not
    place = importlib.util.spec_from_file_location("eclipse_fast_oracle", path)
    oracle = importlib.util.module_from_spec(place)
    place.loader.exec_module(oracle)
    weights = layers(7, sizes)
    expected = oracle.ECLipsE_Fast(weights, [0.0] * len(weights), [1.0] * len(weights))
    assert float(eclipse_fast(weights[:-1], weights[-1])[0]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("density", [0.9, 0.5, 0.1])
def test_the_closed_form_of_the_frobenius_norm_is_monte_carlos(density):
    W = matrix(3, 6, 7)
    squares = torch.stack([(W * mask_draw(W, density, 1, i)).square().sum() for i in range(4000)])
    mean, error = float(squares.mean()), float(squares.std()) / math.sqrt(len(squares))
    assert abs(mean - expected_frobenius(float(W.norm()), density) ** 2) <= 4 * error
    assert expected_frobenius(float(W.norm()), density) >= float(squares.sqrt().mean())  # Jensen
    spectral = torch.stack([torch.linalg.matrix_norm(W * mask_draw(W, density, 1, i), 2) for i in range(200)])
    assert expected_frobenius(float(W.norm()), density) >= float(spectral.mean())


def test_the_expected_row_sum_is_the_enumerated_one_and_falls_with_sparsity():
    W = torch.tensor([[1.0, 2.0], [2.5, 0.0]], dtype=torch.float64)
    exact = sum(
        max(a * 1 + b * 2, c * 2.5) * math.prod(0.3 if kept else 0.7 for kept in (a, b, c)) for a in (0, 1) for b in (0, 1) for c in (0, 1)
    )
    found = expected_row_sum(W, 0.3, draws=4000)
    assert abs(found.mean - exact) <= 4 * found.error
    W = matrix(5, 8, 9)
    means = [expected_row_sum(W, density).mean for density in (1.0, 0.8, 0.5, 0.2, 0.0)]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(matrix_norms(W).row_sum)
    assert means[-1] == 0
    with pytest.raises(InputError, match="density"):
        expected_row_sum(W, 1.5)


def test_a_sparser_mask_keeps_a_part_of_a_denser_one():
    W = torch.ones(30, 30)
    assert not bool((mask_draw(W, 0.2, 0, 1) & ~mask_draw(W, 0.6, 0, 1)).any())
    kept = magnitude_mask(matrix(1, 5, 6), 7)
    size = matrix(1, 5, 6).abs()
    assert int(kept.sum()) == 7
    assert float(size[kept].min()) >= float(size[~kept].max())


def test_gradients_are_those_of_autograd_row_by_row():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    x, y = torch.randn(6, 4, generator=generator(0, "x")), torch.tensor([0, 1, 1, 0, 1, 0])
    gaps, slopes = gradients(net.requires_grad_(False), x, y, L2)
    for i in range(6):
        leaf = x[i : i + 1].clone().requires_grad_()
        z = net(leaf)[0, 0]
        (gradient,) = torch.autograd.grad(z, leaf)
        other = 1 - int(y[i])
        assert float(gaps[i, other]) == pytest.approx(float((z if y[i] else -z).detach()), rel=1e-6, abs=1e-6)
        assert float(slopes[i, other]) == pytest.approx(float(gradient.norm()), rel=1e-6)
