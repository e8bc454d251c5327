"""The paper's black-box attack on a level: a substitute is trained on its labels and attacked, and the examples are submitted to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch

from isogrid import attacks
from isogrid.core.random import derive
from isogrid.study.cells.attack import attack_rows, outcome_result
from isogrid.study.cells.base import BESIDE, Cell, Result, Row
from isogrid.study.cells.train import Architecture, Train, trained
from isogrid.study.store import Entry, Store
from isogrid.training.substitute import SubstituteConfig, blackbox, labels_of, train_substitute
from isogrid.verdicts.records import About


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Substitute(Cell):
    """`attack` on a substitute of architecture `model`, trained in `rounds` from `seed_samples` training samples and their labels."""

    kind: ClassVar[str] = "substitute"

    network: Train
    attack: dict[str, Any]
    model: Architecture
    seed_samples: int
    rounds: int
    seed: int
    about: About = field(metadata=BESIDE)

    @property
    def label(self) -> str:
        return f"{self.about.id} on {self.network.of}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its parameters, for captions."""
        own = {"model": self.model.name, "seed_samples": self.seed_samples, "rounds": self.rounds, "source": self.model.source}
        return {"name": "substitute", "attack": self.attack} | own

    def cost(self, pace: float) -> float:
        return 1.0 + 10 * self.rounds * 6 * self.seed_samples * pace

    def compute(self, store: Store) -> Result:
        split = self.network.data.load()
        target, test = trained(self.network, store), split.test.to(self.device)
        made = train_substitute(
            labels_of(target),
            split.train.x[: self.seed_samples].to(self.device),
            lambda: self.model.build(test.shape, test.classes, derive(self.seed, "substitute"), "blackbox.model").to(self.device),
            SubstituteConfig(rounds=self.rounds),
            seed=self.seed,
            box=test.box,
        )
        inner, seed = attacks.make(self.attack), derive(self.seed, "attack")
        found = blackbox(target, made.model, [inner], test.x, test.y, seed=seed, box=test.box)
        return outcome_result(found.transferred[0], torch.arange(test.n), examples=0)

    def rows(self, entry: Entry) -> Iterator[Row]:
        return attack_rows(self.about, entry)
