"""The finished cells of a study, level by level. Not here: what a cell holds, what the figures say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isogrid.study.axes import penalised_family
from isogrid.study.cells import Cell, Certificate, Exact, Lipschitz
from isogrid.study.plan import LevelPlan, Plan
from isogrid.study.store import Entry, Store
from isogrid.verdicts.records import Attacked, Bracketed, Family, Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One level whose training has finished: its plan, its records, and every cell of it that has finished, in the order of the plan."""

    plan: LevelPlan
    level: Level
    cells: tuple[tuple[Cell, Entry], ...]

    def entries(self, kind: str) -> Iterator[Entry]:
        """What the finished cells of one kind have stored."""
        return (entry for cell, entry in self.cells if cell.kind == kind)


def read_levels(study: Plan, store: Store) -> list[Finished]:
    """Every level whose training has finished, with whatever else has finished on it."""
    found = []
    for plan in study.levels:
        if not store.finished(plan.train.key):
            continue
        cells = [(cell, store.read(cell.key)) for cell in plan.cells if store.finished(cell.key)]
        entries = {id(cell): entry for cell, entry in cells}
        trained = entries[id(plan.train)]
        level = Level(
            arm=plan.arm,
            seed=plan.seed,
            level=plan.level,
            round=plan.round,
            metrics=trained.metrics,
            clean=trained.records,
            planned=tuple(cell.about for cell in plan.attacks),
            attacks={
                cell.about.id: Attacked(about=cell.about, records=entries[id(cell)].records) for cell in plan.attacks if id(cell) in entries
            },
            brackets={
                (cell.norm, cell.domain): Bracketed(
                    norm=cell.norm,
                    domain=cell.domain,
                    budgets=cell.eps,
                    lower=entry.records["radius"].to_numpy(),
                    upper=entry.records["upper"].to_numpy(),
                )
                for cell, entry in cells
                if isinstance(cell, Certificate)
            },
            exact={
                (cell.norm, cell.domain, cell.eps): Bracketed(
                    norm=cell.norm,
                    domain=cell.domain,
                    budgets=() if cell.eps is None else (cell.eps,),
                    lower=entry.records["lower"].to_numpy(),
                    upper=entry.records["upper"].to_numpy(),
                )
                for cell, entry in cells
                if isinstance(cell, Exact)
            },
            near=next((entry.records for cell, entry in cells if isinstance(cell, Lipschitz)), None),
        )
        found.append(Finished(plan=plan, level=level, cells=tuple(cells)))
    return found


def families(study: Plan, levels: Sequence[Finished]) -> list[Family]:
    """The levels of every arm that has some, each with those of its dense control.

    A level that has had as many rounds of training as its number is compared with the control of that round. Where every level comes
    from the dense reference, the control of the round that all of them have had stands beside each. The first arm without a
    penalty of every model and objective has its penalised dense networks beside it.
    """
    found = []
    judged: set[tuple[str, str]] = set()
    for arm in study.arms:
        pruned = {(one.level.seed, one.level.level): one.level for one in levels if one.level.arm == arm}
        if arm.control or not pruned:
            continue
        control = {(one.level.seed, one.level.level): one.level for one in levels if one.level.arm == arm.dense_control}
        if any(level.round != number for (_, number), level in pruned.items()):
            beside = {(seed, number): control.get((seed, level.round)) for (seed, number), level in pruned.items() if number}
            control = {place: level for place, level in beside.items() if level is not None}
        network = study.network(arm)
        seeds = tuple(range(study.spec.seeds_of(network.spec)))
        penalised = None if (arm.model, arm.objective) in judged else penalised_family(study, arm, [one.level for one in levels], seeds)
        judged |= {(arm.model, arm.objective)} if penalised is not None else set()
        found.append(Family(arm=arm, linear=network.linear, seeds=seeds, pruned=pruned, control=control, penalised=penalised))
    return found
