"""From levels to evidence: the per-sample arrays [seeds, levels, samples] of every attack, for sparse network and dense control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from isogrid.metrics.robustness import saturated
from isogrid.study.levels import Attacked, Family, Level, Threat, threats
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import Evidence, Measure

Array = np.ndarray[Any, Any]
ENVELOPE, SHARED = "envelope", "shared envelope"
"""The per-sample minimum over all attacks of a threat, and that over the attacks that all levels and the dense control have in common."""
STRENGTH = (
    (ENVELOPE,),
    (SHARED,),
    ("autoattack",),
    ("apgd-t", "ddn"),
    ("apgd-dlr", "fmn"),
    ("apgd-ce", "superdeepfool"),
    ("pgd", "fab"),
    ("square", "cw"),
    ("rfgs", "deepfool"),
    ("fgs",),
)
"""The attacks by strength as benchmarks of others rank them (AttackBench; Croce & Hein 2020), fixed before any figure is seen."""


def strength(attack: str) -> int:
    """The rank of an attack: larger is stronger, 0 where nobody has ranked it."""
    return next((len(STRENGTH) - place for place, names in enumerate(STRENGTH) if attack in names), 0)


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
    levels, control_levels = family.levels, family.twin_levels

    def correct(level: Level) -> Array:
        return level.correct.astype(np.float64)

    collapsed = np.array([[(s, k) in family.pruned and family.pruned[s, k].metrics["collapsed"] for k in levels] for s in family.seeds])
    return Evidence(
        arm=Arm(data=data_title(family.model.data), model=family.model.spec.title, objective=family.objective, pruner=family.method),
        linear=family.model.linear,
        sparsity={level: family.sparsity(level) for level in levels},
        levels=levels,
        correct=_stack(family, family.pruned, levels, correct, count),
        collapsed=collapsed.astype(bool),
        control_levels=control_levels,
        control_correct=_stack(family, family.twin, control_levels, correct, count) if control_levels else None,
        measures=tuple(measures(family)),
    )


def measures(family: Family) -> Iterator[Measure]:
    """What contrasts may rest on: one measure per attack, and one envelope per norm, domain and budget over the same attacks everywhere."""
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
    for threat in threats(family.pruned.values()):
        common, twin = shared(family, threat)
        if len(common.ids) > 1:
            yield from _envelopes(family, common, ENVELOPE if set(common.ids) == set(threat.ids) else SHARED, twin=twin)


def shared(family: Family, threat: Threat) -> tuple[Threat, bool]:
    """The attacks of a threat that every sparse level has and, where it was attacked so, every attacked round of the twin; whether it was.

    An attack that only some levels met would make those levels look weaker than the others.
    """
    everywhere = threat.narrowed(family.pruned.values())
    both = everywhere.narrowed(found for found in family.twin.values() if found.plan.attacks)
    met = bool(both.ids) and bool(family.twin_levels)
    return (both, True) if met else (everywhere, False)


def headlines(family: Family) -> Iterator[Measure]:
    """The envelopes over ALL attacks of a threat, where these differ from those that contrasts may rest on: what figures and tables show.

    Without a twin: it met other attacks.
    """
    for threat in threats(family.pruned.values()):
        if set(shared(family, threat)[0].ids) != set(threat.ids):
            yield from _envelopes(family, threat, ENVELOPE, twin=False)


def _envelopes(family: Family, threat: Threat, name: str, *, twin: bool) -> Iterator[Measure]:
    count = len(next(iter(family.pruned.values())).clean)
    for eps in threat.budgets:
        title = f"{name.replace(' ', '-')}-{threat.norm}-{threat.domain}" + ("" if eps is None else f"@{eps:g}")
        pick = lambda level, eps=eps: level.judged(threat.ids, eps)  # noqa: E731
        yield _measure(family, title, name, (threat.norm, threat.domain, eps), pick, count, twin=twin)


def _example(family: Family, identity: str) -> Attacked:
    return next(found.attacks[identity] for found in family.pruned.values() if identity in found.attacks)


def _measure(
    family: Family, name: str, attack: str, threat: tuple[str, str, float | None], pick: Any, count: int, *, twin: bool
) -> Measure:
    norm, domain, eps = threat
    values = _stack(family, family.pruned, family.levels, pick, count)
    control_values = _stack(family, family.twin, family.twin_levels, pick, count) if twin and family.twin_levels else None
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
        control_levels=family.twin_levels if control_values is not None else (),
        control_values=control_values,
        strength=strength(attack),
        saturated=_saturated(family, family.pruned, family.levels, values) if fixed else (),
        control_saturated=_saturated(family, family.twin, family.twin_levels, control_values)
        if fixed and control_values is not None
        else (),
    )


def _saturated(family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], values: Array) -> tuple[int, ...]:
    """The levels at the floor or the ceiling of an eps, counts pooled over the seeds, on the samples that were judged."""
    found = []
    for k, level in enumerate(levels):
        robust = correct = count = 0
        for s, seed in enumerate(family.seeds):
            judged = ~np.isnan(values[s, k])
            if (seed, level) in source and judged.any():
                right = source[seed, level].correct[: len(judged)] & judged
                robust, correct, count = robust + int(np.sum(values[s, k, right])), correct + int(right.sum()), count + int(judged.sum())
        if count and saturated(robust, correct, count):
            found.append(level)
    return tuple(found)
