"""Interval bounds enclose what they bound, and the stability loss is its formula, in value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from isogrid.core.errors import InputError, ModelError
from isogrid.core.random import generator
from isogrid.models import build
from isogrid.training import PENALTIES, FitConfig, OptimizerConfig, fit
from isogrid.training.intervals import Interval

SHAPE = (3, 16, 16)


def images(n=4, shape=SHAPE):
    return torch.rand(n, *shape, generator=generator(0, "stability"))


def shaken(model):
    """With batch-norm statistics and weights that are not 0 and 1."""
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
        for k, value in enumerate((module.weight.data, module.bias.data, module.running_mean, module.running_var)):
            value.copy_(torch.rand(value.shape, generator=generator(i, "shaken", k)) + (k == 3))
        module.weight.data[::3] *= -1
    return model.eval()


class Mixed(nn.Module):
    """Whatever else goes through: operators, pooling, shapes, a second branch."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.Linear(4, 3)
        self.pool, self.drop = nn.AvgPool2d(2), nn.Dropout(0.9)

    def forward(self, x):
        h = (1 - 2 * x) / -3 + 0.25
        h = self.pool(self.conv(h)).relu()
        h = h - 0.1 * h[:, 1:2]
        h = nn.functional.pad(h, (1, 1)) if h.size(3) < 3 else h
        return self.fc(self.drop(nn.functional.max_pool2d(h, 2).reshape(len(h), -1)))


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "vgg-like(width=0.03)", "resnet-32(width=0.2)", "mixed"])
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.2])
def test_bounds_enclose_every_logit_and_are_exact_for_a_point(name, eps):
    model, x = shaken(Mixed() if name == "mixed" else build(name, SHAPE, 3)), images()
    found = model(Interval(x - eps, x + eps))
    draw = generator(1, "inside")
    for corner in (False, True):
        for _ in range(10):
            move = 2 * torch.rand(x.shape, generator=draw) - 1
            z = model(x + eps * (move.sign() if corner else move))
            slack = 1e-4 * (1 + z.abs())
            assert (found.lower - slack <= z).all()
            assert (z <= found.upper + slack).all()
    if eps == 0:
        torch.testing.assert_close(found.lower, model(x), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.upper, model(x), atol=1e-4, rtol=1e-3)


def test_an_affine_layer_has_its_exact_range():
    layer = nn.Linear(5, 3)
    nn.init.normal_(layer.weight, generator=generator(0, "exact"))
    x, eps = images(2, (5,)), 0.3
    found = layer(Interval(x - eps, x + eps))
    torch.testing.assert_close(found.upper, layer(x) + eps * layer.weight.abs().sum(1))
    torch.testing.assert_close(found.lower, layer(x) - eps * layer.weight.abs().sum(1))


def network():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    for i, p in enumerate(net.parameters()):
        p.data.copy_(torch.randn(p.shape, generator=generator(3, "stability net", i)))
    return shaken(net)


def published(net, x, eps):
    """The formula by hand: one batch-norm, one layer without."""
    a, norm, b = net[0], net[1], net[3]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    middle = (a(x) - norm.running_mean) * scale + norm.bias
    reach = eps * a.weight.abs().sum(1) * scale.abs()
    low, high = middle - reach, middle + reach
    first = torch.tanh(1 + low * high / norm.weight.detach() ** 2)
    low, high = low.relu(), high.relu()
    middle, reach = b((low + high) / 2), (high - low) / 2 @ b.weight.abs().T
    second = torch.tanh(1 + (middle - reach) * (middle + reach))
    return -torch.cat([first, second], 1).mean()


def test_it_is_its_formula_in_value_and_gradient():
    net, x = network(), images(7, (6,))
    expected = published(net, x, 0.1)
    slopes = torch.autograd.grad(expected, [net[0].weight, net[1].weight, net[1].bias, net[3].bias])
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.train().modules()]
    with PENALTIES.make({"name": "stability", "weight": 1.0, "eps": 0.1}).on(net) as extra:
        net.eval()(x)
        net.train()
        found = extra()
    torch.testing.assert_close(found, expected)
    for slope, own in zip(slopes, torch.autograd.grad(found, [net[0].weight, net[1].weight, net[1].bias, net[3].bias]), strict=True):
        torch.testing.assert_close(own, slope)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def unstable(net, x, eps):
    box = Interval(x - eps, x + eps)
    net.eval()(box)
    return torch.cat([(low * high < 0).flatten() for low, high, _ in box.relus]).double().mean()


@pytest.mark.parametrize("objective", ["natural", {"name": "pgd-at", "eps": 0.05, "steps": 2}, {"name": "trades", "eps": 0.05, "steps": 2}])
def test_training_with_it_makes_units_stable(objective):
    x = images(128, (6,))
    y = (x @ torch.randn(6, 3, generator=generator(0, "labels"))).argmax(1)
    shares = []
    for weight in (0.0, 1.0):
        net = network()
        penalty = {"name": "stability", "weight": weight, "eps": 0.1}
        fit(
            net, x, y, FitConfig(epochs=15, batch_size=32, objective=objective, penalty=penalty, optimizer=OptimizerConfig(lr=0.05)), seed=0
        )
        shares.append(unstable(net, x, 0.1))
    assert shares[1] < 0.8 * shares[0]


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.sigmoid(x))


def test_what_has_no_bounds_is_one_line():
    for net, line in ((Gate(), "do not go through sigmoid"), (nn.Linear(6, 3), "no ReLU")):
        with PENALTIES.make({"name": "stability", "weight": 1.0}).on(net) as extra:
            net(images(2, (6,)))
            with pytest.raises(ModelError, match=line) as caught:
                extra()
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="eps"):
        PENALTIES.make({"name": "stability", "weight": 1.0, "eps": -1})
