"""Lottery-ticket rewinding: progressive masks, and every level trained anew from the first weights."""

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
class Lottery(Pruner):
    """Remove the share `rate` of the weights still alive by what training made of them, then train from the first weights again.

    A round: score the weights that the parent's training ended with, remove round(rate * alive) of them, put every parameter and buffer
    back to what the dense reference's training started from, and train what is left (Frankle & Carbin 2019, rewound to iteration 0, 20 % a
    round). Pitfalls: a level has only its own round of training behind it, so give a study as many `retrain_epochs` as `epochs`; large
    networks win no ticket at iteration 0 (Frankle et al. 2020); a reference from a file cannot be rewound.
    """

    name: ClassVar[str] = "lottery"
    relation: ClassVar[Literal["chain", "targets"]] = "chain"
    monotone: ClassVar[bool] = True

    rate: float = settings.rate(0.2)
    criterion: Config = settings.criterion()
    allocation: Config = settings.allocation()

    def begin(self, training: Training) -> Dynamics:
        scores, masks = training.score(CRITERIA.make(self.criterion)), training.masks
        masks = ALLOCATIONS.make(self.allocation).prune(scores, masks, training.survivors(scores), self.rate)
        training.rewind()
        return Static(training.model, masks)
