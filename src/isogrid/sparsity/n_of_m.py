"""N:M sparsity: of every M neighbouring weights N stay, the pattern that sparse tensor cores run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.parameters import checked
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.layers import layer_weights
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.paths import TRANSPOSED
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training


def _pattern(name: str, value: object) -> str:
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        raise InputError(name, value, 'two whole numbers "N:M" in quotes, such as "2:4", 1 <= N <= M')
    return found[0]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NofM(Pruner):
    """Of every M weights that are neighbours along the inputs of an output the N best stay, for good: `pattern: "2:4"`.

    A group is M weights of one output, consecutive along its inputs (input channels of a convolution, at one place of its kernel: Mishra
    et al. 2021, Zhou et al. 2021). A last group of fewer than M is what padding with zeros makes of it: min(N, size) stay. What is dead
    already stays dead. Ties: the lower index goes first. Pitfall: masks that are chosen anew while fine-tuning break what
    was learnt around them; these are chosen once. A layer of few inputs (a first convolution of one channel) stays dense.
    """

    name: ClassVar[str] = "n-of-m"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    levels: ClassVar[tuple[str, tuple[Any, ...]]] = ("pattern", ("2:4", "1:4", "1:8", "1:16", "1:32"))
    monotone: ClassVar[bool] = True

    pattern: str = checked("2:4", _pattern)
    criterion: Config = settings.criterion()

    def begin(self, training: Training) -> Dynamics:
        scores = training.score(CRITERIA.make(self.criterion))
        n, m = map(int, self.pattern.split(":"))
        layers = layer_weights(training.model)
        axes = {name: 0 if name in layers and isinstance(layers[name].module, TRANSPOSED) else 1 for name in training.masks}
        masks = {name: best_of(scores[name], mask, n, m, min(axes[name], mask.dim() - 1)) for name, mask in training.masks.items()}
        return Static(training.model, Masks(masks))


def best_of(scores: Tensor, mask: Tensor, n: int, m: int, axis: int = 1) -> Tensor:
    """bool, of the shape of `mask`: of every m neighbours along `axis` the n alive ones of the highest scores.

    >>> best_of(torch.tensor([[4.0, 1.0, 2.0, 3.0, 0.1, 0.2]]), torch.ones(1, 6, dtype=torch.bool), 2, 4).tolist()
    [[True, False, False, True, True, True]]
    """
    ranked, alive = (t.movedim(axis, -1) for t in (scores.masked_fill(~mask, -torch.inf), mask))
    size = ranked.shape[-1]
    groups = torch.nn.functional.pad(ranked, (0, -size % m), value=-torch.inf).reshape(*ranked.shape[:-1], -1, m)
    order = groups.flip(-1).argsort(dim=-1, descending=True, stable=True)  # flipped: of equal ones the higher index comes first
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True).flip(-1)
    return (chosen.flatten(-2)[..., :size] & alive).movedim(-1, axis).contiguous()
