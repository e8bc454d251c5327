"""Sparse evolutionary training (SET): drop by magnitude, grow at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.sparsity.pruner import Dynamics, Training
from isogrid.sparsity.regrowth import Regrowing, Regrowth


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SET(Regrowth):
    """Sparse evolutionary training (Mocanu et al. 2018): every `every` steps drop each layer's smallest weights and grow others at random.

    Grown weights start at zero. What was just dropped may be drawn again, and starts at zero too (the authors' set_mlp_keras_cifar10.py:
    any place that is empty after the drop, weights times the mask without the new ones). As the RigL paper runs it: the smallest
    magnitudes, a share that falls by the cosine from 0.3, layers by ERK; the original exchanges a constant 30 % after every epoch, of
    positive and negative weights apart. It too is published from scratch (`start: scratch`, as many `retrain_epochs` as `epochs`).
    Pitfall: growth that may choose a weight that lives brings back fewer than went (sparse_learning#22); here as many as were dropped.
    """

    name: ClassVar[str] = "set"

    def begin(self, training: Training) -> Dynamics:
        return AtRandom(training, self)


class AtRandom(Regrowing):
    """Grow at random; what is dropped and drawn again starts anew."""

    anew = True

    def growth(self, name: str, step: int) -> Tensor:
        weight = self.weights[name]
        return torch.rand(weight.shape, generator=self.training.generator("growth", name, step)).to(weight.device)
