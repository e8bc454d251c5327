"""Structured pruning: whole channels and neurons go, so that the layers can be made smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.core.errors import ModelError
from isogrid.core.parameters import choice
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.coupling import Structures, structures
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Channels(Pruner):
    """Remove whole channels and neurons, the worst by `criterion`, until at least `sparsity` of all weights are gone, then train on.

    Torch-Pruning says what goes together (`structures`): a channel is the weights that make it, in every layer that adds to it, and those
    that read it. Its worth is the mean over these layers of the sum of its weights' scores there, each divided by the layer's mean over
    all channels (with magnitude the l1 norm of filters, Li et al. 2017, over groups as in Fang et al. 2023). `allocation: layer` removes
    the same share of every layer's channels, `global` the worst of all. Reached is the sparsity asked for or more, by less than one
    channel; or less, where every layer is down to what it must keep (`survivors`) or cannot be made smaller (`structures`).
    `compact` gives the network with really smaller layers. Needs the extra `structured`.
    Pitfalls: a removed channel may still give a constant, its bias or batch-norm's shift; here nothing reads it any more. At high sparsity
    equal shares leave narrow layers next to nothing: a LeNet-300-100 at 99 % three neurons and one, where `global` leaves three and nine.
    """

    name: ClassVar[str] = "channels"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    monotone: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    sparsity: float = settings.sparsity(0.9)
    criterion: Config = settings.criterion()
    allocation: str = choice("layer", ("layer", "global"))

    def begin(self, training: Training) -> Dynamics:
        masks = training.masks
        groups = [one for one in structures(training.model, training.batch[0]) if all(place.name in masks for place in one.places)]
        if not groups:
            raise ModelError("model: it has no channel or neuron that can be removed (`isogrid.sparsity.structures`); use another method")
        scores = training.score(CRITERIA.make(self.criterion))
        worth = _worth(groups, {name: scores[name] * mask for name, mask in masks.items()})
        order = _order(worth, _protected(groups, worth, training), by_layer=self.allocation == "layer")
        wanted, low, high = settings.left(masks, self.sparsity), 0, len(order)
        while low < high:  # the fewest that have to go
            middle = (low + high) // 2
            low, high = (low, middle) if _without(groups, order[:middle], masks).kept <= wanted else (middle + 1, high)
        return Static(training.model, _without(groups, order[:low], masks))


def _worth(groups: Sequence[Structures], scores: Mapping[str, Tensor]) -> list[Tensor]:
    """[C] of every group."""
    found = []
    for group in groups:
        parts = [total / total.mean().clamp(min=torch.finfo(total.dtype).tiny) for total in group.sums(scores)]
        found.append(torch.stack(parts).mean(0))
    return found


def _protected(groups: Sequence[Structures], worth: Sequence[Tensor], training: Training) -> list[Tensor]:
    """bool [C] of every group: those that hold a weight that must stay, where a weight is worth what its structures are."""
    values = {name: torch.zeros(mask.shape, device=mask.device) for name, mask in training.masks.items()}
    for group, each in zip(groups, worth, strict=True):
        for place in group.places:
            value = values[place.name].movedim(place.axis, 0)
            index = place.index.to(value.device)
            value[index.flatten()] += each.float().repeat_interleave(index.shape[1]).view(-1, *[1] * (value.dim() - 1))
    stay = training.survivors(values)
    return [torch.stack([total > 0 for total in group.sums(stay)]).any(0) for group in groups]


def _order(worth: Sequence[Tensor], protected: Sequence[Tensor], *, by_layer: bool) -> list[tuple[int, int]]:
    """(group, structure) of all that may go, the first to go first; of equal ones the lower index."""
    keys = [_shares(each) if by_layer else each for each in worth]
    order = torch.cat(keys).argsort(stable=True).tolist()
    places = [(g, c) for g, each in enumerate(worth) for c in range(len(each))]
    stay = torch.cat(list(protected)).tolist()
    return [places[i] for i in order if not stay[i]]


def _shares(worth: Tensor) -> Tensor:
    """[C]: the share of a layer's structures that are gone once this one is, the worst first.

    >>> _shares(torch.tensor([3.0, 1.0, 2.0, 1.0])).tolist()
    [1.0, 0.25, 0.75, 0.5]
    """
    shares = torch.empty(len(worth), dtype=torch.float64, device=worth.device)
    shares[worth.argsort(stable=True)] = torch.arange(1, len(worth) + 1, dtype=torch.float64, device=worth.device) / len(worth)
    return shares


def _without(groups: Sequence[Structures], gone: Sequence[tuple[int, int]], masks: Masks) -> Masks:
    """The masks with these structures dead."""
    found = {name: mask.clone() for name, mask in masks.items()}
    for g, group in enumerate(groups):
        dead = torch.zeros(len(group), dtype=torch.bool)
        dead[[c for which, c in gone if which == g]] = True
        group.cut(found, dead)
    return Masks(found)
