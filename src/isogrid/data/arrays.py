"""What a reader hands over before anything is cut or scaled. What does not belong here: knowledge of any file format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrays:
    """Inputs as stored, x [N, *S] uint8 (scaled by 1/255 later) or float32, and labels y int64 [N]."""

    x: np.ndarray
    y: np.ndarray

    def take(self, indices: np.ndarray) -> Arrays:
        """The samples at `indices`."""
        return Arrays(x=self.x[indices], y=self.y[indices])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """All samples of one source; `test` is None where the source has no test set of its own (one is then held out).

    `held_out`: how many samples of `train` become the test set then. `classes` None: the largest label + 1.
    """

    train: Arrays
    test: Arrays | None
    source: str
    classes: int | None = None
    held_out: int | None = None
    box: tuple[float, float] = (0.0, 1.0)
