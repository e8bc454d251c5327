"""FusedSGD is torch's fused SGD to the bit, and nothing that it does not need is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim import SGD

from isogrid.core.random import generator
from isogrid.sparsity import Masks, Progressive, enforce
from isogrid.training.optimizers import FusedSGD


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(0, "init", i)))
    return net


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 12) -> None:
    draw = generator(0, "batches")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.zero_grad()
        net(torch.randn(16, 7, generator=draw)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_it_is_torchs_sgd_to_the_bit(momentum, nesterov, weight_decay):
    ours, theirs = network(), network()
    settings = {"lr": 0.1, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    train(ours, FusedSGD(ours.parameters(), **settings))
    train(theirs, SGD(theirs.parameters(), **settings, fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not torch.equal(ours[0].weight, network()[0].weight)


def test_masks_hold_under_it():
    net = network()
    masks = Progressive(rate=0.7).prune(net, Masks.dense(net))
    optimizer = FusedSGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)
    train(net, optimizer)  # momentum for weights that die next
    with enforce(masks, net, optimizer):
        train(net, optimizer)
    assert Masks.of_zeros(net).digest() == masks.digest()


def test_a_parameter_without_a_gradient_stays_and_kinds_may_mix():
    idle, wide = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = FusedSGD([idle, wide], lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    wide.sum().backward()
    optimizer.step()
    assert torch.equal(idle, torch.ones(3))
    torch.testing.assert_close(wide.detach(), torch.full((3,), 1 - 0.5 * 1.1 * 1.9, dtype=torch.float64))
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(wide.grad, torch.zeros(3, dtype=torch.float64))
    optimizer.zero_grad()
    assert wide.grad is None


def test_no_compiler_is_imported_by_training():
    script = (
        "import sys, torch; from isogrid.training import FitConfig, fit; x = torch.rand(64, 4);"
        "fit(torch.nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), FitConfig(epochs=1), seed=0);"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
