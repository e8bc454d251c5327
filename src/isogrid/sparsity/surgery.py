"""Dynamic network surgery as published: fixed thresholds, random revisions, weights that come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.core.errors import InputError, one_of
from isogrid.core.parameters import checked, number, require_number
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import survivors
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.master import Master
from isogrid.sparsity.pruner import Dynamics, Pruner, Training

PRUNE, SPLICE = 0.9, 1.1
"""A weight dies at |w| <= 0.9 t and comes back at |w| > 1.1 t."""


def _rate(name: str, value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(layer): require_number(f"{name}.{layer}", c, -math.inf) for layer, c in value.items()}
    return require_number(name, value, -math.inf)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Surgery(Pruner):
    """Dynamic network surgery (Guo et al. 2016), as its Caffe code has it: a weight dies at |w| <= 0.9 t, and comes back at |w| > 1.1 t.

    t = max(mu + c sigma, 0) per layer, with the mean mu and the deviation sigma of |w| over the layer's weights that are not zero, taken
    once, at the start. Before the forward pass of iteration i each layer's mask is revised with probability (1 + gamma i)^(-power), while
    less than the share `until` of the training is over. Between the thresholds a weight stays what it is. Gradients are not masked: dead
    weights go on learning in a dense master, which no forward pass sees. `c`: one number, or one per layer, {name or pattern: c}. The
    sparsity follows from c; `surgery-target` takes a sparsity. The state's `revisions` says how many weights died and came back, and when.
    Source: the paper, and github.com/yiwenguo/Dynamic-Network-Surgery for what it leaves open (0.9, 1.1, mu and sigma once).
    Differences: biases are not pruned (they are there), and the last weight of a layer or of an output class stays.
    Pitfalls: mu and sigma are those of the reference, so c means another sparsity for another optimizer or weight decay; and a level's
    training has to be long enough for what was cut by mistake to come back.
    """

    name: ClassVar[str] = "surgery"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    levels: ClassVar[tuple[str, tuple[Any, ...]]] = ("c", (0.0, 1.0, 2.0, 3.0, 4.0))

    c: float | dict[str, float] = checked(1.0, _rate)
    gamma: float = number(1e-4, 0)
    power: float = number(1.0, 0)
    until: float = settings.until()

    def begin(self, training: Training) -> Dynamics:
        return _Surgery(training, self)

    def rates(self, masks: Masks) -> dict[str, float]:
        """c of every layer, by the first pattern that matches; raises InputError for a pattern without a layer and the other way round."""
        if not isinstance(self.c, Mapping):
            return dict.fromkeys(masks, self.c)
        for pattern in self.c:
            if not any(fnmatchcase(name, pattern) for name in masks):
                raise one_of("c", pattern, masks)
        found = {name: next((c for pattern, c in self.c.items() if fnmatchcase(name, pattern)), None) for name in masks}
        for name, c in found.items():
            if c is None:
                raise InputError("c", dict(self.c), f"a number for {name} too ('*' matches every other layer)")
        return {name: c for name, c in found.items() if c is not None}


def threshold(weight: Tensor, c: float) -> float:
    """max(mu + c sigma, 0) of |w| over the weights that are not zero; 0 where there is none.

    >>> threshold(torch.tensor([0.0, 1.0, -3.0]), 0.5)
    2.5
    """
    size = weight.detach().abs().double()
    size = size[size > 0]
    return max(float(size.mean() + c * size.std(correction=0)), 0.0) if len(size) else 0.0


class _Surgery(Master):
    def __init__(self, training: Training, pruner: Surgery) -> None:
        super().__init__(training)
        rates = pruner.rates(self.first)
        self._axes = training.axes()
        self._thresholds = {name: threshold(dense, rates[name]) for name, dense in self.dense.items()}
        steps = torch.arange(math.ceil(pruner.until * training.steps), dtype=torch.float64)
        draws = torch.rand(len(steps), len(self.first), dtype=torch.float64, generator=training.generator("surgery"))
        self._revised: list[list[bool]] = ((1 + pruner.gamma * steps) ** -pruner.power > draws.T).T.tolist()

    def before_forward(self, step: int) -> None:
        if step >= len(self._revised) or not any(self._revised[step]):
            return
        new = dict(self.masks)
        for revised, (name, dense) in zip(self._revised[step], self.dense.items(), strict=True):
            if revised:
                new[name] = self._revision(name, dense.abs())
        self.revise(Masks(new), step)

    def _revision(self, name: str, size: Tensor) -> Tensor:
        """The rule, and where it leaves a layer or an output class without a weight the best one."""
        t, axis = self._thresholds[name], self._axes.get(name)
        found = (self.masks[name] & (size > PRUNE * t)) | (size > SPLICE * t)
        if bool(found.any() if axis is None else found.movedim(axis, 0).flatten(1).any(1).all()):
            return found
        return found | survivors({name: size}, Masks({name: self.first[name]}), self._axes)[name]
