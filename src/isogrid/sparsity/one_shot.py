"""One-shot pruning: all at once, then the network is trained with what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OneShot(Pruner):
    """Remove all weights but the share 1 - `sparsity` at once, the worst by `criterion`, then train on; nothing comes back.

    With `start: scratch` the untrained network is pruned, whose first weights `fit` has to be told: with the criterion snip and the
    allocation global that is SNIP as published (Lee et al. 2019). Exactly round((1 - sparsity) * total) weights stay, or those that must
    (`survivors`) or that are there: what is dead in the reference stays dead. Pitfall: at high sparsity one cut costs more accuracy than
    the same cut in rounds or by a schedule; compare it at equal training.
    """

    name: ClassVar[str] = "one-shot"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    monotone: ClassVar[bool] = True

    sparsity: float = settings.sparsity(0.9)
    criterion: Config = settings.criterion()
    allocation: Config = settings.allocation()
    start: str = settings.start()

    def begin(self, training: Training) -> Dynamics:
        if self.start == "scratch":
            training.rewind()
        scores = training.score(CRITERIA.make(self.criterion))
        allocation, count = ALLOCATIONS.make(self.allocation), settings.left(training.masks, self.sparsity)
        return Static(training.model, allocation.keep(scores, training.masks, training.survivors(scores), count))
