"""What training adds to the loss: one small class per penalty, its weight a setting. Not here: losses (`objectives`)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from isogrid.attacks.driver.parameters import require_number
from isogrid.core.registry import Registry
from isogrid.sparsity import prunable


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty(ABC):
    """`weight` times what `on` gives is added to the loss of every step."""

    name: ClassVar[str]

    weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", require_number("penalty.weight", self.weight, 0))

    @abstractmethod
    def on(self, model: nn.Module) -> AbstractContextManager[Callable[[], Tensor]]:
        """For the whole of one training: watch `model` (with forward hooks, say); the function that it gives is called once a step, after
        the forward passes of the objective, and returns a scalar."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class L1Weights(Penalty):
    """The sum of |w| over the prunable weights."""

    name: ClassVar[str] = "l1-weights"

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[Callable[[], Tensor]]:
        weights = list(prunable(model).values())
        yield lambda: torch.stack([weight.abs().sum() for weight in weights]).sum()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class L2Weights(Penalty):
    """Half the sum of w^2 over the prunable weights: for plain SGD the same as weight decay on them."""

    name: ClassVar[str] = "l2-weights"

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[Callable[[], Tensor]]:
        weights = list(prunable(model).values())
        yield lambda: 0.5 * torch.stack([weight.square().sum() for weight in weights]).sum()


PENALTIES: Registry[Penalty] = Registry("penalty", Penalty, L1Weights, L2Weights)
