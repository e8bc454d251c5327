"""The bounds and exact quantities of a linear level, and DeepFool without overshoot, which is exact there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from isogrid import attacks
from isogrid.core.errors import ModelError
from isogrid.study.cells.base import Cell, Result, Row
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Entry, Store
from isogrid.theory import linear_theory, linear_weights


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Theory(Cell):
    """What the theorems on linear models say of a level, at the l_inf budgets `eps`."""

    kind: ClassVar[str] = "theory"

    network: Train
    eps: tuple[float, ...]

    @property
    def label(self) -> str:
        return f"theory of {self.network.of}"

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        network = trained(self.network, store)
        affine = linear_weights(network, test.shape)
        if affine is None:
            raise ModelError("theory: the model is not affine in float64, though it was when the study was planned")
        x, y = test.x.to(self.device), test.y.to(self.device)
        rows: list[dict[str, Any]] = [row._asdict() for row in linear_theory(*affine, x, y, eps=list(self.eps), box=test.box).rows()]
        exact = attacks.make({"name": "deepfool", "candidates": None, "overshoot": 0.0, "domain": "free"})
        found = exact(network, x, y, box=test.box).distance.double()
        mean = float(found[found.isfinite()].mean())
        rows.append({"metric": "r_2_deepfool", "norm": "l2", "domain": "free", "eps": math.nan, "value": mean})
        for row in rows:
            row |= {name: None for name in ("eps", "value") if not math.isfinite(row[name])}
        return Result(metrics={"rows": rows, "n": test.n})

    def rows(self, entry: Entry) -> Iterator[Row]:
        for row in entry.metrics["rows"]:
            eps, value = (math.nan if row[name] is None else row[name] for name in ("eps", "value"))
            yield Row(row["metric"], "theory", row["norm"], row["domain"], eps, value, entry.metrics["n"])
