"""The one training loop: in-memory tensors, index batches, a pruner's dynamics inside. Not here: objectives, settings, pruning methods."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isogrid.core.errors import ModelError
from isogrid.core.random import Streams, derive, generator, isolated, seed_global
from isogrid.sparsity import Dynamics, Masks, Pruner, Static, Training
from isogrid.training.config import SCHEDULES, FitConfig
from isogrid.training.objectives import OBJECTIVES
from isogrid.training.penalties import PENALTIES

SCORING = 512
"""How many training samples, at most, a pruner's criterion sees."""
StepLoss = Callable[[nn.Module, Tensor, Tensor, Streams], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLog:
    """What came out of one fit beside the model.

    losses: the mean training loss per epoch. masks, state: what the pruner's dynamics finished with. cpu_seconds: of the whole fit.
    """

    losses: tuple[float, ...]
    masks: Masks
    state: Mapping[str, Tensor]
    cpu_seconds: float


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: FitConfig,
    *,
    seed: int,
    purpose: tuple[object, ...] = (),
    pruner: Pruner | None = None,
    masks: Masks | None = None,
    state: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> FitLog:
    """Train `model` in place on x [N, *S], y [N]; dead weights are exactly zero in every forward pass and afterwards.

    Without a pruner the masks stay as given (None: everything alive); with one, `masks` and `state` are what the parent level finished
    with. Epoch e visits the samples in the order of (seed, "shuffle", purpose, e); what the model itself draws (dropout) comes from
    (seed, "training", purpose, e), and the global random state is left as it was. 4-D inputs and their convolutions run in
    channels_last. `on_epoch(epoch, mean loss)` reports progress. Leaves the model in eval mode.

    Raises ModelError where the loss stops being finite.
    """
    started = time.process_time()
    if x.dim() == 4:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = config.optimizer.build([p for p in model.parameters() if p.requires_grad])
    model.train()
    with isolated(seed, "training", *purpose), _loss(config, model) as loss:
        parent = Masks.dense(model) if masks is None else masks.on(model)
        if pruner is None:
            dynamics: Dynamics = Static(model, parent)
        else:
            parent.apply(model)
            given = {name: value.to(x.device) for name, value in (state or {}).items()}
            dynamics = pruner.begin(_training(model, x, y, config, parent, given, optimizer, loss, seed, purpose))
        losses = _epochs(model, x, y, config, optimizer, loss, dynamics, seed, purpose, on_epoch)
        ended, kept = dynamics.finish()
        ended.apply(model)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return FitLog(losses=tuple(losses), masks=ended, state=kept, cpu_seconds=time.process_time() - started)


@contextlib.contextmanager
def _loss(config: FitConfig, model: nn.Module) -> Iterator[StepLoss]:
    """The objective's loss, and the penalty where there is one."""
    objective = OBJECTIVES.make(config.objective)
    if config.penalty is None:
        yield objective.loss
        return
    penalty = PENALTIES.make(config.penalty)
    with penalty.on(model) as extra:
        yield lambda model, x, y, streams: objective.loss(model, x, y, streams) + penalty.weight * extra()


def _training(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: FitConfig,
    masks: Masks,
    state: Mapping[str, Tensor],
    optimizer: Optimizer,
    loss: StepLoss,
    seed: int,
    purpose: tuple[object, ...],
) -> Training:
    rows = torch.randperm(len(y), generator=generator(seed, "scoring", *purpose))[:SCORING].to(x.device)

    def scored(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        ids = torch.arange(len(y), device=x.device)
        return loss(model, x, y, Streams(seed=derive(seed, "scoring", *purpose), ids=ids))

    return Training(
        model=model,
        masks=masks,
        state=state,
        optimizer=optimizer,
        steps=config.epochs * math.ceil(len(y) / config.batch_size),
        batch=(x.index_select(0, rows), y.index_select(0, rows)),
        loss=scored,
        seed=seed,
        purpose=purpose,
    )


def _epochs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: FitConfig,
    optimizer: Optimizer,
    loss_of: StepLoss,
    dynamics: Dynamics,
    seed: int,
    purpose: tuple[object, ...],
    on_epoch: Callable[[int, float], None] | None,
) -> list[float]:
    """The steps; returns the mean loss per epoch."""
    before_forward, after_backward, after_step = (_hook(dynamics, name) for name in ("before_forward", "after_backward", "after_step"))
    rate_at, steps = SCHEDULES[config.schedule], math.ceil(len(y) / config.batch_size)
    total = max(1, steps * config.epochs - 1)
    losses: list[float] = []
    for epoch in range(config.epochs):
        seed_global(seed, "training", *purpose, epoch)
        order = torch.randperm(len(y), generator=generator(seed, "shuffle", *purpose, epoch)).to(x.device)
        running = torch.zeros((), device=x.device)
        for step, rows in enumerate(torch.split(order, config.batch_size), epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.lr * rate_at(step / total)
            if before_forward is not None:
                before_forward(step)
            optimizer.zero_grad(set_to_none=True)
            streams = Streams(seed=derive(seed, "objective", *purpose, step), ids=rows)
            loss = loss_of(model, x.index_select(0, rows), y.index_select(0, rows), streams)
            loss.backward()  # type: ignore[no-untyped-call]
            if after_backward is not None:
                after_backward(step)
            optimizer.step()
            if after_step is not None:
                after_step(step)
            running += loss.detach() * len(rows)
        losses.append(running.item() / len(y))
        if not math.isfinite(losses[-1]):
            raise ModelError(
                f"training: the loss became {losses[-1]} in epoch {epoch + 1}; lower optimizer.lr (now {config.optimizer.lr:g})"
            )
        if on_epoch is not None:
            on_epoch(epoch + 1, losses[-1])
        if config.early_stop is not None and config.early_stop.reached(losses):
            break
    return losses


def _hook(dynamics: Dynamics, name: str) -> Callable[[int], None] | None:
    """The hook where the dynamics has one of its own: a step pays for no other."""
    found: Callable[[int], None] = getattr(dynamics, name)
    return None if getattr(type(dynamics), name) is getattr(Dynamics, name) else found
