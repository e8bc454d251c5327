"""An attack on a trained level: one record per sample, examples for the gallery."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from isogrid import attacks
from isogrid.attacks.driver.base import AttackOutcome
from isogrid.attacks.records import no_records, outcome_frame, to_numpy
from isogrid.core.norms import allowed
from isogrid.core.random import derive
from isogrid.metrics.robustness import attack_metrics, metric_name
from isogrid.study.cells.base import BESIDE, Cell, Result, Row
from isogrid.study.cells.data import EXAMPLES
from isogrid.study.cells.train import Train, trained
from isogrid.study.store import Entry, Store
from isogrid.verdicts.records import About


def about(identity: str, attack: attacks.Attack, **other: Any) -> About:
    """The facts of an attack under its id in tables; `other` replaces some."""
    facts: dict[str, Any] = {
        "id": identity,
        "name": attack.name,
        "norm": attack.threat.name,
        "domain": attack.domain,
        "eps": attack.budget,
        "role": attack.role,
        "strength": attack.strength.get(attack.threat.name, 0),
        "gradients": attack.expected_gradients(),
        "leaky": getattr(attack, "backward", "exact") == "leaky",
    }
    return About(**facts | other)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(Cell):
    """An attack (its configuration) on the first `samples` test samples of a level.

    `before`: attacks of the same threat; only samples that none of them broke are attacked, and only those have a record.
    """

    kind: ClassVar[str] = "attack"

    network: Train
    attack: dict[str, Any]
    seed: int
    samples: int | None
    before: tuple[Attack, ...] = ()
    about: About = field(metadata=BESIDE)

    @property
    def label(self) -> str:
        return f"{self.about.id} on {self.network.of}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its parameters, for captions."""
        return self.attack

    def cost(self, pace: float) -> float:
        count = min(self.samples or self.network.data.counts[1], self.network.data.counts[1])
        return 0.05 + (0.3 if self.before else 1.0) * count * self.about.gradients * pace

    def compute(self, store: Store) -> Result:
        test = self.network.data.load().test
        rows = torch.arange(test.n if self.samples is None else min(self.samples, test.n))
        for cell in self.before:
            earlier = store.read(cell.key).records
            broken = earlier.loc[(earlier["success"] | (earlier["clean"] != earlier["label"])), "sample"]
            rows = rows[~torch.isin(rows, torch.tensor(broken.to_numpy()))]
        if len(rows) == 0:
            return Result(metrics={"n": 0}, records=no_records())
        x, y = test.x[rows].to(self.device), test.y[rows].to(self.device)
        network = trained(self.network, store)
        outcome = attacks.make(self.attack)(network, x, y, seed=derive(self.seed, "attack"), ids=rows, box=test.box)
        return outcome_result(outcome, rows, examples=0 if self.before else EXAMPLES)

    def rows(self, entry: Entry) -> Iterator[Row]:
        return attack_rows(self.about, entry)


def smallest_distances(cells: Sequence[Attack], store: Store, count: int) -> Tensor:
    """The smallest distance [count] that attacks of one norm and domain verified: inf where none broke the sample, 0 where it was wrong.

    What an attack of a fixed budget accepted lies within that budget.
    """
    upper = np.full(count, np.inf)
    for cell in cells:
        records = store.read(cell.key).records
        records = records[records["sample"] < count]
        places, distance = records["sample"].to_numpy(), records["distance"].to_numpy()
        if (eps := cell.about.eps) is not None:
            distance = np.where(np.isinf(distance), distance, np.minimum(distance, allowed(eps)))
        upper[places] = np.minimum(upper[places], distance)
    return torch.from_numpy(upper)


def outcome_result(outcome: AttackOutcome, rows: Tensor, *, examples: int) -> Result:
    """An outcome as it is stored: per-sample records, the counts that tables need, the first examples."""
    frame = outcome_frame(outcome).assign(sample=to_numpy(rows))
    counts = ("correct", "robust", "success", "failed", "zero_gradient", "forwards", "backwards")
    shown = {
        "x_adv": outcome.x_adv[:examples],
        "success": outcome.success[:examples],
        "distance": outcome.distance[:examples],
        "prediction": outcome.adversarial[:examples],
    }
    return Result(
        metrics={"n": len(frame)} | {name: int(getattr(outcome, name).sum()) for name in counts},
        records=frame,
        tensors={"examples": shown} if examples else {},
    )


def attack_rows(facts: About, entry: Entry) -> Iterator[Row]:
    """The figures of one attack on one level."""
    records, eps = entry.records, math.nan if facts.eps is None else facts.eps
    if facts.partial:
        broken = float(records["success"].mean()) if len(records) else math.nan
        yield Row("success_rate_on_survivors", facts.id, facts.norm, facts.domain, eps, broken, len(records))
        return
    columns = {name: records[name] for name in ("label", "clean", "adversarial", "success", "distance", "zero_gradient")}
    found = attack_metrics(**columns, fixed_budget=facts.eps is not None)
    passes = {name: records[name].mean() for name in ("forwards", "backwards")}
    for metric, value in (found | passes).items():
        yield Row(metric_name(metric, facts.norm), facts.id, facts.norm, facts.domain, eps, float(value), len(records))
