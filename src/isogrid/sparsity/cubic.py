"""Gradual pruning by the cubic schedule, during one training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from isogrid.core.registry import Config
from isogrid.sparsity import settings
from isogrid.sparsity.allocation import ALLOCATIONS, survivors
from isogrid.sparsity.criteria import CRITERIA
from isogrid.sparsity.masks import Masks
from isogrid.sparsity.pruner import Dynamics, Pruner, Record, Static, Training
from isogrid.sparsity.schedules import Revisions, cubic


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cubic(Pruner):
    """From dense to `sparsity` in small steps during the training: s_t = s_f + (s_i - s_f) (1 - t)^3 (Zhu & Gupta 2017).

    t runs from 0 to 1 over the share `until` of the training; masks are revised every `every` steps (100 in the paper, whose trainings
    are tens of thousands of steps long), the last time exactly at the end, where the target is reached to one weight; then they stay. A
    dead weight is zero and not learning, so nothing comes back. Pitfall: a schedule that is cut short leaves a mask of its middle in
    force; a training does not stop early before it has ended.
    """

    name: ClassVar[str] = "cubic"
    relation: ClassVar[Literal["chain", "targets"]] = "targets"
    monotone: ClassVar[bool] = True

    sparsity: float = settings.sparsity(0.9)
    every: int = settings.every(20)
    until: float = settings.until()
    criterion: Config = settings.criterion()
    allocation: Config = settings.allocation()

    def begin(self, training: Training) -> Dynamics:
        return _Gradual(training, self)


class _Gradual(Static):
    def __init__(self, training: Training, pruner: Cubic) -> None:
        super().__init__(training.model, training.masks)
        self._training, self._axes, self._record = training, training.axes(), Record()
        self._criterion, self._allocation = CRITERIA.make(pruner.criterion), ALLOCATIONS.make(pruner.allocation)
        self._when = Revisions(training.steps, pruner.every, pruner.until)
        self._first, self._last = training.masks.kept, settings.left(training.masks, pruner.sparsity)
        self.busy = training.steps > 0
        if not self.busy:
            self._prune(0, 1.0)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._when.due(step):
            self._prune(step, self._when.progress(step))
            self.busy = step < self._when.last

    def _prune(self, step: int, progress: float) -> None:
        count = self._first + round((self._last - self._first) * cubic(progress))
        scores, before = self._training.score(self._criterion), self.masks
        protected = survivors(scores, before, self._axes)
        self.revise(self._allocation.keep(scores, before, protected, count))
        self._record.note(step, before, self.masks)

    def finish(self) -> tuple[Masks, dict[str, Tensor]]:
        return self.masks, self._record.state()
