"""Allocation: how a round's removals are spread over the layers. One small class each; they see scores and masks, never the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from isogrid.core.registry import Registry
from isogrid.sparsity.masks import Masks


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(ABC):
    """Which weights go, given what each is worth."""

    name: ClassVar[str]

    @abstractmethod
    def remove(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], rate: float) -> Masks:
        """`masks` without the share `rate` of the weights alive, lowest scores first; `protected` marks weights that must stay."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Allocation):
    """The share `rate` of each layer's weights still alive, lowest score first (ties: lower index first).

    round(rate * alive) weights go, but never a protected one.
    """

    name: ClassVar[str] = "layer"

    def remove(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], rate: float) -> Masks:
        new = {}
        for name, mask in masks.items():
            removable = mask & ~protected[name]
            count = min(int(rate * int(mask.sum()) + 0.5), int(removable.sum()))
            candidates = removable.flatten().nonzero().squeeze(1)
            order = torch.argsort(scores[name].flatten()[candidates], stable=True)
            keep = mask.flatten().clone()
            keep[candidates[order[:count]]] = False
            new[name] = keep.view_as(mask)
        return Masks(new)


def survivors(scores: Mapping[str, Tensor], masks: Masks, axes: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights that no method may remove: of each parameter the best alive one, and of those in `axes` (`paths.row_axes`: the output
    layer, by class) the best alive one of each slice along that axis."""
    protected = {}
    for name, mask in masks.items():
        axis = axes.get(name)
        moved = mask if axis is None else mask.movedim(axis, 0)
        rows = mask.reshape(1, -1) if axis is None else moved.reshape(len(moved), -1)
        score = scores[name] if axis is None else scores[name].movedim(axis, 0)
        best = torch.zeros_like(rows)
        best[torch.arange(len(rows)), score.reshape(rows.shape).masked_fill(~rows, -torch.inf).argmax(1)] = True
        kept = (best & rows).view(moved.shape)
        protected[name] = kept if axis is None else kept.movedim(0, axis)
    return protected


ALLOCATIONS: Registry[Allocation] = Registry("allocation", Allocation, Layer)
