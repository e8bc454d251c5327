"""Complete search on a level: which samples are robust in truth, or how far each one really is from a boundary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import torch

from isogrid.attacks.records import to_numpy
from isogrid.certify import make
from isogrid.core.norms import allowed, norm as norm_of
from isogrid.metrics.brackets import bracket_metrics
from isogrid.study.cells.attack import Attack, smallest_distances
from isogrid.study.cells.base import Cell, Result, Row
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Entry, Store

NAME = "exact"
"""What stands in the tables' column of attacks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Cell):
    """A complete `method` (a configuration) on the first `samples` test samples of a level.

    At a budget `eps` every sample ends as certified (`lower` is eps), broken (`upper` is the distance of a counterexample that the model
    itself misclassifies) or, where the method's limit was reached, undecided (0 and inf). Without one they are the ends of the smallest
    distance.
    `attacks`: those of the same norm and domain; what they broke is not searched.
    """

    kind: ClassVar[str] = NAME

    network: Train
    method: dict[str, Any]
    norm: str
    domain: str
    eps: float | None
    samples: int | None
    attacks: tuple[Attack, ...] = ()

    @property
    def label(self) -> str:
        return f"complete search, {self.norm}" + ("" if self.eps is None else f" eps {self.eps:g}") + f", on {self.network.of}"

    def cost(self, pace: float) -> float:
        count = min(self.samples or self.network.data.counts[1], self.network.data.counts[1])
        return 1.0 + count * (2000 if self.eps is None else 400) * pace

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        count = test.n if self.samples is None else min(self.samples, test.n)
        x, y = test.x[:count].to(self.device), test.y[:count].to(self.device)
        method = make(self.method | {"norm": self.norm, "domain": self.domain})
        network, upper, lower = trained(self.network, store), smallest_distances(self.attacks, store, count), torch.zeros(count).double()
        if self.eps is None:
            found = method(network, x, y, upper=upper, box=test.box)
            lower, upper = found.radius, torch.minimum(upper, found.upper)
        elif len(rows := torch.nonzero(~(upper <= allowed(self.eps))).squeeze(1)):
            verdicts = method.verify(network, x[rows], y[rows], self.eps, box=test.box)
            lower[rows[verdicts.certified]] = self.eps
            distance = norm_of(self.norm).size(verdicts.x_adv.double() - x[rows].double()).cpu()
            upper[rows] = torch.where(verdicts.broken, torch.minimum(upper[rows], distance), upper[rows])
        frame = pd.DataFrame({"sample": np.arange(count), "lower": to_numpy(lower), "upper": to_numpy(upper)})
        return Result(metrics={"n": count}, records=frame)

    def rows(self, entry: Entry) -> Iterator[Row]:
        lower, upper = (entry.records[name].to_numpy() for name in ("lower", "upper"))
        wanted = {"certified_radius", "attacked_radius", "exact_share"} if self.eps is None else {"certified_accuracy", "unbroken_accuracy"}
        for metric, eps, value in bracket_metrics(lower, upper, () if self.eps is None else (self.eps,)):
            if metric in wanted:
                yield Row(metric, NAME, self.norm, self.domain, math.nan if eps is None else eps, value, len(lower))
