"""Drop and grow: the number of weights of every layer stays, their places change. Not here: what a method grows by (rigl, evolutionary)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from isogrid.core.parameters import number
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, among, places, survivors, top
from isogrid.sparsity.criteria import Magnitude, Random
from isogrid.sparsity.layers import effective_weights, named_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Pruner, Record, Static, Training, forget
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


class Regrowing(Static):
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
        super().__init__(training.model, masks)

    def growth(self, name: str, step: int) -> Tensor:
        """What each weight of a parameter would be grown for: scores of the parameter's shape."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._when.due(step):
            self._exchange(step, self._drop * cosine(self._when.progress(step)))

    def _exchange(self, step: int, share: float) -> None:
        """Of each layer's weights drop the share `share`, the smallest, and grow as many of those that are dead then."""
        weights = effective_weights(self.training.model)
        kept, new = {}, {}
        for name, mask in self.masks.items():
            kept[name] = mask.clone()
            gone = self._smallest(name, weights[name], mask, share)
            kept[name].view(-1)[gone] = False
            candidates = self.training.masks[name] & ~kept[name]
            grown = top(among(self.growth(name, step), candidates).flatten(), len(gone)).view(mask.shape)
            new[name] = kept[name] | grown
        self._revise(step, Masks(kept), Masks(new))

    def _smallest(self, name: str, weight: Tensor, mask: Tensor, share: float) -> Tensor:
        """The places of the share of a layer's weights that goes: the smallest (ties: lower index first) that need not stay."""
        alive = places(mask)
        sizes = weight.take(alive).abs()
        if name in self._axes:
            stay = places(survivors({name: weight.abs()}, {name: mask}, self._axes)[name].flatten()[alive])
        else:  # the largest one, the first of equal ones: no need to look at those that are dead
            stay = sizes.argmax().view(1)
        sizes[stay] = torch.inf
        count = min(int(share * len(alive)), len(alive) - len(stay))
        return alive[~top(sizes, len(alive) - count)]

    def _revise(self, step: int, kept: Masks, new: Masks) -> None:
        before, optimizer = self.masks, self.training.optimizer
        if self.anew:
            forget(optimizer, self.training.model, before, kept)
            kept.apply(self.training.model)
            before = kept
        forget(optimizer, self.training.model, before, new)
        self._record.note(step, self.masks, new)
        self.exchange(new)

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()
