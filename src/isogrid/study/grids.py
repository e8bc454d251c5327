"""Weight x activation sparsity: arms that differ by their penalty alone, as one grid per measure. Not here: drawing, judging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from isogrid.metrics.robustness import metric_name
from isogrid.study.axes import penalised_arms
from isogrid.study.curves import ENVELOPES, point_of
from isogrid.study.plan import Plan
from isogrid.study.results import Grid, GridRow, Group, Point
from isogrid.verdicts.evidence import Evidence, Measure
from isogrid.verdicts.grid import Place, surface
from isogrid.verdicts.measures import evidence_of, strongest
from isogrid.verdicts.records import Family


def grids(study: Plan, grouped: Sequence[Family]) -> Iterator[Grid]:
    """The grids of every arm without a penalty that has penalised ones beside it: accuracy, then the strongest measure of every threat
    model and budget. None without a level beyond the dense network, or where that was not trained.
    """
    by_arm = {family.arm: family for family in grouped}
    for family in grouped:
        rows = [family, *(by_arm[one.arm] for one in penalised_arms(study, family.arm) if one.arm in by_arm)]
        numbers = sorted({level for row in rows for level in row.levels})
        if len(rows) < 2 or len(numbers) < 2 or 0 not in family.levels:
            continue
        flat = {
            (seed, place * len(numbers) + numbers.index(number)): level
            for place, row in enumerate(rows)
            for (seed, number), level in row.pruned.items()
        }
        places = [Place(penalty=row.arm.penalty, level=number) for row in rows for number in numbers]
        whole = Family(arm=family.arm, linear=family.linear, seeds=family.seeds, pruned=flat, control={})
        evidence = evidence_of(whole, strongest)
        clean = Measure(name="", attack="", norm="", domain="", eps=None, kind="r_inf", levels=evidence.levels, values=evidence.correct)
        yield Grid(arm=family.arm, group=Group(metric="accuracy"), rows=_rows(whole, evidence, clean, places))
        for measure in evidence.measures:
            found = surface(evidence, measure, places, study.spec.tolerance.model_dump())
            metric = metric_name("r_inf" if measure.kind == "r_inf" else "r_2", measure.norm)
            yield Grid(
                arm=family.arm,
                group=Group(metric=metric, norm=measure.norm, domain=measure.domain, eps=measure.eps),
                attack=ENVELOPES.get(measure.attack, measure.name),
                rows=_rows(whole, evidence, measure, places),
                ridge=found.ridge,
                corner=found.corner,
                mute=found.mute,
            )


def _rows(whole: Family, evidence: Evidence, measure: Measure, places: Sequence[Place]) -> tuple[GridRow, ...]:
    """The cells that were measured, row by row; a point's level is that of pruning."""
    cells: dict[str, list[tuple[Point, float]]] = {place.penalty: [] for place in places}
    for k, index in enumerate(measure.levels):
        place, share = places[index], np.mean([level.activations for (_, number), level in whole.pruned.items() if number == index])
        point = point_of(evidence, index, measure.values[:, k], index in measure.saturated, measure.kind)
        if point.seeds:
            cells[place.penalty].append((replace(point, level=place.level), float(share)))
    return tuple(
        GridRow(penalty=penalty, points=tuple(point for point, _ in row), activations=tuple(share for _, share in row))
        for penalty, row in cells.items()
    )
