"""What a pruning method is: a `Pruner` (its settings, and how its levels relate) that begins a `Dynamics` for each training.

Here: the protocol, fixed masks (`Static`, `enforce`), and what an optimizer remembers of weights that die or are born. Not here: any
one method; each has a file of its own and a row in `sparsity/__init__.py`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isogrid.core.errors import InputError
from isogrid.core.parameters import check_parameters
from isogrid.core.random import generator
from isogrid.sparsity.allocation import places, put, survivors
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
    samples: how many there are to train on. batch: those to score on, at most 512, drawn from (seed, "scoring", purpose) without
    replacement. loss: what this training minimises, its random numbers fixed. initial: the state_dict that the training of the dense
    reference started from, where it is known.
    """

    model: nn.Module
    masks: Masks
    state: Mapping[str, Tensor]
    optimizer: Optimizer
    steps: int
    samples: int
    batch: Batch
    loss: Loss
    seed: int
    purpose: tuple[object, ...] = ()
    initial: Mapping[str, Tensor] | None = None

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator on the CPU for (seed, purpose of the training, purpose): all randomness of a pruner comes from here."""
        return generator(self.seed, "pruner", *self.purpose, *purpose)

    def score(self, criterion: Criterion) -> dict[str, Tensor]:
        """The criterion's scores; the model (its buffers and modes) and the global random state are as before."""
        return scores_of(criterion, self.model, self.batch, self.loss, seed=self.seed, purpose=self.purpose)

    def axes(self) -> dict[str, int]:
        """Which slices of which weights must keep a weight (`paths.row_axes`): one traced pass, so a method asks once."""
        return row_axes(self.model, self.batch[0])

    def survivors(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per weight whether it must stay, whatever goes: see `allocation.survivors`."""
        return survivors(scores, self.masks, self.axes())

    def rewind(self) -> None:
        """Put back the weights, biases and buffers that the dense reference's training started from; raises InputError where unknown."""
        if self.initial is None:
            accepted = "a dense reference whose initial weights are known: trained here, or fit(..., initial=its first state_dict)"
            raise InputError("initial", "nothing", accepted)
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(self.initial[name])


class Dynamics:
    """What a pruner does during one training; `masks` are those in force now.

    A step is: `before_forward`, the forward and backward pass, `after_backward`, the optimizer's step, `after_step`. A hook that is not
    overridden is not called. After `after_step` the model's dead weights are exactly zero, as they are in every forward pass: a method
    whose dead weights go on learning keeps their values itself (a dense master), puts them into the model for the optimizer's step
    only, and hands them on as state.
    """

    masks: Masks
    busy: bool = False
    """Whether a schedule is still running: a training does not stop early in the middle of one."""

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
    """A pruning method and its settings: the fields of a frozen dataclass, plain data (numbers, strings, lists, mappings) each, which are
    checked where they are declared by `core.parameters`.

    relation: "chain", each level from the one before, level k after k trainings; or "targets", each level from the dense reference, one
    level per value of one field, which a specification gives as a list. levels: that field, and its values where no list is given.
    monotone: the promise that a weight that died stays dead. remembers: the promise that dead weights keep values of their own, which go
    from level to level in the state. exact: the promise that a setting `sparsity` is reached to one weight.
    """

    name: ClassVar[str]
    relation: ClassVar[Literal["chain", "targets"]]
    levels: ClassVar[tuple[str, tuple[Any, ...]]] = ("sparsity", (0.8, 0.9, 0.95, 0.98, 0.99))
    monotone: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_parameters(self)

    @abstractmethod
    def begin(self, training: Training) -> Dynamics:
        """Start one training: decide on the first masks and set the model's dead weights to zero (`Static` does both)."""


class Static(Dynamics):
    """Fixed masks until `revise` gives others: dead weights exactly zero after every step, whatever momentum, Adam or weight decay do.

    Pitfall that it avoids: masking the gradient alone leaves the momentum buffer and weight decay free to revive a weight.
    """

    def __init__(self, model: nn.Module, masks: Masks) -> None:
        self._model = model
        self.revise(masks)

    def revise(self, masks: Masks) -> None:
        """From now on these masks are in force: what is dead in them is zero at once, what is born is zero as it was."""
        masks.apply(self._model)
        self.masks = masks
        parameters = named_weights(self._model)
        pruned = {name: mask for name, mask in masks.items() if int(torch.count_nonzero(mask)) < mask.numel()}
        self._weights: list[Tensor] = [parameters[name] for name in pruned]
        # in the weights' own order in memory: one pass over both; from bytes, which are read faster than truth values
        self._factors = {name: torch.empty_like(parameters[name]).copy_(mask.view(torch.uint8)) for name, mask in pruned.items()}

    def exchange(self, masks: Masks, touched: Mapping[str, Tensor]) -> None:
        """`revise` for masks that differ from those in force at the places `touched` alone, where the weights are zero already, and only in
        layers with dead weights."""
        for name, factor in self._factors.items():
            put(factor, touched[name], masks[name].take(touched[name]).to(factor.dtype))
        self.masks = masks

    def after_step(self, step: int) -> None:
        if self._factors:
            with torch.no_grad():
                torch._foreach_mul_(self._weights, list(self._factors.values()))


class Record:
    """How many weights died and how many came back, one row for every revision that changed a mask."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._counts: list[Tensor] = []

    def note(self, step: int, before: Masks, after: Masks) -> None:
        """A revision at `step` put `after` in the place of `before`."""
        born = [mask.take(places(mask ^ before[name])) for name, mask in after.items()]
        back = torch.stack([torch.count_nonzero(part) for part in born]).sum()
        self.add(step, sum(len(part) for part in born) - back, back)

    def add(self, step: int, died: Tensor, back: Tensor) -> None:
        """A revision at `step` with these counts, int64 []."""
        self._steps.append(step)
        self._counts.append(torch.stack([died, back]))

    def state(self) -> dict[str, Tensor]:
        """{"revisions": int64 [R, 3]}: step, died, came back; what a `Dynamics` hands on beside its own."""
        counts = torch.stack(self._counts).cpu() if self._counts else torch.zeros(0, 2, dtype=torch.int64)
        rows = torch.cat([torch.tensor(self._steps, dtype=torch.int64)[:, None], counts], 1)
        return {"revisions": rows[(counts != 0).any(1)]}


def forget(optimizer: Optimizer, model: nn.Module, before: Masks, after: Masks) -> None:
    """Set what `optimizer` remembers (momentum, moments) of weights that died or were born from `before` to `after` to zero.

    For any torch optimizer: every tensor of the parameter's shape in its state. Counts of steps stay: Adam's bias correction treats a
    newborn weight as an old one. Pitfall that it avoids: a weight that comes back moves by the momentum that it had when it died.
    """
    parameters = named_weights(model)
    for name, mask in after.items():
        forget_at(optimizer, parameters[name], places(mask ^ before[name]).to(parameters[name].device))


def forget_at(optimizer: Optimizer, parameter: Tensor, at: Tensor) -> None:
    """`forget` of one parameter's weights at these places, counted in the order of its elements."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
            put(value, at, 0)


def check_optimizer(optimizer: Optimizer, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise InputError where `optimizer` moves none of the masked weights that are trained: it is another model's, or an earlier copy's.

    It may leave some of them, or frozen ones, to others.
    """
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    parameters = named_weights(model)
    trained = [parameters[name] for name in masks if parameters[name].requires_grad]
    if trained and not any(id(parameter) in moved for parameter in trained):
        raise InputError("optimizer", "one that holds none of the masked weights", "the optimizer that steps this model's parameters")


@contextlib.contextmanager
def enforce(masks: Masks, model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Keep dead weights exactly zero after every `optimizer.step()` of a loop of your own (`Static`); undone on exit.

    Works for any torch optimizer: a hook after the step multiplies the weights by their masks. Raises InputError where it holds none of
    them: another optimizer's steps are not seen.
    """
    for field, value, kind in (("masks", masks, Masks), ("optimizer", optimizer, Optimizer)):
        if not isinstance(value, kind):
            raise InputError(field, f"a {type(value).__name__}", f"{kind.__module__}.{kind.__name__}")
    masks.check(model)
    check_optimizer(optimizer, model, masks)
    dynamics = Static(model, masks)
    handle = optimizer.register_step_post_hook(lambda *_: dynamics.after_step(0))
    try:
        yield
    finally:
        handle.remove()
        masks.apply(model)
