"""Progressive pruning: a round removes a share of the weights still alive, then the network is trained again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, survivors
from isogrid.sparsity.criteria import CRITERIA, Batch, Loss, scores_of
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.paths import row_axes
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training

MASKS = "the masks of that network: Masks.dense(model), or what an earlier round gave"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Progressive(Pruner):
    """Remove the share `rate` of the weights still alive, then retrain; removed weights never come back.

    A round removes round(rate * alive) weights, of each layer where the allocation is `layer`. After k rounds the sparsity is
    1 - (1 - rate)^k, up to rounding and to what must stay: every layer keeps its best weight, the last layer the best weight of each
    output class, so that no class loses its last weight.
    Source: Han et al. 2015.

    >>> net = nn.Linear(10, 2)
    >>> Progressive(rate=0.5).prune(net, Masks.dense(net)).kept
    10
    """

    name: ClassVar[str] = "progressive"
    relation: ClassVar[Literal["chain", "targets"]] = "chain"
    monotone: ClassVar[bool] = True

    rate: float = settings.rate(1 / 3)
    criterion: Config = settings.criterion()
    allocation: Config = settings.allocation()

    def begin(self, training: Training) -> Dynamics:
        scores = training.score(CRITERIA.make(self.criterion))
        return Static(training.model, self._round(scores, training.masks, training.survivors(scores)))

    def prune(self, model: nn.Module, masks: Masks, *, batch: Batch | None = None, loss: Loss | None = None) -> Masks:
        """The masks after one round, for a loop of your own; `model` is not changed.

        `batch`, `loss`: what the criterion scores on; magnitude and random need neither. Without a batch the output layer is looked for
        in the model's code (`row_axes`). Raises InputError where another criterion lacks them.
        """
        if not isinstance(masks, Masks) or not masks:
            raise InputError("masks", "none" if masks is None or not masks else f"a {type(masks).__name__}", MASKS)
        masks.check(model)
        criterion, nothing = CRITERIA.make(self.criterion), (Tensor(), Tensor())
        if criterion.needs_samples and (batch is None or loss is None):
            raise InputError("batch, loss", None, f"samples (x, y) and a loss(model, x, y), which the criterion {self.criterion} scores on")
        scores = scores_of(criterion, model, batch or nothing, loss or _no_loss, seed=0, purpose=())
        return self._round(scores, masks, survivors(scores, masks, row_axes(model, None if batch is None else batch[0])))

    def _round(self, scores: Mapping[str, Tensor], masks: Masks, protected: Mapping[str, Tensor]) -> Masks:
        return ALLOCATIONS.make(self.allocation).prune(scores, masks, protected, self.rate)


def _no_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    raise InputError("loss", None, "a loss(model, x, y)")
