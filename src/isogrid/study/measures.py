"""From levels to evidence: the per-sample arrays [seeds, levels, samples] of every attack, for sparse network and twin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from isogrid.metrics.robustness import BUDGET_SLACK, saturated
from isogrid.study.evidence import Evidence, Measure
from isogrid.study.levels import Attacked, Family, Level, groups

Array = np.ndarray[Any, Any]


def metric_name(metric: str, norm: str) -> str:
    """r_inf is accuracy under an l_inf budget and r_2 a mean l2 distance; in the other norm they go by their plain names."""
    if metric == "r_inf" and norm != "linf":
        return "robust_accuracy"
    return "mean_distance" if metric == "r_2" and norm != "l2" else metric


def data_title(data: Mapping[str, Any]) -> str:
    """The data's name in tables, with its classes where they were chosen."""
    return str(data["name"]) + ("" if data["classes"] is None else f"[{','.join(map(str, data['classes']))}]")


def _stack(family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], pick: Any, count: int) -> Array:
    """[S, L, N] of `pick(level) -> [N] or None`; NaN where a cell is missing."""
    values = np.full((len(family.seeds), len(levels), count), math.nan)
    for s, seed in enumerate(family.seeds):
        for k, level in enumerate(levels):
            found = source.get((seed, level))
            row = None if found is None else pick(found)
            if row is not None:
                values[s, k, : len(row)] = row[:count]
    return values


def _robust(attack: Attacked) -> Array:
    return (attack.records["adversarial"] == attack.records["label"]).to_numpy().astype(np.float64)


def _distance(attack: Attacked) -> Array:
    return attack.records["distance"].to_numpy()


def evidence_of(family: Family) -> Evidence:
    """Everything that one model of a study can say about the claims."""
    count = len(next(iter(family.pruned.values())).clean)
    levels, twin_levels = family.levels, family.twin_levels

    def correct(level: Level) -> Array:
        return level.correct.astype(np.float64)

    collapsed = np.array([[(s, k) in family.pruned and family.pruned[s, k].metrics["collapsed"] for k in levels] for s in family.seeds])
    return Evidence(
        data=data_title(family.model.data),
        model=family.model.spec.title,
        method=family.method,
        linear=family.model.linear,
        sparsity={level: family.sparsity(level) for level in levels},
        levels=levels,
        correct=_stack(family, family.pruned, levels, correct, count),
        collapsed=collapsed.astype(bool),
        twin_levels=twin_levels,
        twin_correct=_stack(family, family.twin, twin_levels, correct, count) if twin_levels else None,
        measures=tuple(measures(family)),
    )


def measures(family: Family) -> Iterator[Measure]:
    """One measure per attack, and one envelope per norm, domain and budget over the attacks that sparse network and twin share."""
    first = next(iter(family.pruned.values()))
    twin_ids = {identity for found in family.twin.values() for identity in found.attacks}
    for identity in family.attack_ids():
        example = _example(family, identity)
        if example.partial:
            continue
        pick = _robust if example.eps is not None else _distance
        yield _measure(
            family,
            identity,
            example.name,
            (example.norm, example.domain, example.eps),
            lambda level, identity=identity, pick=pick: pick(level.attacks[identity]) if identity in level.attacks else None,
            len(example.records),
            twin=identity in twin_ids,
        )
    shared = [i for i in family.attack_ids() if not twin_ids or i in twin_ids]
    for (norm, domain), ids in groups(first, shared).items():
        found = [_example(family, i).eps for i in ids]
        budgets = [*sorted({eps for eps in found if eps is not None}), *([None] if None in found else [])]
        for eps in budgets:
            yield _measure(
                family,
                f"envelope-{norm}-{domain}" + ("" if eps is None else f"@{eps:g}"),
                "envelope",
                (norm, domain, eps),
                lambda level, ids=ids, eps=eps: _envelope_values(level, ids, eps),
                len(first.clean),
                twin=bool(twin_ids),
            )


def _example(family: Family, identity: str) -> Attacked:
    return next(found.attacks[identity] for found in family.pruned.values() if identity in found.attacks)


def _envelope_values(level: Level, ids: Sequence[str], eps: float | None) -> Array | None:
    if any(identity not in level.attacks for identity in ids):
        return None
    distance = level.envelope(ids).distance
    return distance if eps is None else (distance > eps * (1 + BUDGET_SLACK)).astype(np.float64)


def _measure(
    family: Family, name: str, attack: str, threat: tuple[str, str, float | None], pick: Any, count: int, *, twin: bool
) -> Measure:
    norm, domain, eps = threat
    values = _stack(family, family.pruned, family.levels, pick, count)
    twin_values = _stack(family, family.twin, family.twin_levels, pick, count) if twin and family.twin_levels else None
    fixed = eps is not None
    return Measure(
        name=name,
        attack=attack,
        norm=norm,
        domain=domain,
        eps=eps,
        kind="r_inf" if fixed else "distance",
        levels=family.levels,
        values=values,
        twin_levels=family.twin_levels if twin_values is not None else (),
        twin_values=twin_values,
        saturated=_saturated(family, family.pruned, family.levels, values) if fixed else (),
        twin_saturated=_saturated(family, family.twin, family.twin_levels, twin_values) if fixed and twin_values is not None else (),
    )


def _saturated(family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], values: Array) -> tuple[int, ...]:
    """The levels at the floor or the ceiling of an eps, counts pooled over the seeds."""
    found = []
    for k, level in enumerate(levels):
        seeds = [s for s, seed in enumerate(family.seeds) if (seed, level) in source and not np.isnan(values[s, k]).any()]
        if not seeds:
            continue
        count = values.shape[2]
        correct = [source[family.seeds[s], level].correct[:count] for s in seeds]
        robust = [values[s, k].astype(bool) & right for s, right in zip(seeds, correct, strict=True)]
        if saturated(int(np.sum(robust)), int(np.sum(correct)), count * len(seeds)):
            found.append(level)
    return tuple(found)
