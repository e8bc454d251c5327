"""Criteria: how much each weight is worth. What belongs here: one small class per criterion. What does not: which get removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from isogrid.core.random import isolated
from isogrid.core.registry import Registry

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
    """|w| (Han et al. 2015)."""

    name: ClassVar[str] = "magnitude"

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        return {name: weight.detach().abs() for name, weight in model.named_parameters()}


def scores_of(
    criterion: Criterion, model: nn.Module, batch: Batch, loss: Loss, *, seed: int, purpose: tuple[object, ...]
) -> dict[str, Tensor]:
    """The criterion's scores; the model (buffers, modes) and the global random state, which is (seed, "score", purpose) meanwhile, stay."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modes = [(module, module.training) for module in model.modules()]
    try:
        with isolated(seed, "score", *purpose):
            return criterion.score(model, batch, loss)
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, training in modes:
            module.training = training


CRITERIA: Registry[Criterion] = Registry("criterion", Criterion, Magnitude)
