"""The finished cells of a study as arrays: what tables, claims and figures are made from. Not here: what they say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from isogrid.core.norms import allowed
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

    def planned(self, ids: Collection[str]) -> list[str]:
        """Those of the named attacks that this level is to have."""
        return [cell.id for cell in self.plan.attacks if cell.id in ids]

    def judged(self, ids: Collection[str], eps: float | None) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """[N] of the envelope over those of `ids` that this level is to have: 1.0 where nothing broke the sample within eps, else 0.0;
        without eps the smallest distance. None where one of them has not finished, or where none decides this.

        What decides: a minimum-norm attack, or one of that very budget. NaN on the samples that no such attack saw: that nothing
        looked for a smaller perturbation is neither a broken sample nor a large distance.
        """
        planned = self.planned(ids)
        if not all(identity in self.attacks for identity in planned):
            return None
        deciding = [self.attacks[identity] for identity in planned if self.attacks[identity].eps in (None, eps)]
        if not deciding:
            return None
        distance = self.envelope(planned).distance
        unseen = np.all([np.isnan(attack.distances(len(distance))) for attack in deciding], axis=0)
        return np.where(unseen, np.nan, distance if eps is None else distance > allowed(eps))


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
    """The levels of one model: the pruned chain and the dense control's, by (seed, level)."""

    model: ModelPlan
    method: str
    objective: str = ""
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
                objective="unknown" if model.spec.checkpoints else study.spec.training.objective,
                seeds=tuple(range(study.spec.seeds_of(model.spec))),
                pruned={(k.plan.seed, k.plan.level): k for k in mine if k.plan.method != "dense"},
                twin={(k.plan.seed, k.plan.level): k for k in mine if k.plan.method == "dense"},
            )
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """The attacks of one norm and one domain on one model, which may share an envelope."""

    norm: str
    domain: str
    cells: tuple[AttackCell, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The attacks' ids, in the order of the specification."""
        return tuple(cell.id for cell in self.cells)

    @property
    def budgets(self) -> tuple[float | None, ...]:
        """The budgets, rising; None, last, where there is a minimum-norm attack."""
        found = {cell.eps for cell in self.cells}
        return (*sorted(eps for eps in found if eps is not None), *((None,) if None in found else ()))

    def narrowed(self, levels: Iterable[Level]) -> Threat:
        """Those of the attacks that every one of the levels is to have."""
        common = set(self.ids).intersection(*(level.planned(self.ids) for level in levels))
        return replace(self, cells=tuple(cell for cell in self.cells if cell.id in common))


def threats(levels: Iterable[Level]) -> list[Threat]:
    """Every norm and domain in which two attacks or more are planned anywhere on the levels of one model."""
    grouped: dict[tuple[str, str], dict[str, AttackCell]] = {}
    for level in levels:
        for cell in level.plan.attacks:
            grouped.setdefault((cell.norm, cell.domain), {})[cell.id] = cell
    return [Threat(norm=where[0], domain=where[1], cells=tuple(cells.values())) for where, cells in grouped.items() if len(cells) > 1]


def attack_cells(study: Plan) -> dict[str, AttackCell]:
    """One cell of every attack of the study, by id: for its configuration."""
    return {cell.id: cell for level in study.levels for cell in level.attacks}
