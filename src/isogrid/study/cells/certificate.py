"""Certified radii of a level in one norm and domain: the lower ends of its brackets, whose upper ends the attacks have found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import torch

from isogrid.attacks.records import to_numpy
from isogrid.certify import make, strongest
from isogrid.metrics.brackets import bracket_metrics
from isogrid.study.cells.attack import Attack, smallest_distances
from isogrid.study.cells.base import Cell, Result, Row
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Entry, Store

NAME = "certificate"
"""What stands in the tables' column of attacks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Cell):
    """The largest radius that any of `methods` (configurations) certifies, for the first `samples` test samples of a level.

    `attacks`: those of the same norm and domain, whose verified distances are upper ends: they save work, and no radius may exceed them.
    `eps`: budgets at which certified accuracy is told.
    """

    kind: ClassVar[str] = NAME

    network: Train
    methods: tuple[dict[str, Any], ...]
    norm: str
    domain: str
    samples: int | None
    eps: tuple[float, ...] = ()
    attacks: tuple[Attack, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.norm} certificates of {self.network.of}"

    def cost(self, pace: float) -> float:
        count = min(self.samples or self.network.data.counts[1], self.network.data.counts[1])
        return 1.0 + len(self.methods) * count * 400 * pace

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        count = test.n if self.samples is None else min(self.samples, test.n)
        x, y = test.x[:count].to(self.device), test.y[:count].to(self.device)
        network, upper, found = trained(self.network, store), smallest_distances(self.attacks, store, count), []
        for config in self.methods:
            method = make(config | {"norm": self.norm, "domain": self.domain})
            found.append(method(network, x, y, upper=upper, box=test.box))
            upper = torch.minimum(upper, found[-1].upper)
        best = strongest(found)
        frame = pd.DataFrame({"sample": np.arange(count), "radius": to_numpy(best.radius), "upper": to_numpy(upper)})
        return Result(metrics={"n": count, "methods": best.method}, records=frame)

    def rows(self, entry: Entry) -> Iterator[Row]:
        lower, upper = (entry.records[name].to_numpy() for name in ("radius", "upper"))
        for metric, eps, value in bracket_metrics(lower, upper, self.eps):
            yield Row(metric, NAME, self.norm, self.domain, math.nan if eps is None else eps, value, len(lower))
