"""Dynamic network surgery with a target sparsity: the threshold follows from the number of weights that may stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, survivors
from isogrid.sparsity.master import Master
from isogrid.sparsity.pruner import Dynamics, Pruner, Training
from isogrid.sparsity.schedules import Revisions, cubic
from isogrid.sparsity.surgery import PRUNE, SPLICE


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SurgeryTarget(Pruner):
    """Dynamic network surgery to a given `sparsity`: at every revision the threshold t is the one that leaves exactly so many weights.

    Surgery's rule, with t solved for: a weight alive is worth |w| / 0.9, a dead one |w| / 1.1, and the best stay or come back. The number
    that may stay falls by the cubic schedule over the share `until` of the training, with a revision every `every` steps, the last exactly
    at its end; then masks are fixed. Dead weights go on learning in a dense master. Without hysteresis that is dynamic pruning with
    feedback (Lin et al. 2020, a revision every 16 steps); the rule is Guo et al. 2016. The state's `revisions` says how many weights died
    and came back, and when. Pitfall: revisions up to the last step leave no training to what came back last; keep `until` below 1.
    """

    name: ClassVar[str] = "surgery-target"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"

    sparsity: float = settings.sparsity(0.9)
    every: int = settings.every(16)
    until: float = settings.until()
    allocation: Config = settings.allocation()

    def begin(self, training: Training) -> Dynamics:
        return _Target(training, self)


class _Target(Master):
    def __init__(self, training: Training, pruner: SurgeryTarget) -> None:
        super().__init__(training)
        self._axes, self._allocation = training.axes(), ALLOCATIONS.make(pruner.allocation)
        self._when = Revisions(training.steps, pruner.every, pruner.until)
        self._most, self._least = self.first.kept, settings.left(self.first, pruner.sparsity)
        self.busy = training.steps > 0
        if not self.busy:
            self._splice(0, 1.0)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._when.due(step):
            self._splice(step, self._when.progress(step))
            self.busy = step < self._when.last

    def _splice(self, step: int, progress: float) -> None:
        count = self._most + round((self._least - self._most) * cubic(progress))
        scores = {n: dense.abs() / torch.where(self.masks[n], PRUNE, SPLICE) for n, dense in self.dense.items()}
        self.revise(self._allocation.keep(scores, self.first, survivors(scores, self.first, self._axes), count), step)
