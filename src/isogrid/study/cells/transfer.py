"""The transfer matrix of one chain of levels: what fools one level, submitted to every other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, final

from isogrid import attacks
from isogrid.attacks import transfer_matrix
from isogrid.core.random import derive
from isogrid.study.cells.base import BESIDE, Cell, Result
from isogrid.study.cells.train import Train
from isogrid.study.store import Store
from isogrid.verdicts.records import About


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Cell):
    """Accuracy of every level (columns) on what fools every level (rows), on the first `samples` test samples; `of`: the model's title."""

    kind: ClassVar[str] = "transfer"

    networks: tuple[Train, ...]
    attack: dict[str, Any]
    samples: int | None
    about: About = field(metadata=BESIDE)
    of: str = field(metadata=BESIDE)

    @property
    def label(self) -> str:
        return f"transfer between the levels of {self.of}"

    def cost(self, pace: float) -> float:
        count = len(self.networks)
        return 0.1 + count * (count / 3 + self.about.gradients) * self.networks[0].data.counts[1] * pace

    def compute(self, store: Store) -> Result:
        test = self.networks[0].data.load().test
        x, y = test.x[: self.samples].to(self.device), test.y[: self.samples].to(self.device)
        networks = [network.restore(store) for network in self.networks]
        matrix = transfer_matrix(networks, attacks.make(self.attack), x, y, seed=derive(0, "attack"), box=test.box)
        return Result(metrics={"matrix": matrix.tolist(), "n": len(y)})
