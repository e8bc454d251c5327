"""The built-in networks: sizes, exact forward passes against formulas written out here, seeded weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.models import MODELS, build
from isogrid.sparsity import prunable

SHAPES = [((1, 28, 28), 10), ((3, 32, 32), 4), ((1, 17, 23), 2), ((2, 16, 16), 7)]


def images(shape, n=3):
    return torch.rand(n, *shape, generator=generator(0, "images"))


def arrays(model) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in model.parameters()]


@pytest.mark.parametrize(("name", "weights"), [("linear", 7840), ("lenet-300-100", 266_200), ("lenet-5", 430_500)])
def test_weight_counts_of_the_paper(name, weights):
    model = build(name, (1, 28, 28), 10)
    assert sum(p.numel() for n, p in model.named_parameters() if n.endswith("weight")) == weights


@pytest.mark.parametrize(("shape", "classes"), SHAPES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_other_shapes_and_classes(name, shape, classes):
    z = build(name, shape, classes)(images(shape))
    assert z.shape == (3, classes)
    assert z.isfinite().all()


@pytest.mark.parametrize("name", ["linear", "lenet-300-100"])
def test_tables_are_taken_too(name):
    assert build(name, (7,), 3)(torch.rand(5, 7, generator=generator(0, "x"))).shape == (5, 3)


def test_linear_is_one_affine_map():
    x = images((1, 28, 28))
    w, b = arrays(model := build("linear", (1, 28, 28), 10))
    assert np.abs(model(x).detach().numpy() - (x.flatten(1).double().numpy() @ w.T + b)).max() < 1e-5


def test_binary_linear_trains_by_the_softplus_loss():
    x, y = images((1, 28, 28), 6), torch.tensor([0, 1, 1, 0, 1, 0])
    w, b = arrays(model := build("linear", (1, 28, 28), 2))
    z = model(x)
    assert (z[:, 0] == 0).all()
    score = x.flatten(1).double().numpy() @ w[0] + b[0]
    assert np.abs(z[:, 1].detach().numpy() - score).max() < 1e-5
    softplus = np.mean([math.log1p(math.exp(-s if label else s)) for s, label in zip(score, y.tolist(), strict=True)])
    assert nn.functional.cross_entropy(z, y).item() == pytest.approx(softplus, rel=1e-5)


def test_lenet_300_100_forward():
    x = images((1, 28, 28))
    w1, b1, w2, b2, w3, b3 = arrays(model := build("lenet-300-100", (1, 28, 28), 10))
    h = np.maximum(x.flatten(1).double().numpy() @ w1.T + b1, 0)
    z = np.maximum(h @ w2.T + b2, 0) @ w3.T + b3
    assert np.abs(model(x).detach().numpy() - z).max() < 1e-5


def convolve(x, w, b):
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("ncijhw,ochw->noij", windows, w) + b[:, None, None]


def pool(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def test_lenet_5_forward_has_no_relu_after_its_convolutions():
    x = images((1, 28, 28))
    w1, b1, w2, b2, w3, b3, w4, b4 = arrays(model := build("lenet-5", (1, 28, 28), 10))
    features = pool(convolve(pool(convolve(x.double().numpy(), w1, b1)), w2, b2))
    assert (features < 0).any()
    z = np.maximum(features.reshape(3, -1) @ w3.T + b3, 0) @ w4.T + b4
    assert np.abs(model(x).detach().numpy() - z).max() < 1e-5


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_depend_on_the_seed_alone_and_no_global_state_moves(name):
    state = torch.get_rng_state()
    one = build(name, (1, 28, 28), 10, seed=3)
    torch.manual_seed(99)
    again, other = build(name, (1, 28, 28), 10, seed=3), build(name, (1, 28, 28), 10, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(prunable(one).values(), prunable(other).values(), strict=True))
    torch.set_rng_state(state)
    build(name, (1, 28, 28), 10, seed=3)
    assert torch.equal(state, torch.get_rng_state())


def test_initial_weights_have_pytorchs_own_distribution():
    ours = build("lenet-300-100", (1, 28, 28), 10)[1].weight
    bound = 1 / math.sqrt(784)
    assert ours.abs().max() <= bound
    assert ours.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert ours.mean().item() == pytest.approx(0, abs=4 * bound / math.sqrt(3 * ours.numel()))


def test_layers_of_equal_size_get_different_weights():
    model = build("lenet-5", (20, 28, 28), 10)
    assert not torch.equal(model[0].weight.flatten()[:500], model[2].weight.flatten()[:500])


@pytest.mark.parametrize("shape", [(784,), (1, 15, 28), (28, 28)])
def test_lenet_5_refuses_what_is_no_image(shape):
    with pytest.raises(InputError, match="16x16 or larger"):
        build("lenet-5", shape, 10)
