"""Criteria: how much each weight is worth. What belongs here: one small class per criterion. What does not: which get removed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from isogrid.core.errors import ModelError
from isogrid.core.modules import unchanged
from isogrid.core.parameters import check_parameters, whole
from isogrid.core.random import isolated
from isogrid.core.registry import Registry
from isogrid.sparsity.layers import effective_weights, named_weights

Batch = tuple[Tensor, Tensor]
"""Samples to score on: x [N, *S], y [N]."""
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the scalar that training minimises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion(ABC):
    """Scores of weights, higher = keep. needs_samples: whether it looks at samples and loss at all."""

    name: ClassVar[str]
    needs_samples: ClassVar[bool] = True

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
    needs_samples: ClassVar[bool] = False

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        return {name: weight.abs() for name, weight in effective_weights(model).items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Random(Criterion):
    """Uniform random numbers: the control that says what a criterion is worth beside the mere number of weights.

    Drawn on the CPU whatever the device, from the global generator, which `scores_of` has set.
    """

    name: ClassVar[str] = "random"
    needs_samples: ClassVar[bool] = False

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        return {name: torch.rand(weight.shape).to(weight.device) for name, weight in named_weights(model).items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SNIP(Criterion):
    """|w dL/dw| of the mean loss L over the batch: connection sensitivity (Lee et al. 2019), to first order the change of the loss.

    Published for the untrained network (`one-shot` with `start: scratch`). The pass is in eval mode, so that no sample's part in it depends
    on its neighbours and no dropout plays. Pitfall: at a minimum of the loss the mean gradient is about zero, and so is what this says of
    a trained network; Taylor squares before it averages.
    """

    name: ClassVar[str] = "snip"

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        weights, total = _trained(model), len(batch[1])
        mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for share, gradients in _gradients(model, weights, batch, loss, 128):
            for name, gradient in gradients.items():
                mean[name].add_(gradient, alpha=share / total)
        return {name: (weights[name].detach() * gradient).abs_() for name, gradient in mean.items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Taylor(Criterion):
    """The mean over mini-batches b of (w dL_b/dw)^2: the squared first-order change of the loss (Molchanov et al. 2019).

    `batch`: samples in a mini-batch; one by one it is the empirical Fisher information times w^2. In eval mode, as SNIP.
    """

    name: ClassVar[str] = "taylor"

    batch: int = whole(16)

    def __post_init__(self) -> None:
        check_parameters(self)

    def score(self, model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
        weights, total = _trained(model), len(batch[1])
        mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for share, gradients in _gradients(model, weights, batch, loss, self.batch):
            for name, gradient in gradients.items():
                mean[name].add_(gradient.square(), alpha=share / total)
        return {name: square.mul_(weights[name].detach().square()) for name, square in mean.items()}


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in named_weights(model).items() if weight.requires_grad}


def _gradients(
    model: nn.Module, weights: dict[str, nn.Parameter], batch: Batch, loss: Loss, size: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """(number of samples, gradients of their mean loss in eval mode), for every `size` samples."""
    model.eval()
    for x, y in zip(*(torch.split(part, size) for part in batch), strict=True):
        with torch.enable_grad():
            value = loss(model, x, y)
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        yield len(y), {name: gradient for name, gradient in zip(weights, found, strict=True) if gradient is not None}


def scores_of(
    criterion: Criterion, model: nn.Module, batch: Batch, loss: Loss, *, seed: int, purpose: tuple[object, ...]
) -> dict[str, Tensor]:
    """The criterion's scores; the model (buffers, modes) and the global random state, which is (seed, "score", purpose) meanwhile, stay.

    Raises ModelError where a score is no finite number: nothing could be said of which weight is worth more.
    """
    with unchanged(model), isolated(seed, "score", *purpose):
        scores = criterion.score(model, batch, loss)
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise ModelError(f"model: the criterion {criterion.name} gives scores of {name} that are not finite")
    return scores


CRITERIA: Registry[Criterion] = Registry("criterion", Criterion, Magnitude, Random, SNIP, Taylor)
