"""The finished cells of a study as arrays: what tables, claims and figures are made from. Not here: what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from isogrid.metrics.robustness import Distances, Envelope, envelope
from isogrid.study.plans import AttackCell, LevelPlan, ModelPlan, Plan
from isogrid.study.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """One finished attack on one level: per-sample records and what it was.

    `partial`: it saw only the survivors of the attacks before it, and speaks through the envelope alone.
    """

    id: str
    name: str
    norm: str
    domain: str
    eps: float | None
    gradient_free: bool
    partial: bool
    records: pd.DataFrame

    def distances(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[count] in the order of the test samples; NaN where it was not run. What the driver accepted as within eps is not beyond it."""
        values = np.full(count, np.nan)
        values[self.records["sample"].to_numpy()] = self.records["distance"].to_numpy()
        return values if self.eps is None else np.where(np.isinf(values), values, np.minimum(values, self.eps))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One finished level: its plan, the metrics and per-sample predictions of its train cell, its finished attacks, theory rows, and its
    audit's findings and checks where it was probed."""

    plan: LevelPlan
    metrics: dict[str, Any]
    clean: pd.DataFrame
    attacks: dict[str, Attacked]
    theory: list[dict[str, Any]]
    probed: dict[str, Any]

    @property
    def correct(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """bool [N]: the clean prediction is right."""
        return (self.clean["label"] == self.clean["prediction"]).to_numpy()

    def envelope(self, ids: Sequence[str]) -> Envelope:
        """The per-sample minimum over the named attacks, each counting where it was run."""
        chosen = [self.attacks[identity] for identity in ids]
        count = len(self.clean)
        return envelope([Distances(attack=a.id, norm=a.norm, domain=a.domain, distance=a.distances(count)) for a in chosen])


def read_levels(study: Plan, store: Store) -> list[Level]:
    """Every level whose training has finished, with the attacks on it that have."""
    found = []
    for level in study.levels:
        if not store.finished(level.train):
            continue
        trained = store.read(level.train)
        attacked = {}
        for cell in level.attacks:
            if store.finished(cell.key):
                attacked[cell.id] = Attacked(
                    id=cell.id,
                    name=cell.config["name"],
                    norm=cell.norm,
                    domain=cell.domain,
                    eps=cell.eps,
                    gradient_free=cell.gradient_free,
                    partial=bool(cell.before),
                    records=store.read(cell.key).records,
                )
        theory = store.read(level.theory).metrics["rows"] if level.theory is not None and store.finished(level.theory) else []
        probed = store.read(level.audit).metrics if level.audit is not None and store.finished(level.audit) else {}
        found.append(Level(plan=level, metrics=trained.metrics, clean=trained.records, attacks=attacked, theory=theory, probed=probed))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The levels of one model: the pruned chain and the twin's, by (seed, level)."""

    model: ModelPlan
    method: str
    seeds: tuple[int, ...]
    pruned: dict[tuple[int, int], Level]
    twin: dict[tuple[int, int], Level]

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels of the pruned chain that are there for any seed."""
        return tuple(sorted({level for _, level in self.pruned}))

    @property
    def twin_levels(self) -> tuple[int, ...]:
        """The attacked rounds of the twin."""
        return tuple(sorted({level for (_, level), found in self.twin.items() if found.attacks}))

    def sparsity(self, level: int) -> float:
        """Share of weights removed at a level (the same for every seed up to ties)."""
        return float(np.mean([found.metrics["sparsity"] for (_, k), found in self.pruned.items() if k == level]))

    def attack_ids(self) -> tuple[str, ...]:
        """Every attack that finished on some pruned level, in the order of the specification."""
        return tuple(dict.fromkeys(identity for found in self.pruned.values() for identity in found.attacks))


def families(study: Plan, levels: Sequence[Level]) -> list[Family]:
    """The levels grouped by model."""
    result = []
    for model in study.models:
        mine = [level for level in levels if level.plan.model == model.spec.title]
        result.append(
            Family(
                model=model,
                method=study.spec.method_of(model.spec),
                seeds=tuple(range(study.spec.seeds_of(model.spec))),
                pruned={(k.plan.seed, k.plan.level): k for k in mine if k.plan.method != "dense"},
                twin={(k.plan.seed, k.plan.level): k for k in mine if k.plan.method == "dense"},
            )
        )
    return result


def groups(level: Level, ids: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """(norm, domain) -> the attacks among `ids` that may share an envelope there; only where there are two or more."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for identity in ids:
        if identity in level.attacks:
            attack = level.attacks[identity]
            grouped.setdefault((attack.norm, attack.domain), []).append(identity)
    return {threat: found for threat, found in grouped.items() if len(found) > 1}


def attack_cells(study: Plan) -> dict[str, AttackCell]:
    """One cell of every attack of the study, by id: for its configuration."""
    return {cell.id: cell for level in study.levels for cell in level.attacks}
