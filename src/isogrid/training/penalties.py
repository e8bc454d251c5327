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

from isogrid.core.errors import ModelError
from isogrid.core.parameters import require_number
from isogrid.core.registry import Registry
from isogrid.sparsity import prunable
from isogrid.sparsity.activations import FORMS, learns, watch_relus


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty(ABC):
    """`weight` times what `on` gives is added to the loss of every step."""

    name: ClassVar[str]
    on_activations: ClassVar[bool] = False
    """Whether it makes activations sparse: such penalties, by rising weight, are the axis that claim 4 is judged along."""

    weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", require_number("penalty.weight", self.weight, 0))

    @abstractmethod
    def on(self, model: nn.Module) -> AbstractContextManager[Callable[[], Tensor]]:
        """Around one step's loss: watch `model` (with forward hooks, say); the function that it gives is called once, after the forward
        passes of the objective, and returns a scalar."""


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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class L1Activations(Penalty):
    r"""The sum of |a| over the units after every ReLU, in the mean over samples: sum_l 1/B sum_b sum_u a_{l,b,u}, B samples passed.

    The passes count that parameters learn from, not those of an attack within a step. Which ReLUs are seen: `sparsity.activations`.
    Raises ModelError where a pass has none. Source: Guo et al. 2018 (Sparse DNNs with Improved Adversarial Robustness). Pitfalls: the sum
    grows with the network, so weights are not comparable between networks; and on the full MNIST (one seed) activations made sparse in this
    way raised the accuracy left under FGS, and lowered it under AutoAttack.
    """

    name: ClassVar[str] = "l1-activations"
    on_activations: ClassVar[bool] = True

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[Callable[[], Tensor]]:
        sums: list[Tensor] = []
        rows: list[int] = []

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if learns(module):
                rows.append(len(inputs[0]))

        def total() -> Tensor:
            if not sums:
                raise ModelError(f"penalty {self.name}: the model has no ReLU to be seen ({FORMS}): there is nothing to penalise")
            return torch.stack(sums).sum() / sum(rows)

        handle = model.register_forward_pre_hook(count)
        try:
            with watch_relus(model, lambda out: sums.append(out.sum()), when=learns):  # what a ReLU gives is its own absolute value
                yield total
        finally:
            handle.remove()


PENALTIES: Registry[Penalty] = Registry("penalty", Penalty, L1Weights, L2Weights, L1Activations)
