"""RigL: drop by magnitude, grow by gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.sparsity.pruner import Dynamics, Training
from isogrid.sparsity.regrowth import Regrowing, Regrowth


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RigL(Regrowth):
    """RigL (Evci et al. 2020): every `every` steps drop each layer's smallest weights and grow those of the largest gradient.

    The share exchanged is drop (1 + cos(pi t)) / 2, drop = 0.3, until 75 % of the training; layers by ERK. The gradient is that of the step
    just taken, of every weight, at the masked weights. Grown weights start at zero, with nothing remembered by the optimizer. What was just
    dropped may be grown again and is then as if untouched (Algorithm 1, "not in theta without those dropped"; the authors in
    google-research/rigl#5). The paper trains from scratch and revises every 100 of 32,000 steps; the default here starts from the dense
    reference as other methods' levels do: `start: scratch` for the paper's, with as many `retrain_epochs` as `epochs`.
    Pitfall: gradients of the network without its masks are another network's, and grow what it would need (rigl#14).
    """

    name: ClassVar[str] = "rigl"

    def begin(self, training: Training) -> Dynamics:
        return ByGradient(training, self)


class ByGradient(Regrowing):
    """Grow by the size of the gradient; what is dropped and chosen again is as if untouched."""

    anew = False

    def growth(self, name: str, step: int) -> Tensor:
        weight = self.weights[name]
        return torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
