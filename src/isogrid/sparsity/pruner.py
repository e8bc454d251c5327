"""What a pruning method is: a `Pruner` (its settings, and how its levels relate) that begins a `Dynamics` for each training.

Here: the protocol, fixed masks (`Static`, `enforce`), and what an optimizer remembers of weights that die or are born. Not here: any
one method; each has a file of its own and a row in `sparsity/__init__.py`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isogrid.core.errors import InputError
from isogrid.core.random import generator
from isogrid.sparsity.allocation import survivors
from isogrid.sparsity.criteria import Batch, Criterion, Loss, scores_of
from isogrid.sparsity.layers import named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.paths import row_axes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a pruner is told of the one training that it takes part in.

    model: with the parent level's weights, dead ones exactly zero, in train mode. masks, state: what the parent finished with, on the
    model's device (level 0: everything alive, no state). optimizer: fresh. steps: how many there will be at most, 0 to steps - 1.
    batch: samples to score on, at most 512 training samples, drawn from (seed, "scoring", purpose) without replacement. loss: what this
    training minimises, its random numbers fixed.
    """

    model: nn.Module
    masks: Masks
    state: Mapping[str, Tensor]
    optimizer: Optimizer
    steps: int
    batch: Batch
    loss: Loss
    seed: int
    purpose: tuple[object, ...] = ()

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator on the CPU for (seed, purpose of the training, purpose): all randomness of a pruner comes from here."""
        return generator(self.seed, "pruner", *self.purpose, *purpose)

    def score(self, criterion: Criterion) -> dict[str, Tensor]:
        """The criterion's scores; the model (its buffers and modes) and the global random state are as before."""
        return scores_of(criterion, self.model, self.batch, self.loss, seed=self.seed, purpose=self.purpose)

    def survivors(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per weight whether it must stay, whatever goes: see `allocation.survivors`."""
        return survivors(scores, self.masks, row_axes(self.model, self.batch[0]))


class Dynamics:
    """What a pruner does during one training; `masks` are those in force now.

    A step is: `before_forward`, the forward and backward pass, `after_backward`, the optimizer's step, `after_step`. A hook that is not
    overridden is not called. After `after_step` the model's dead weights are exactly zero, as they are in every forward pass: a method
    whose dead weights go on learning keeps their values itself (a dense master), puts them into the model for the optimizer's step
    only, and hands them on as state.
    """

    masks: Masks

    def before_forward(self, step: int) -> None:
        """Before the forward pass of step `step` = 0, 1, ..."""

    def after_backward(self, step: int) -> None:
        """Gradients are there, and the optimizer has not stepped yet."""

    def after_step(self, step: int) -> None:
        """The optimizer has stepped."""

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        """The masks that the training ended with, and what the next level goes on from: tensors of any type and shape, by name."""
        return self.masks, {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruner(ABC):
    """A pruning method and its settings: the fields of a frozen dataclass, plain data (numbers, strings, lists, mappings) each.

    relation: "chain", each level from the one before, level k after k trainings; or "targets", each level from the dense reference, one
    level per value of one field, which a specification gives as a list. monotone: the promise that a weight that died stays dead.
    remembers: the promise that dead weights keep values of their own, which go from level to level in the state.
    """

    name: ClassVar[str]
    relation: ClassVar[Literal["chain", "targets"]]
    monotone: ClassVar[bool] = False
    remembers: ClassVar[bool] = False

    @abstractmethod
    def begin(self, training: Training) -> Dynamics:
        """Start one training: decide on the first masks and set the model's dead weights to zero (`Static` does both)."""


class Static(Dynamics):
    """Fixed masks: dead weights exactly zero after every step, whatever momentum, Adam or weight decay do.

    Pitfall that it avoids: masking the gradient alone leaves the momentum buffer and weight decay free to revive a weight.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        masks.apply(model)
        self.masks = masks
        parameters = named_weights(model)
        pruned = [(parameters[name], mask) for name, mask in masks.items() if not bool(mask.all())]
        self._weights: list[Tensor] = [weight for weight, _ in pruned]
        # in the weights' own order in memory: one pass over both
        self._factors = [torch.empty_like(weight).copy_(mask) for weight, mask in pruned]

    def after_step(self, step: int) -> None:
        if self._weights:
            with torch.no_grad():
                torch._foreach_mul_(self._weights, self._factors)


def forget(optimizer: Optimizer, model: nn.Module, before: Masks, after: Masks) -> None:
    """Set what `optimizer` remembers (momentum, moments) of weights that died or were born from `before` to `after` to zero.

    For any torch optimizer: every tensor of the parameter's shape in its state. Counts of steps stay: Adam's bias correction treats a
    newborn weight as an old one. Pitfall that it avoids: a weight that comes back moves by the momentum that it had when it died.
    """
    parameters = named_weights(model)
    for name, mask in after.items():
        parameter = parameters[name]
        changed = (mask != before[name]).to(parameter.device)
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
                value.masked_fill_(changed, 0.0)


@contextlib.contextmanager
def enforce(masks: Masks, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Keep dead weights exactly zero after every `optimizer.step()` of a loop of your own (`Static`); undone on exit.

    Works for any torch optimizer: a hook after the step multiplies the weights by their masks.
    """
    for field, value, kind in (("masks", masks, Masks), ("optimizer", optimizer, Optimizer)):
        if not isinstance(value, kind):
            raise InputError(field, f"a {type(value).__name__}", f"{kind.__module__}.{kind.__name__}")
    dynamics = Static(model, masks)
    handle = optimizer.register_step_post_hook(lambda *_: dynamics.after_step(0))
    try:
        yield
    finally:
        handle.remove()
        masks.apply(model)
