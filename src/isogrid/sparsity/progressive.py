"""Pruners that act between rounds of training: progressive magnitude pruning, and its control that removes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from isogrid.core.errors import InputError, one_of
from isogrid.sparsity.allocation import ALLOCATIONS
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.masks import Masks


class Pruner(ABC):
    """One round of a pruning method: from a trained model and its masks to the next masks (a subset of them)."""

    name: ClassVar[str]

    @abstractmethod
    def prune(self, model: nn.Module, masks: Masks) -> Masks:
        """The masks of the next level; `model` is not changed."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progressive(Pruner):
    """Remove the share `rate` of the weights still alive, then retrain; removed weights never come back.

    After k rounds the sparsity is 1 - (1 - rate)^k, up to rounding and to what must stay: every layer keeps its best weight, the
    last layer the best weight of each output class, so that no class loses its last weight. Source: Han et al. 2015.

    >>> net = nn.Linear(10, 2)
    >>> Progressive(rate=0.5).prune(net, Masks.dense(net)).kept
    10
    """

    name: ClassVar[str] = "progressive"

    rate: float = 1 / 3
    criterion: str = "magnitude"
    allocation: str = "layer"

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not 0 < self.rate < 1:
            raise InputError("rate", self.rate, "a number above 0 and below 1")
        if self.criterion not in CRITERIA:
            raise one_of("criterion", self.criterion, CRITERIA)
        if self.allocation not in ALLOCATIONS:
            raise one_of("allocation", self.allocation, ALLOCATIONS)

    def prune(self, model: nn.Module, masks: Masks) -> Masks:
        scores = CRITERIA[self.criterion]().score(model)
        return ALLOCATIONS[self.allocation](scores, masks, survivors(scores, masks), self.rate)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Pruner):
    """Remove nothing: the same rounds of training, so that each level has a dense twin of equal training, the right control."""

    name: ClassVar[str] = "dense"

    def prune(self, model: nn.Module, masks: Masks) -> Masks:
        return masks


def survivors(scores: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
    """The weights that no round may remove: per layer the best alive one, in the last layer the best alive one of each output."""
    protected = {}
    last = list(masks)[-1]
    for name, mask in masks.items():
        rows = mask.reshape(len(mask), -1) if name == last else mask.reshape(1, -1)
        score = scores[name].reshape(rows.shape).masked_fill(~rows, -torch.inf)
        best = torch.zeros_like(rows)
        best[torch.arange(len(rows)), score.argmax(1)] = True
        protected[name] = (best & rows).view_as(mask)
    return protected


PRUNERS: dict[str, type[Pruner]] = {cls.name: cls for cls in (Progressive, Dense)}
