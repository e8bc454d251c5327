"""The laws that every pruner must obey, as named checks that a user can run on a pruner of their own.

What belongs here: what any round of pruning must leave true. What does not: which weights are the right ones to remove.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import torch
from torch import nn

from isogrid.core.random import generator
from isogrid.sparsity import Masks, Pruner, prunable
from isogrid.testing.bench import randomness
from isogrid.testing.law import Law, check, demand, laws
from isogrid.training import FitConfig, fit

_ROUNDS: Final = 30


def _models() -> list[nn.Module]:
    """A multi-layer perceptron and a convolutional network with normalisation and a shared weight; weights with ties and zeros."""
    mlp = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3))
    shared = nn.Conv2d(4, 4, 3, padding=1)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), shared, nn.ReLU(), shared, nn.Flatten(), nn.Linear(4 * 16, 3))
    for m, model in enumerate((mlp, conv)):
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                values = torch.randn(parameter.shape, generator=generator(m, "pruner laws", i)) / math.sqrt(parameter[0].numel())
                parameter.copy_((values * 20).round() / 20 if i % 2 else values)
        model.train()
    return [mlp, conv]


def _round(pruner: Pruner, model: nn.Module, masks: Masks) -> Masks:
    """The masks that a training of no steps begins and ends with."""
    shape = (1, 6, 6) if any(isinstance(module, nn.Conv2d) for module in model.modules()) else (12,)
    x, y = torch.rand(8, *shape, generator=generator(0, "pruner laws")), torch.arange(8) % 3
    return fit(model, x, y, FitConfig(epochs=0), seed=0, pruner=pruner, masks=masks).masks


def _rounds(pruner: Pruner, model: nn.Module, count: int = _ROUNDS) -> list[Masks]:
    """The masks of `count` rounds, the model's dead weights set to zero after each as a study does."""
    levels = [Masks.dense(model)]
    for _ in range(count):
        levels.append(_round(pruner, model, levels[-1]))
    return levels


def _fits(pruner: Pruner) -> None:
    for model in _models():
        for masks in _rounds(pruner, model, 3):
            demand(set(masks) == set(prunable(model)), f"masks for {sorted(masks)}, prunable are {sorted(prunable(model))}")
            masks.check(model)


def _monotone(pruner: Pruner) -> None:
    for model in _models():
        levels = _rounds(pruner, model)
        for k, (before, after) in enumerate(pairwise(levels), 1):
            back = [name for name in before if bool((after[name] & ~before[name]).any())]
            demand(not back, f"round {k} brought weights of {back} back")


def _keeps_classes(pruner: Pruner) -> None:
    for model in _models():
        masks = _rounds(pruner, model)[-1]
        empty = [name for name in masks if not bool(masks[name].any())]
        demand(not empty, f"after {_ROUNDS} rounds {empty} have no weight left")
        last = masks[list(prunable(model))[-1]]
        lost = torch.nonzero(~last.flatten(1).any(1)).flatten().tolist()
        demand(not lost, f"after {_ROUNDS} rounds the classes {lost} have no weight left in the last layer")


def _leaves_alone(pruner: Pruner) -> None:
    for model in _models():
        masks, keys, before = Masks.dense(model), list(model.state_dict()), randomness()
        bits = {name: mask.clone() for name, mask in masks.items()}
        _round(pruner, model, masks)
        demand(list(model.state_dict()) == keys, "the state_dict's keys changed")
        demand(all(p.grad is None and p.requires_grad for p in model.parameters()), "a parameter's .grad or requires_grad changed")
        demand(all(torch.equal(bits[name], masks[name]) for name in masks), "the masks given were changed in place")
        demand(before == randomness(), "the global random state (torch, numpy or python) moved")


def _repeatable(pruner: Pruner) -> None:
    for index in range(2):
        first, second = (_rounds(pruner, _models()[index], 5)[-1].digest() for _ in range(2))
        demand(first == second, "two runs on equal weights give different masks")


PRUNER_LAWS: Final[dict[str, Law[Pruner]]] = laws(
    ("fits", "the masks cover exactly the prunable weights, in their shapes", _fits),
    ("monotone", "a removed weight never comes back", _monotone),
    ("keeps_classes", "every layer keeps a weight, and the last layer one per class, however many rounds", _keeps_classes),
    ("leaves_alone", "the state_dict's keys, the masks given and the global randomness are untouched", _leaves_alone),
    ("repeatable", "equal weights give equal masks", _repeatable),
)


def check_pruner(pruner: Pruner, laws: Iterable[str] | None = None) -> None:
    """Run the laws (all, or those named) on a pruner; raise one AssertionError that lists every law that it breaks, and how.

    >>> from isogrid.sparsity import Progressive
    >>> check_pruner(Progressive(rate=0.5))
    """
    check(pruner, PRUNER_LAWS, laws)
