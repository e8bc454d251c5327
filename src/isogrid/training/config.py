"""The settings of a training, and the learning rate's way through it. Not here: the loop, the optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict

from isogrid.core.errors import one_of
from isogrid.core.parameters import require_number, require_whole
from isogrid.core.registry import Config
from isogrid.core.typed import Real, Whole
from isogrid.training.objectives import OBJECTIVES
from isogrid.training.optimizers import OptimizerConfig
from isogrid.training.penalties import PENALTIES


def one_cycle(progress: float) -> float:
    """Learning-rate factor at `progress` in [0, 1]: cosine from 1/25 up to 1 at 30 %, cosine down to 1e-4/25 (Smith 2018).

    >>> one_cycle(0.3), round(one_cycle(0.0), 3)
    (1.0, 0.04)
    """

    def cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    return cosine(1 / 25, 1.0, progress / 0.3) if progress <= 0.3 else cosine(1.0, 1e-4 / 25, (progress - 0.3) / 0.7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "constant": lambda progress: 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStop:
    """Stop when the epoch's mean training loss has not fallen by `min_delta` for `patience` epochs."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    patience: Whole = 5
    min_delta: Real = 1e-4

    def __post_init__(self) -> None:
        object.__setattr__(self, "patience", require_whole("early_stop.patience", self.patience))
        object.__setattr__(self, "min_delta", require_number("early_stop.min_delta", self.min_delta, 0))

    def reached(self, losses: list[float]) -> bool:
        """Whether the mean losses per epoch so far end the training."""
        return len(losses) > self.patience and min(losses[-self.patience :]) > min(losses[: -self.patience]) - self.min_delta


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Everything that decides the outcome of one `fit`, given model, data, pruner and seed.

    objective, penalty: a registered name or `file.py:Class`, alone or as `{"name": ..., **settings}`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    epochs: Whole = 40
    batch_size: Whole = 128
    objective: Config = "natural"
    penalty: Config | None = None
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    early_stop: EarlyStop | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", require_whole("epochs", self.epochs, 0))
        object.__setattr__(self, "batch_size", require_whole("batch_size", self.batch_size))
        if not isinstance(self.schedule, str) or self.schedule not in SCHEDULES:
            raise one_of("schedule", str(self.schedule), SCHEDULES)
        object.__setattr__(self, "objective", OBJECTIVES.plain(self.objective))
        if self.penalty is not None:
            object.__setattr__(self, "penalty", PENALTIES.plain(self.penalty))

    @property
    def passes(self) -> int:
        """How many passes forward and back a step takes, for forecasts, which do not load the user's own files (1)."""
        name = self.objective if isinstance(self.objective, str) else self.objective["name"]
        return OBJECTIVES.make(self.objective).passes if name in OBJECTIVES else 1
