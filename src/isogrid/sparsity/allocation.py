"""Allocation: how a round's removals are spread over the layers. One function each; they see scores and masks, never the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from isogrid.sparsity.masks import Masks

Allocation = Callable[[Mapping[str, Tensor], Masks, Mapping[str, Tensor], float], Masks]
"""(scores, masks, protected, rate) -> masks; `protected` marks weights that must stay."""


def layer(scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], rate: float) -> Masks:
    """Remove the share `rate` of each layer's weights still alive, lowest score first (ties: lower index first).

    round(rate * alive) weights go, but never a protected one.
    """
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


ALLOCATIONS: dict[str, Allocation] = {"layer": layer}
