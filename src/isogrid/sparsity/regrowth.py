"""Drop and grow: the number of weights of every layer stays, their places change. Not here: what a method grows by (rigl, evolutionary)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from isogrid.core.parameters import number
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, among, best, picked, places, put, survivors, top
from isogrid.sparsity.criteria import Magnitude, Random
from isogrid.sparsity.layers import effective_weights, named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Pruner, Record, Static, Training, forget_at
from isogrid.sparsity.schedules import Revisions, cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrowth(Pruner):
    """The settings of methods that drop the smallest weights and grow as many others, every so many steps.

    Every `every` steps of the share `until` of the training the share `drop` (1 + cos(pi t)) / 2 of each layer's weights is exchanged, t
    from 0 to 1. The first masks have the counts of `allocation` at `sparsity`: at random with `start: scratch`, the largest of the dense
    reference with `start: reference`.
    """

    relation: ClassVar[Literal["chain", "targets"]] = "targets"

    sparsity: float = settings.sparsity(0.9)
    drop: float = number(0.3, 0, 1, high_open=False)
    every: int = settings.every(20)
    until: float = settings.until()
    allocation: Config = settings.allocation("erk")
    start: str = settings.start()


class Regrowing(Static, ABC):
    """Masks that a training revises; a subclass says by what they grow, and whether what is dropped and chosen again starts anew."""

    anew: ClassVar[bool]

    def __init__(self, training: Training, pruner: Regrowth) -> None:
        if pruner.start == "scratch":
            training.rewind()
        scores = training.score(Random() if pruner.start == "scratch" else Magnitude())
        self.training, self.weights, self._axes = training, named_weights(training.model), training.axes()
        allocation, protected = ALLOCATIONS.make(pruner.allocation), survivors(scores, training.masks, self._axes)
        masks = allocation.keep(scores, training.masks, protected, settings.left(training.masks, pruner.sparsity))
        self._when, self._drop, self._record = Revisions(training.steps, pruner.every, pruner.until), pruner.drop, Record()
        self._limited = {name for name, mask in training.masks.items() if not bool(mask.all())}
        super().__init__(training.model, masks)

    @abstractmethod
    def growth(self, name: str, step: int) -> Tensor:
        """What each weight of a parameter would be grown for: scores of the parameter's shape, a tensor of nobody else's."""

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._when.due(step):
            self._exchange(step, self._drop * cosine(self._when.progress(step)))

    @torch.no_grad()
    def _exchange(self, step: int, share: float) -> None:
        """Of each layer's weights drop the share `share`, the smallest, and grow as many of those that are dead then."""
        weights = effective_weights(self.training.model)
        masks, touched, died, born = {}, {}, [], []
        for name, mask in self.masks.items():
            gone, stay = self._smallest(name, weights[name], mask, share)
            grown = best(self._open(name, stay, step), len(gone))
            masks[name] = mask.clone()
            put(masks[name], gone, False)
            put(masks[name], grown, True)
            lost, new = picked(gone, ~masks[name].take(gone)), picked(grown, ~mask.take(grown))
            touched[name] = torch.cat([gone, grown] if self.anew else [lost, new])
            died.append(len(lost))
            born.append(len(new))
            forget_at(self.training.optimizer, self.weights[name], touched[name])
            put(self.weights[name], touched[name], 0.0)
        self._record.add(step, torch.tensor(sum(died)), torch.tensor(sum(born)))
        self.exchange(Masks(masks), touched)

    def _open(self, name: str, stay: Tensor, step: int) -> Tensor:
        """`growth` [numel] of the places that may grow, lower than any of it where a weight stays or was dead when the training began."""
        scores = self.growth(name, step).flatten()
        if name in self._limited:
            scores = among(scores, self.training.masks[name].flatten())
        scores[stay] = torch.finfo(scores.dtype).min
        return scores

    def _smallest(self, name: str, weight: Tensor, mask: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The places of the share of a layer's weights that goes, the smallest (ties: lower index first) that need not stay, and of those
        that stay."""
        alive = places(mask)
        sizes = weight.take(alive).abs()
        if name in self._axes:
            needed = places(survivors({name: weight.abs()}, {name: mask}, self._axes)[name].flatten()[alive])
        else:  # the largest one, the first of equal ones: no need to look at those that are dead
            needed = sizes.argmax().view(1)
        sizes[needed] = torch.inf
        keep = top(sizes, len(alive) - min(int(share * len(alive)), len(alive) - len(needed)))
        return picked(alive, ~keep), picked(alive, keep)

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()
