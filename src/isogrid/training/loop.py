"""The one training loop: in-memory tensors, index batches, a pruner's dynamics inside. Not here: objectives, settings, pruning methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isogrid.core.errors import ModelError
from isogrid.core.modules import initialise_lazy
from isogrid.core.random import Streams, derive, generator, isolated, seed_global
from isogrid.sparsity import Dynamics, Masks, Pruner, Static, Training
from isogrid.training.config import SCHEDULES, FitConfig
from isogrid.training.layout import channels_last
from isogrid.training.normalisation import BATCHES, recalibrate
from isogrid.training.objectives import OBJECTIVES
from isogrid.training.penalties import PENALTIES
from isogrid.training.prepare import as_logits, check_arguments, layer_named

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
    initial: Mapping[str, Tensor] | None = None,
    box: tuple[float, float] = (0.0, 1.0),
    on_epoch: Callable[[int, float], None] | None = None,
) -> FitLog:
    """Train `model` in place on x [N, *S], y [N]; dead weights are exactly zero in every forward pass and afterwards.

    Without a pruner the masks stay as given (None: everything alive); with one, `masks` and `state` are what the parent level finished
    with, and `initial` is the state_dict that the dense reference's training started from, for pruners that rewind. Epoch e visits the
    samples in the order of (seed, "shuffle", purpose, e); what the model itself draws (dropout) comes from (seed, "training", purpose, e),
    and the global random state is left as it was. 4-D inputs and their convolutions run in channels_last where the model can. `box`: the
    limits within which an objective moves samples, where it does. `on_epoch(epoch, mean loss)` reports progress. Leaves the model in eval
    mode, its batch-norm statistics those of the final weights (`recalibrate`).

    Layers that are lazy get their weights first; a model with one output z is trained on the logits (0, z); a last batch of one
    sample joins the one before it where the model normalises over batches.

    Raises InputError for unusable arguments; ModelError, naming the layer, where the model raises, gives no logits or has nothing to train,
    and where the loss stops being finite.
    """
    started = time.process_time()
    check_arguments(model, x, y, config, seed, pruner, masks, box)
    y = y.long()
    with isolated(seed, "init", *purpose), layer_named(model, "a first pass"):
        initialise_lazy(model, x)
    classifier = as_logits(model, x, y)
    channels_last(model, x)
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ModelError("model: no parameter requires gradients: there is nothing to train")
    optimizer = config.optimizer.build(trained)
    model.train()
    loss = _loss(config, model, classifier, box)
    with isolated(seed, "training", *purpose):
        parent = Masks.dense(model) if masks is None else masks.on(model)
        if pruner is None:
            dynamics: Dynamics = Static(model, parent)
        else:
            parent.apply(model)
            given = {name: value.to(x.device) for name, value in (state or {}).items()}
            dynamics = pruner.begin(_training(model, x, y, config, parent, given, optimizer, loss, seed, purpose, initial))
        losses = _epochs(model, x, y, config, optimizer, loss, dynamics, seed, purpose, on_epoch)
        ended, kept = dynamics.finish()
        ended.apply(model)
        if config.epochs or pruner is not None:
            _recalibrate(model, x, y, config, loss, seed, purpose)
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return FitLog(losses=tuple(losses), masks=ended, state=kept, cpu_seconds=time.process_time() - started)


def _loss(config: FitConfig, model: nn.Module, classifier: nn.Module, box: tuple[float, float]) -> StepLoss:
    """The objective's loss on the logits, and the penalty where there is one: on this loss's own passes, no other."""
    objective = OBJECTIVES.make(config.objective)
    penalty = None if config.penalty is None else PENALTIES.make(config.penalty)

    def loss(given: nn.Module, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        logits = classifier if given is model else given
        if penalty is None:
            return objective.loss(logits, x, y, streams, box)
        with penalty.on(given) as extra:
            return objective.loss(logits, x, y, streams, box) + penalty.weight * extra()

    return loss


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
    initial: Mapping[str, Tensor] | None,
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
        steps=config.epochs * len(_sizes(model, len(y), config.batch_size)),
        samples=len(y),
        batch=(x.index_select(0, rows), y.index_select(0, rows)),
        loss=scored,
        seed=seed,
        purpose=purpose,
        initial=initial,
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
    rate_at, sizes = SCHEDULES[config.schedule], _sizes(model, len(y), config.batch_size)
    steps = len(sizes)
    total = max(1, steps * config.epochs - 1)
    losses: list[float] = []
    settled = 0  # early stopping looks at the epochs since then
    for epoch in range(config.epochs):
        seed_global(seed, "training", *purpose, epoch)
        order = torch.randperm(len(y), generator=generator(seed, "shuffle", *purpose, epoch)).to(x.device)
        running = torch.zeros((), device=x.device)
        for step, rows in enumerate(torch.split(order, sizes), epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = config.optimizer.lr * rate_at(step / total)
            if before_forward is not None:
                before_forward(step)
            optimizer.zero_grad(set_to_none=True)
            streams = Streams(seed=derive(seed, "objective", *purpose, step), ids=rows)
            with layer_named(model, "a training step"):
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
        settled = epoch + 1 if dynamics.busy else settled
        if config.early_stop is not None and config.early_stop.reached(losses[settled:]):
            break
    return losses


def _recalibrate(
    model: nn.Module, x: Tensor, y: Tensor, config: FitConfig, loss_of: StepLoss, seed: int, purpose: tuple[object, ...]
) -> None:
    """The batch-norm statistics of the final weights, on batches of the training as its loss passes them."""
    order = torch.randperm(len(y), generator=generator(seed, "recalibration", *purpose)).to(x.device)
    batches = torch.split(order, _sizes(model, len(y), config.batch_size))[:BATCHES]

    def one(step: int, rows: Tensor) -> Tensor:
        streams = Streams(seed=derive(seed, "recalibration", *purpose, step), ids=rows)
        return loss_of(model, x.index_select(0, rows), y.index_select(0, rows), streams)

    seed_global(seed, "recalibration", *purpose)
    with layer_named(model, "a pass for batch-norm statistics"):
        recalibrate(model, (partial(one, step, rows) for step, rows in enumerate(batches)))


def _hook(dynamics: Dynamics, name: str) -> Callable[[int], None] | None:
    """The hook where the dynamics has one of its own: a step pays for no other."""
    found: Callable[[int], None] = getattr(dynamics, name)
    return None if getattr(type(dynamics), name) is getattr(Dynamics, name) else found


def _sizes(model: nn.Module, n: int, size: int) -> list[int]:
    """The sizes of an epoch's batches; a rest of one sample joins the last batch where that sample alone cannot be normalised."""
    sizes = [size] * (n // size) + ([n % size] if n % size else [])
    if len(sizes) > 1 and sizes[-1] == 1 and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        sizes[-2:] = [size + 1]
    return sizes
