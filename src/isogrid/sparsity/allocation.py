"""Allocation: how many weights each layer keeps, and which. One small class each; they see scores and masks, never the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from isogrid.core.registry import Registry
from isogrid.sparsity.masks import Masks

LARGE, STRIDE = 1 << 15, 16
"""Of how many scores a sample is looked at before the highest are selected, and every which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(ABC):
    """Which weights stay, given what each is worth."""

    name: ClassVar[str]

    @abstractmethod
    def keep(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], count: int) -> Masks:
        """The `count` weights of those alive in `masks` that stay, and no other; those in `protected`, which are alive, in any case.

        Exactly `count` in all; where fewer are alive all of them, and where more are protected those. Of equal scores the lower index
        goes first.
        """

    def prune(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], rate: float) -> Masks:
        """A round: `masks` without the share `rate` of the weights alive, round(rate * alive) in all."""
        return self.keep(scores, masks, protected, masks.kept - int(rate * masks.kept + 0.5))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Allocation):
    """The same share of each layer's weights still alive, to one weight, those of the highest scores.

    Where a layer's protected weights are more than its share, the other layers make up for it where a count is given; a round by its rate
    is each layer's own: round(rate * alive) of its weights go, as far as they are not protected.
    """

    name: ClassVar[str] = "layer"

    def keep(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], count: int) -> Masks:
        return _by_quota({name: float(mask.sum()) for name, mask in masks.items()}, scores, masks, protected, count)

    def prune(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], rate: float) -> Masks:
        alive = {name: int(mask.sum()) for name, mask in masks.items()}
        counts = {name: max(n - int(rate * n + 0.5), int(protected[name].sum())) for name, n in alive.items()}
        return _highest(counts, scores, masks, protected)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Global(Allocation):
    """The highest scores of all layers together.

    Pitfall: scores of layers of different fan-in are not on one scale, and at high sparsity a layer may be left with one weight: the
    network collapses before the others are sparse.
    """

    name: ClassVar[str] = "global"

    def keep(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], count: int) -> Masks:
        ranked = torch.cat([_ranked(scores[name], mask, protected[name]) for name, mask in masks.items()])
        least = sum(int(protected[name].sum()) for name in masks)
        parts = torch.split(top(ranked, min(max(count, least), masks.kept)), [mask.numel() for mask in masks.values()])
        return Masks({name: part.view(mask.shape) for part, (name, mask) in zip(parts, masks.items(), strict=True)})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ERK(Allocation):
    """Erdos-Renyi-Kernel: a layer's density in proportion to sum(shape) / prod(shape), at most 1; within it the highest scores.

    So a layer keeps epsilon * sum(shape) weights, epsilon such that all together keep `count`: small layers stay denser than large ones.
    Source: Mocanu et al. 2018 (linear layers), Evci et al. 2020 (with the kernel's height and width).
    """

    name: ClassVar[str] = "erk"

    def keep(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], count: int) -> Masks:
        return _by_quota({name: float(sum(mask.shape)) for name, mask in masks.items()}, scores, masks, protected, count)


def _by_quota(
    wanted: Mapping[str, float], scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor], count: int
) -> Masks:
    least = {name: int(protected[name].sum()) for name in masks}
    most = {name: int(mask.sum()) for name, mask in masks.items()}
    return _highest(quotas(wanted, least, most, count), scores, masks, protected)


def _highest(counts: Mapping[str, int], scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor]) -> Masks:
    """So many of each layer's weights."""
    return Masks({name: top(_ranked(scores[name], mask, protected[name]), counts[name]).view(mask.shape) for name, mask in masks.items()})


def _ranked(scores: Tensor, mask: Tensor, protected: Tensor) -> Tensor:
    """[numel]: what is protected before everything else, what is dead behind it."""
    ranked = among(scores, mask).flatten()
    ranked[places(protected)] = torch.inf
    return ranked


def among(scores: Tensor, mask: Tensor) -> Tensor:
    """The scores where `mask` is true, lower than any of them elsewhere; a quarter of the time of torch's masked_fill and where.

    As bytes truth values become numbers by vector instructions.
    """
    return mask.view(torch.uint8).to(scores.dtype).sub_(1).mul_(torch.finfo(scores.dtype).max).add_(scores)


def quotas(wanted: Mapping[str, float], least: Mapping[str, int], most: Mapping[str, int], count: int) -> dict[str, int]:
    """Whole numbers in proportion to `wanted`, each within its `least` and `most`, that are `count` together (largest remainders).

    >>> quotas({"a": 6.0, "b": 3.0, "c": 1.0}, {"a": 0, "b": 0, "c": 2}, {"a": 4, "b": 3, "c": 9}, 8)
    {'a': 4, 'b': 2, 'c': 2}
    """
    count = min(max(count, sum(least.values())), sum(most.values()))

    def at(scale: float) -> dict[str, float]:
        return {name: min(max(scale * part, least[name]), most[name]) for name, part in wanted.items()}

    low, high = 0.0, max((most[name] / part for name, part in wanted.items() if part > 0), default=0.0)
    for _ in range(100):  # more than the bits of a float
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) < count else (low, middle)
    shares = at(high)
    found = {name: int(share) for name, share in shares.items()}
    for name in sorted(found, key=lambda name: found[name] - shares[name])[: count - sum(found.values())]:
        found[name] += 1
    return found


def top(scores: Tensor, count: int) -> Tensor:
    """bool [N]: the `count` highest of `scores` [N]; of equal ones the lower index is left out first.

    >>> top(torch.tensor([2.0, 1.0, 2.0, 3.0]), 2).tolist()
    [False, False, True, True]
    """
    if not 0 < count < len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    if len(scores) > LARGE:
        if count > len(scores) // 2:  # the others, from the other end: they are fewer
            return ~top(-scores.flip(0), len(scores) - count).flip(0)
        few = _candidates(scores, count)
        if few is not None:
            keep = torch.zeros_like(scores, dtype=torch.bool)
            keep[picked(few, top(scores[few], count))] = True
            return keep
    edge = _edge(scores, count)
    keep = _reaching(scores, edge)
    ties = int(torch.count_nonzero(keep)) - count
    if ties:
        keep[places(scores == edge)[:ties]] = False
    return keep


def best(scores: Tensor, count: int) -> Tensor:
    """int64 [count]: where `top` is true, in ascending order; faster where that is a small part of many.

    >>> best(torch.tensor([2.0, 1.0, 2.0, 3.0]), 2).tolist()
    [2, 3]
    """
    few = _candidates(scores, count) if count and len(scores) > LARGE else None
    return places(top(scores, count)) if few is None else picked(few, top(scores[few], count))


def _candidates(scores: Tensor, count: int) -> Tensor | None:
    """Fewer places than all that hold the `count` highest, ascending; None where the sample of every 16th value did not find the edge."""
    sample = scores[::STRIDE]
    about = _edge(sample, min(len(sample), count // STRIDE * 5 // 4 + STRIDE))
    above = places(_reaching(scores, about))
    return above if count <= len(above) < len(scores) else None


def _edge(scores: Tensor, count: int) -> Tensor:
    """The lowest of the `count` highest."""
    if not _numpy_knows(scores):
        return scores.topk(count, sorted=False).values.min()
    rank = len(scores) - count
    return torch.from_numpy(np.partition(scores.detach().numpy(), rank))[rank]


def _reaching(scores: Tensor, edge: Tensor) -> Tensor:
    """scores >= edge."""
    return torch.from_numpy(scores.detach().numpy() >= edge.numpy()) if _numpy_knows(scores) else scores >= edge


def _numpy_knows(tensor: Tensor) -> bool:
    """Whether numpy can do it: without a branch per element, and so in a half to a seventh of torch's time."""
    return tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16


def picked(values: Tensor, mask: Tensor) -> Tensor:
    """values[mask], both [N]."""
    return torch.from_numpy(np.compress(mask.numpy(), values.numpy())) if _numpy_knows(values) else values[mask]


def places(mask: Tensor) -> Tensor:
    """int64: where a bool tensor is true in the order of its elements; on the CPU by numpy, an eighth of the time of torch's nonzero.

    >>> places(torch.tensor([[False, True], [True, False]])).tolist()
    [1, 2]
    """
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.flatten().nonzero().squeeze(1)


def put(tensor: Tensor, at: Tensor, values: Tensor | float) -> None:
    """Write `values` at the places `at`, counted in the order of the elements, whatever their order in memory is.

    Torch's own put_ refuses under torch.use_deterministic_algorithms.

    >>> matrix = torch.zeros(3, 2).t()
    >>> put(matrix, torch.tensor([1, 3]), 1.0)
    >>> matrix.tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if tensor.is_contiguous():
        tensor.view(-1)[at] = values
    else:
        tensor[torch.unravel_index(at, tensor.shape)] = values


def survivors(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], axes: Mapping[str, int]) -> dict[str, Tensor]:
    """The weights that no method may remove: of each parameter the best alive one, and of those in `axes` (`paths.row_axes`: the output
    layer, by class) the best alive one of each slice along that axis."""
    protected = {}
    for name, mask in masks.items():
        axis = axes.get(name)
        moved = mask if axis is None else mask.movedim(axis, 0)
        rows = mask.reshape(1, -1) if axis is None else moved.reshape(len(moved), -1)
        score = scores[name] if axis is None else scores[name].movedim(axis, 0)
        best = torch.zeros_like(rows)
        best[torch.arange(len(rows)), _first_best(among(score.reshape(rows.shape), rows), mask.shape[-1])] = True
        kept = (best & rows).view(moved.shape)
        protected[name] = kept if axis is None else kept.movedim(0, axis)
    return protected


def _first_best(scores: Tensor, part: int) -> Tensor:
    """argmax over the columns of `scores` [R, N], the first of equal ones; where R is 1 by way of the maxima of parts of that size."""
    if len(scores) != 1 or part in (0, scores.numel()):
        return scores.argmax(1)
    parts = scores.view(-1, part)
    best = parts.amax(1).argmax()
    return (best * part + parts[best].argmax()).view(1)


ALLOCATIONS: Registry[Allocation] = Registry("allocation", Allocation, Layer, Global, ERK)
