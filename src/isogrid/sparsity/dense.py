"""The control: the same rounds of training, nothing removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from isogrid.sparsity.pruner import Dynamics, Pruner, Static, Training


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Pruner):
    """Remove nothing: the same rounds of training, so that each level has a dense control of equal training, the right control."""

    name: ClassVar[str] = "dense"
    relation: ClassVar[Literal["chain", "targets"]] = "chain"
    monotone: ClassVar[bool] = True

    def begin(self, training: Training) -> Dynamics:
        return Static(training.model, training.masks)
