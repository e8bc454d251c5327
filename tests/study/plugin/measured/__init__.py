"""A kind of cell of a user's own: the mean margin of a level, as a figure of the frontier."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from isogrid.attacks.driver.base import margin
from isogrid.study.cells import Cell, Result, Row, Train
from isogrid.study.store import Entry, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins(Cell):
    """The mean of z_y - max other over the first `samples` test samples."""

    kind: ClassVar[str] = "margins"

    network: Train
    samples: int = 50

    @property
    def label(self) -> str:
        return f"margins of {self.network.of}"

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        gap = margin(self.network.restore(store)(test.x[: self.samples]), test.y[: self.samples])
        return Result(metrics={"margin": float(gap.double().mean()), "n": len(gap)})

    def rows(self, entry: Entry) -> Iterator[Row]:
        yield Row("mean_margin", "margins", "", "", math.nan, entry.metrics["margin"], entry.metrics["n"])
