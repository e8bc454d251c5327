"""From levels to evidence: the per-sample arrays [seeds, levels, samples] of every attack, for sparse network and dense control."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isogrid.metrics.brackets import certified
from isogrid.metrics.robustness import saturated
from isogrid.verdicts.evidence import Evidence, Measure
from isogrid.verdicts.records import About, Attacked, Family, Level, Threat, threats
from isogrid.verdicts.results import End

Array = np.ndarray[Any, Any]
ENVELOPE, SHARED = "envelope", "shared envelope"
"""The per-sample minimum over all attacks of a threat, and that over the attacks that all levels and the dense control have in common."""
CERTIFICATE = "certificate"
"""What is certified, in the place of an attack."""
STRENGTH = {ENVELOPE: 1001, SHARED: 1000}
"""A minimum over attacks is stronger than any of them."""


def _stack(
    family: Family, source: dict[tuple[int, int], Level], levels: Sequence[int], pick: Callable[..., Array | None], count: int
) -> Array:
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


def evidence_of(family: Family, choose: Callable[[Iterable[Measure]], Iterable[Measure]] = tuple, *, end: End = "attacked") -> Evidence:
    """All that one model of a study can say about the claims at one end of the brackets, by the measures that `choose` keeps: all."""
    count = len(next(iter(family.pruned.values())).clean)
    levels, control_levels = family.levels, family.control_levels

    def correct(level: Level) -> Array:
        return level.correct.astype(np.float64)

    collapsed = np.array([[(s, k) in family.pruned and family.pruned[s, k].metrics["collapsed"] for k in levels] for s in family.seeds])
    return Evidence(
        arm=family.arm,
        linear=family.linear,
        sparsity={level: family.sparsity(level) for level in levels},
        levels=levels,
        correct=_stack(family, family.pruned, levels, correct, count),
        collapsed=collapsed.astype(bool),
        control_levels=control_levels,
        control_correct=_stack(family, family.control, control_levels, correct, count) if control_levels else None,
        measures=tuple(choose(measures(family) if end == "attacked" else certified_measures(family))),
        end=end,
        penalties=family.penalties,
        activations=None if family.penalised is None else evidence_of(family.penalised, end=end),
    )


def measures(family: Family) -> Iterator[Measure]:
    """What contrasts may rest on: one measure per attack, and one envelope per norm, domain and budget over the same attacks everywhere."""
    met = {identity for found in family.control.values() for identity in found.attacks}
    for identity in family.attack_ids():
        example = next(found.attacks[identity] for found in family.pruned.values() if identity in found.attacks)
        if example.about.partial:
            continue
        pick = _robust if example.about.eps is not None else _distance
        yield _measure(
            family,
            example.about,
            lambda level, identity=identity, pick=pick: pick(level.attacks[identity]) if identity in level.attacks else None,
            len(example.records),
            controlled=identity in met,
        )
    for threat in threats(family.pruned.values()):
        common, controlled = shared(family, threat)
        if len(common.ids) > 1:
            yield from _envelopes(family, common, ENVELOPE if set(common.ids) == set(threat.ids) else SHARED, controlled=controlled)


def certified_measures(family: Family) -> Iterator[Measure]:
    """What is certified, as figures of robustness: accuracy at every budget, and radii.

    A norm with budgets of its own kind (linf) has the accuracies too; the names of measures tell norm, domain and budget.
    """
    threats_ = {place: one for found in family.pruned.values() for place, one in found.brackets.items()}
    controlled = any(found.brackets for found in family.control.values())
    for (norm, domain), example in threats_.items():
        name = f"{CERTIFICATE}-{norm}-{domain}"
        told: dict[str, Any] = {"name": CERTIFICATE, "norm": norm, "domain": domain, "role": "strong", "gradients": 0.0, "strength": 1}
        for eps in (*example.budgets, None):

            def pick(level: Level, eps: float | None = eps, place: tuple[str, str] = (norm, domain)) -> Array | None:
                one = level.brackets.get(place)
                if one is None:
                    return None
                return one.radius if eps is None else certified(one.lower, one.upper, eps).astype(np.float64)

            about = About(id=name if eps is None else f"{name}@{eps:g}", eps=eps, **told)
            yield _measure(family, about, pick, len(example.lower), controlled=controlled)


def shared(family: Family, threat: Threat) -> tuple[Threat, bool]:
    """The attacks of a threat that every sparse level has and, where it was attacked so, every round of the control; whether it was.

    An attack that only some levels met would make those levels look weaker than the others.
    """
    everywhere = threat.narrowed(family.pruned.values())
    both = everywhere.narrowed(found for found in family.control.values() if found.planned)
    met = bool(both.ids) and bool(family.control_levels)
    return (both, True) if met else (everywhere, False)


def headlines(family: Family) -> Iterator[Measure]:
    """The envelopes over ALL attacks of a threat, where these differ from those that contrasts may rest on: what figures and tables show.

    Without a control: it met other attacks.
    """
    for threat in threats(family.pruned.values()):
        if set(shared(family, threat)[0].ids) != set(threat.ids):
            yield from _envelopes(family, threat, ENVELOPE, controlled=False)


def strongest(found: Iterable[Measure]) -> list[Measure]:
    """The strongest measure of every norm, domain and budget: the envelope where there is one."""
    best: dict[tuple[str, str, float | None], Measure] = {}
    for one in found:
        place = (one.norm, one.domain, one.eps)
        if place not in best or one.strength > best[place].strength:
            best[place] = one
    return list(best.values())


def _envelopes(family: Family, threat: Threat, name: str, *, controlled: bool) -> Iterator[Measure]:
    count = len(next(iter(family.pruned.values())).clean)
    for eps in threat.budgets:
        title = f"{name.replace(' ', '-')}-{threat.norm}-{threat.domain}" + ("" if eps is None else f"@{eps:g}")
        about = replace(threat.attacks[0], id=title, name=name, eps=eps, strength=STRENGTH[name])
        yield _measure(family, about, lambda level, eps=eps: level.judged(threat.ids, eps), count, controlled=controlled)


def _measure(family: Family, about: About, pick: Callable[..., Array | None], count: int, *, controlled: bool) -> Measure:
    values = _stack(family, family.pruned, family.levels, pick, count)
    control = _stack(family, family.control, family.control_levels, pick, count) if controlled and family.control_levels else None
    fixed = about.eps is not None
    return Measure(
        name=about.id,
        attack=about.name,
        norm=about.norm,
        domain=about.domain,
        eps=about.eps,
        kind="r_inf" if fixed else "distance",
        levels=family.levels,
        values=values,
        strength=about.strength,
        control_levels=family.control_levels if control is not None else (),
        control_values=control,
        saturated=_saturated(family, family.pruned, family.levels, values) if fixed else (),
        control_saturated=_saturated(family, family.control, family.control_levels, control) if fixed and control is not None else (),
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
