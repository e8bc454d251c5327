"""A pruner inside a training loop of your own, by hooks on its optimizer. Fixed masks alone: `enforce`. Not here: isogrid's own loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from isogrid.core.errors import InputError
from isogrid.core.parameters import require_whole
from isogrid.sparsity.criteria import Batch, Loss
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Pruner, Training, check_optimizer


class Steps:
    """Counts the optimizer's steps of one training, and tells a pruner's dynamics before, within and after each."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics, self.taken, self._forwarded = dynamics, 0, False

    def forward(self) -> None:
        """A forward pass of the coming step follows, the first or a further one (gradient accumulation)."""
        if not self._forwarded:
            self._forwarded = True
            self.dynamics.before_forward(self.taken)

    def backward(self) -> None:
        """The gradients of the coming step are there; raises InputError where no forward pass was seen before."""
        if not self._forwarded:
            raise InputError("model", "no forward pass of it before the step", "the module that the loop calls, in train mode")
        self.dynamics.after_backward(self.taken)

    def stepped(self) -> None:
        """The optimizer has stepped."""
        self.dynamics.after_step(self.taken)
        self.taken, self._forwarded = self.taken + 1, False


def begin(
    pruner: Pruner,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    steps: int,
    samples: Batch,
    size: int | None = None,
    loss: Loss | None = None,
    masks: Masks | None = None,
    state: Mapping[str, Tensor] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Dynamics:
    """What `fit` would begin for a training of so many optimizer steps; settings as in `prune_during`."""
    for field, value, kind in (("pruner", pruner, Pruner), ("model", model, nn.Module), ("optimizer", optimizer, Optimizer)):
        if not isinstance(value, kind):
            raise InputError(field, f"a {type(value).__name__}", f"{kind.__module__}.{kind.__name__}")
    if not (isinstance(samples, tuple) and len(samples) == 2 and all(isinstance(part, Tensor) for part in samples) and len(samples[1])):
        raise InputError("samples", type(samples).__name__, "a pair of tensors: some training samples x [N, ...] and their classes y [N]")
    if masks is not None and not isinstance(masks, Masks):
        raise InputError("masks", f"a {type(masks).__name__}", "isogrid.Masks of that model, or None")
    count = require_whole("steps", steps)
    assert count is not None
    parent = Masks.dense(model) if masks is None else masks.on(model)
    check_optimizer(optimizer, model, parent)
    parent.apply(model)
    training = Training(
        model=model,
        masks=parent,
        state=state or {},
        optimizer=optimizer,
        steps=count,
        samples=require_whole("size", size, otherwise="as many as `samples`") or len(samples[1]),
        batch=samples,
        loss=loss or _natural,
        seed=seed,
        initial=initial,
    )
    return pruner.begin(training)


@contextlib.contextmanager
def prune_during(pruner: Pruner, model: nn.Module, optimizer: Optimizer, *, steps: int, samples: Batch, **rest: Any) -> Iterator[Dynamics]:
    """Inside, every `optimizer.step()` of a loop of your own is one step of `pruner`; `finish()` of what it gives has masks and state.

    `steps`: how many there will be, which schedules follow; `samples`: some training samples (x, y) that criteria score on, `size` how many
    there are in all; `loss`: what the training minimises, (model, x, y) -> scalar, cross-entropy where it is left out; `masks`, `state`:
    what an earlier level finished with; `initial`: the state_dict of the first weights, for pruners that rewind. Undone on exit, where dead
    weights are exactly zero. With gradient accumulation a step is an optimizer's step. Raises InputError for unusable arguments, where
    `step` is given a closure, and where it comes without a forward pass of `model` in train mode.

    >>> from isogrid.sparsity import Cubic
    >>> model, x, y = nn.Linear(10, 2), torch.rand(8, 10), torch.arange(8) % 2
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with prune_during(Cubic(sparsity=0.5), model, optimizer, steps=20, samples=(x, y)) as pruning:
    ...     for _ in range(20):
    ...         optimizer.zero_grad()
    ...         cross_entropy(model(x), y).backward()
    ...         optimizer.step()
    >>> pruning.finish()[0].kept, int((model.weight != 0).sum())
    (10, 10)
    """
    counted = Steps(begin(pruner, model, optimizer, steps=steps, samples=samples, **rest))

    def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(value is not None for value in (*args[1:], *kwargs.values())):
            raise InputError(
                "optimizer.step", "a closure", "step() after loss.backward(): a pruner changes weights and gradients in between"
            )
        counted.backward()

    handles = [
        model.register_forward_pre_hook(lambda module, _: counted.forward() if module.training and torch.is_grad_enabled() else None),
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(lambda *_: counted.stepped()),
    ]
    try:
        yield counted.dynamics
    finally:
        for handle in handles:
            handle.remove()
        counted.dynamics.masks.apply(model)


def _natural(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model(x), y)
