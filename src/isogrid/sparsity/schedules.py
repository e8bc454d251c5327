"""When masks are revised during a training, and how far along a schedule is then. Not here: which weights go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Revisions:
    """Every `every`-th step of a training of `steps`, counted back from the last one, with which the share `until` of them is over.

    >>> [step for step in range(10) if Revisions(10, 3, 0.8).due(step)]
    [1, 4, 7]
    """

    steps: int
    every: int
    until: float

    @property
    def last(self) -> int:
        """The step after which masks are revised for the last time."""
        return max(1, round(self.until * self.steps)) - 1

    def due(self, step: int) -> bool:
        """Whether masks are revised after `step` = 0, 1, ..."""
        return step <= self.last and (self.last - step) % self.every == 0

    def progress(self, step: int) -> float:
        """The share of the way that is behind after `step`: 1 at the last revision."""
        return min(1.0, (step + 1) / (self.last + 1))


def cubic(progress: float) -> float:
    """1 - (1 - progress)^3: the share of the way to its final sparsity that a network has come (Zhu & Gupta 2017).

    >>> cubic(0.0), cubic(0.5), cubic(1.0)
    (0.0, 0.875, 1.0)
    """
    return 1.0 - (1.0 - progress) ** 3


def cosine(progress: float) -> float:
    """(1 + cos(pi progress)) / 2: from 1 to 0.

    >>> cosine(0.0), cosine(1.0)
    (1.0, 0.0)
    """
    return (1.0 + math.cos(math.pi * progress)) / 2
