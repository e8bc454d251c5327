"""Pruners and a criterion of a user's own, outside the package: loaded by name, as `own.py:Class`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from isogrid.sparsity import Criterion, Dynamics, Masks, Pruner, Static, forget, row_axes, survivors


def best(scores, counts, masks, axes):
    """Per layer the `counts[name]` weights of the highest scores, whatever `masks` says, and what no method may remove."""
    protected, new = survivors(scores, Masks({name: torch.ones_like(mask) for name, mask in masks.items()}), axes), {}
    for name, mask in masks.items():
        order = torch.argsort(scores[name].masked_fill(protected[name], torch.inf).flatten(), descending=True, stable=True)
        new[name] = torch.zeros_like(mask).flatten()
        new[name][order[: max(counts[name], int(protected[name].sum()))]] = True
        new[name] = new[name].view_as(mask)
    return Masks(new)


class Regrowing(Dynamics):
    """Every `every` steps the largest weights of a dense master are alive; dead ones go on learning in it."""

    def __init__(self, training, rate, every):
        self.training, self.every = training, every
        self.weights = {name: training.model.get_parameter(name) for name in training.masks}
        self.master = {name: training.state.get(f"master.{name}", w.detach()).clone() for name, w in self.weights.items()}
        self.counts = {name: round((1 - rate) * int(mask.sum())) for name, mask in training.masks.items()}
        self.masks, self.axes = training.masks, row_axes(training.model, training.batch[0])
        self.revise()

    def revise(self):
        before, self.masks = self.masks, best({name: m.abs() for name, m in self.master.items()}, self.counts, self.masks, self.axes)
        forget(self.training.optimizer, self.training.model, before, self.masks)
        self.show()

    @torch.no_grad()
    def show(self):
        for name, weight in self.weights.items():
            torch.mul(self.master[name], self.masks[name], out=weight)

    @torch.no_grad()
    def after_backward(self, step):
        for name, weight in self.weights.items():
            weight.copy_(self.master[name])

    @torch.no_grad()
    def after_step(self, step):
        for name, weight in self.weights.items():
            self.master[name].copy_(weight)
        if (step + 1) % self.every == 0:
            self.revise()
        self.show()

    def finish(self):
        return self.masks, {f"master.{name}": master for name, master in self.master.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrow(Pruner):
    name: ClassVar[str] = "regrow"
    relation: ClassVar[str] = "chain"
    remembers: ClassVar[bool] = True
    dynamics: ClassVar[type] = Regrowing

    rate: float = 0.5
    every: int = 2

    def begin(self, training):
        return self.dynamics(training, self.rate, self.every)


class LeavesOne(Regrowing):
    def show(self):
        super().show()
        name = next(iter(self.weights))
        place = torch.nonzero(~self.masks[name])[-1]
        self.weights[name].data[tuple(place)] = self.master[name][tuple(place)]


class ShowsOne(Regrowing):
    @torch.no_grad()
    def before_forward(self, step):
        name = next(iter(self.weights))
        self.weights[name].view(-1)[torch.nonzero(~self.masks[name].flatten())[0]] = 1e-3


class StartsAnew(Regrowing):
    def __init__(self, training, rate, every):
        super().__init__(training, rate, every)
        self.master = {name: w.detach().clone() for name, w in self.weights.items()}


class KeepsNothing(Regrowing):
    def finish(self):
        return self.masks, {}


class KeepsInTheProcess(Regrowing):
    kept: ClassVar[dict] = {}

    def __init__(self, training, rate, every):
        super().__init__(training, rate, every)
        if training.purpose[-1] > 1:
            self.master = {name: m.clone() for name, m in self.kept.get(tuple(self.weights), self.master).items()}

    def finish(self):
        self.kept[tuple(self.weights)] = self.master
        return self.masks, {}


class FinishesWithTheFirst(Regrowing):
    def __init__(self, training, rate, every):
        super().__init__(training, rate, every)
        self.first = self.masks

    def finish(self):
        return self.first, super().finish()[1]


class DeadInForward(Regrow):
    dynamics = LeavesOne


class DeadInForwardAlone(Regrow):
    dynamics = ShowsOne


class StateIgnored(Regrow):
    dynamics = StartsAnew


class StateNotHandedOn(Regrow):
    dynamics = KeepsNothing


class StateInTheProcess(Regrow):
    dynamics = KeepsInTheProcess


class OtherMasks(Regrow):
    dynamics = FinishesWithTheFirst


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShot(Pruner):
    """Each level from the dense reference: the best by a criterion, over all layers together."""

    name: ClassVar[str] = "one-shot"
    relation: ClassVar[str] = "targets"
    monotone: ClassVar[bool] = True

    sparsity: float
    criterion: str = "magnitude"
    off: int = 0

    def begin(self, training):
        from isogrid.sparsity import CRITERIA

        scores = training.score(CRITERIA.make(self.criterion))
        protected = training.survivors(scores)
        flat = torch.cat([scores[n].masked_fill(protected[n], torch.inf).flatten() for n in training.masks])
        alive = torch.zeros(len(flat), dtype=torch.bool)
        alive[flat.argsort(descending=True)[: round((1 - self.sparsity) * len(flat)) + self.off]] = True
        parts = alive.split([m.numel() for m in training.masks.values()])
        return Static(training.model, Masks({n: p.view_as(m) for (n, m), p in zip(training.masks.items(), parts, strict=True)}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taylor(Criterion):
    """|w dL/dw|."""

    name: ClassVar[str] = "taylor"

    power: float = 1.0

    def score(self, model, batch, loss):
        names, weights = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss(model, *batch), weights)
        return {n: (w * g).detach().abs() ** self.power for n, w, g in zip(names, weights, gradients, strict=True)}


class NoPruner:
    pass
