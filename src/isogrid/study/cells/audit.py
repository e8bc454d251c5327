"""The probes of one level: what its own attacks cannot say about themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, final

from isogrid import attacks
from isogrid.audit.model import examine_model
from isogrid.core.random import derive
from isogrid.study.cells.base import BESIDE, Cell, Result
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Store


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Cell):
    """What `examine_model` finds with the study's `attacks` on the first `samples` test samples; `gradients`: their expected cost."""

    kind: ClassVar[str] = "audit"

    network: Train
    attacks: tuple[dict[str, Any], ...]
    samples: int
    gradients: float = field(metadata=BESIDE)

    @property
    def label(self) -> str:
        return f"audit of {self.network.of}"

    def cost(self, pace: float) -> float:
        return 0.5 + self.samples * self.gradients * pace

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        x, y = test.x[: self.samples].to(self.device), test.y[: self.samples].to(self.device)
        chosen = [attacks.make(config) for config in self.attacks]
        network, seed = trained(self.network, store), derive(0, "audit")
        return Result(metrics=asdict(examine_model(network, x, y, chosen, seed=seed, samples=self.samples, box=test.box)))
