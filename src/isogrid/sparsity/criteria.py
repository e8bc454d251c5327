"""Criteria: how much each weight is worth. What belongs here: one small class per criterion. What does not: which get removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from isogrid.core.modules import unchanged
from isogrid.core.random import isolated
from isogrid.core.registry import Registry
from isogrid.sparsity.layers import effective_weights

Batch = tuple[Tensor, Tensor]
"""Samples to score on: x [N, *S], y [N]."""
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the scalar that training minimises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion(ABC):
    """Scores of weights, higher = keep."""

    name: ClassVar[str]

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """{parameter name: scores of the parameter's shape}, for every parameter that may be pruned; dead weights' scores play no part.

        `model` is in the mode that it trains in. What a pass moves (batch-norm statistics, random state) is put back by the caller
        (`scores_of`); gradients belong into `torch.autograd.grad`, not into `.grad`.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Magnitude(Criterion):
    """|w| (Han et al. 2015); under weight_norm or spectral_norm of the normalised weight."""

    name: ClassVar[str] = "magnitude"

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        return {name: weight.abs() for name, weight in effective_weights(model).items()}


def scores_of(
    criterion: Criterion, model: nn.Module, batch: Batch, loss: Loss, *, seed: int, purpose: tuple[object, ...]
) -> dict[str, Tensor]:
    """The criterion's scores; the model (buffers, modes) and the global random state, which is (seed, "score", purpose) meanwhile, stay."""
    with unchanged(model), isolated(seed, "score", *purpose):
        return criterion.score(model, batch, loss)


CRITERIA: Registry[Criterion] = Registry("criterion", Criterion, Magnitude)
