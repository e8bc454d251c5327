"""The one training loop: in-memory tensors, index batches, masks enforced through the optimizer. Not here: objectives, pruning."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from isogrid.core.errors import InputError, ModelError, one_of
from isogrid.core.random import generator
from isogrid.sparsity import Masks, enforce
from isogrid.training.objectives import OBJECTIVES
from isogrid.training.optimizers import FusedSGD


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """`sgd` (momentum, nesterov), `adam` or `adamw`; `lr` is the peak of the schedule."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adam", "adamw"):
            raise one_of("optimizer", self.name, ("sgd", "adam", "adamw"))
        for field, value, ok, accepted in (
            ("lr", self.lr, self.lr > 0, "a number > 0"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "a number >= 0"),
            ("nesterov", self.nesterov, not self.nesterov or self.momentum > 0, "false where momentum is 0"),
        ):
            if not ok:
                raise InputError(f"optimizer.{field}", value, accepted)

    def build(self, parameters: list[nn.Parameter]) -> Optimizer:
        """The optimizer, with a fused step: one pass over the memory per step."""
        if self.name == "sgd":
            return FusedSGD(parameters, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay)
        kind = Adam if self.name == "adam" else AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop:
    """Stop when the epoch's mean training loss has not fallen by `min_delta` for `patience` epochs."""

    patience: int = 5
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InputError("early_stop.patience", self.patience, "an integer >= 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Everything that decides the outcome of one `fit`, given model, data and seed."""

    epochs: int = 40
    batch_size: int = 128
    objective: str = "natural"
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    optimizer: OptimizerConfig = OptimizerConfig()
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError("epochs", self.epochs, "an integer >= 0")
        if self.batch_size < 1:
            raise InputError("batch_size", self.batch_size, "an integer >= 1")
        if self.schedule not in SCHEDULES:
            raise one_of("schedule", self.schedule, SCHEDULES)
        if self.objective not in OBJECTIVES:
            raise one_of("objective", self.objective, OBJECTIVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLog:
    """Mean training loss per epoch, and the seconds of CPU time that the whole fit took."""

    losses: tuple[float, ...]
    cpu_seconds: float


def one_cycle(progress: float) -> float:
    """Learning-rate factor at `progress` in [0, 1]: cosine from 1/25 up to 1 at 30 %, cosine down to 1e-4/25 (Smith 2018).

    >>> one_cycle(0.3), round(one_cycle(0.0), 3)
    (1.0, 0.04)
    """

    def cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    return cosine(1 / 25, 1.0, progress / 0.3) if progress <= 0.3 else cosine(1.0, 1e-4 / 25, (progress - 0.3) / 0.7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: FitConfig,
    *,
    seed: int,
    purpose: tuple[object, ...] = (),
    masks: Masks | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> FitLog:
    """Train `model` in place on x [N, *S], y [N]; dead weights of `masks` stay exactly zero after every step.

    Epoch e visits the samples in the order of (seed, "shuffle", purpose, e). 4-D inputs and their convolutions run in
    channels_last. `on_epoch(epoch, mean loss)` reports progress. Leaves the model in eval mode.

    Raises ModelError where the loss stops being finite.
    """
    started = time.process_time()
    if x.dim() == 4:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = config.optimizer.build(parameters)
    loss_of, rate_at = OBJECTIVES[config.objective], SCHEDULES[config.schedule]
    steps = math.ceil(len(y) / config.batch_size)
    total = max(1, steps * config.epochs - 1)
    losses: list[float] = []
    model.train()
    with enforce(masks, model, optimizer) if masks is not None else contextlib.nullcontext():
        for epoch in range(config.epochs):
            order = torch.randperm(len(y), generator=generator(seed, "shuffle", *purpose, epoch)).to(x.device)
            running = torch.zeros((), device=x.device)
            for step, rows in enumerate(torch.split(order, config.batch_size)):
                for group in optimizer.param_groups:
                    group["lr"] = config.optimizer.lr * rate_at((epoch * steps + step) / total)
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(model, x.index_select(0, rows), y.index_select(0, rows))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                running += loss.detach() * len(rows)
            losses.append(running.item() / len(y))
            if not math.isfinite(losses[-1]):
                raise ModelError(
                    f"training: the loss became {losses[-1]} in epoch {epoch + 1}; lower optimizer.lr (now {config.optimizer.lr:g})"
                )
            if on_epoch is not None:
                on_epoch(epoch + 1, losses[-1])
            if config.early_stop is not None and _plateau(losses, config.early_stop):
                break
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    return FitLog(losses=tuple(losses), cpu_seconds=time.process_time() - started)


def _plateau(losses: list[float], rule: EarlyStop) -> bool:
    if len(losses) <= rule.patience:
        return False
    return min(losses[-rule.patience :]) > min(losses[: -rule.patience]) - rule.min_delta
