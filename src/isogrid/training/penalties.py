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
from isogrid.core.parameters import check_parameters, number, require_number
from isogrid.core.registry import Registry
from isogrid.sparsity import prunable
from isogrid.sparsity.activations import FORMS, learns, watch_relus
from isogrid.training.intervals import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty(ABC):
    """`weight` times what `on` gives is added to the loss of every step."""

    name: ClassVar[str]
    on_activations: ClassVar[bool] = False
    """Whether it makes activations sparse: such penalties, by rising weight, are the axis that claim 4 is judged along."""

    weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", require_number("penalty.weight", self.weight, 0))
        check_parameters(self)

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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stability(Penalty):
    r"""-mean tanh(1 + l u / g^2) over all units and samples: l, u bound what a ReLU is given while x moves by `eps` in every coordinate.

    A unit is stable, that is affine within the box, where l u >= 0; the term rewards that. Interval bounds, batch-norm by its running
    statistics; g is the weight of a batch-norm right before the ReLU (no gradient goes into it), else 1. `eps` >= 0 in the units of x.
    The samples are those of the objective's first pass: under `pgd-at` the perturbed ones. Costs two passes more a step. Raises ModelError
    for layers that intervals do not go through, and where there is no ReLU. Source: the neuron-stability loss of Li et al. 2023 (TMLR; code
    VITA-Group/CertifiedPruning), after Xiao et al. 2019, to whose loss it comes down without batch-norm.
    Pitfalls: it tightens what a certificate can show, and an attack need not find less; interval bounds of deep networks are so loose
    that every unit counts as unstable, so start with a small eps.
    """

    name: ClassVar[str] = "stability"

    eps: float = number(0.1, 0)

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[Callable[[], Tensor]]:
        passed: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[object, ...]) -> None:
            if not passed and inputs and isinstance(inputs[0], Tensor) and learns(module):
                passed.append(inputs[0].detach())

        def total() -> Tensor:
            box = Interval(passed[0] - self.eps, passed[0] + self.eps)
            modes = [(module, module.training) for module in model.modules()]
            try:
                model.eval()(box)  # in train mode batch-norm would count the pass
            finally:
                for module, training in modes:
                    module.training = training
            if not box.relus:
                raise ModelError(f"penalty {self.name}: the model has no ReLU in it")
            terms = [torch.tanh(1 + low * high / (1.0 if g is None else g.square() + 1e-20)) for low, high, g in box.relus]
            return -torch.stack([term.sum() for term in terms]).sum() / sum(term.numel() for term in terms)

        handle = model.register_forward_pre_hook(keep)
        try:
            yield total
        finally:
            handle.remove()


PENALTIES: Registry[Penalty] = Registry("penalty", Penalty, L1Weights, L2Weights, L1Activations, Stability)
