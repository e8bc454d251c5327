"""A training under a pruner whose every step can be looked at and scripted, for tests of single methods."""

from __future__ import annotations

import torch
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import Masks, Training


def network(seed=0):
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(seed, "bench", i)) / 3)
    return net


def samples(n=64):
    draw = generator(0, "bench data")
    x = torch.rand(n, 12, generator=draw)
    return x, (x @ torch.randn(12, 4, generator=draw)).argmax(1)


def training(net, steps, *, masks=None, optimizer=None, initial=None, seed=0, state=None):
    """What `fit` would tell a pruner."""
    masks = Masks.dense(net) if masks is None else masks
    masks.apply(net)
    return Training(
        model=net,
        masks=masks,
        state=state or {},
        optimizer=optimizer or torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        steps=steps,
        samples=64,
        batch=samples(32),
        loss=lambda model, x, y: nn.functional.cross_entropy(model(x), y),
        seed=seed,
        purpose=("bench",),
        initial=initial,
    )


def run(dynamics, told, look=lambda step: None, gradient=None):
    """All steps of a training, as `fit` takes them; `gradient(step, parameter)` instead of a backward pass."""
    x, y = samples()
    for step in range(told.steps):
        dynamics.before_forward(step)
        told.optimizer.zero_grad()
        if gradient is None:
            told.loss(told.model, x, y).backward()
        else:
            for parameter in told.model.parameters():
                parameter.grad = gradient(step, parameter)
        dynamics.after_backward(step)
        told.optimizer.step()
        dynamics.after_step(step)
        look(step)
    return dynamics.finish()
