"""The curves of a study: every measure along the levels of an arm and of its dense control, and the truth beside them.

Not here: drawing, judging.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isogrid.metrics.brackets import certified, decided, unbroken
from isogrid.metrics.robustness import median_distance, metric_name, void_share
from isogrid.metrics.statistics import crossed, impute_failures
from isogrid.study.results import EXACT, Curve, Group, Point
from isogrid.verdicts.evidence import Evidence
from isogrid.verdicts.measures import ENVELOPE, SHARED, headlines, shared
from isogrid.verdicts.records import Bracketed, Family, Threat, threats

Array = np.ndarray[Any, Any]
ENVELOPES = {ENVELOPE: "envelope", SHARED: "shared-envelope"}
"""What the minima over attacks are called in tables."""


def envelopes(family: Family) -> list[tuple[str, Threat]]:
    """Every threat of a model under the name of its envelope, and the part of it that contrasts rest on where that is less."""
    whole = threats(family.pruned.values())
    parts = [shared(family, threat)[0] for threat in whole]
    less = [part for threat, part in zip(whole, parts, strict=True) if 1 < len(part.ids) < len(threat.ids)]
    return [*((ENVELOPE, threat) for threat in whole), *((SHARED, part) for part in less)]


def curves(family: Family, evidence: Evidence) -> Iterator[Curve]:
    """Mean, standard deviation over seeds and 95 % crossed interval of every measure along the levels, sparse network and control."""
    for control, levels, correct in (
        (False, evidence.levels, evidence.correct),
        (True, evidence.control_levels, evidence.control_correct),
    ):
        if correct is not None:
            points = tuple(point_of(evidence, level, correct[:, k]) for k, level in enumerate(levels))
            yield Curve(arm=family.arm, control=control, group=Group(metric="accuracy"), points=points)
    for measure in (*headlines(family), *evidence.measures):
        metric = metric_name("r_inf" if measure.kind == "r_inf" else "r_2", measure.norm)
        group = Group(metric=metric, norm=measure.norm, domain=measure.domain, eps=measure.eps)
        for control, levels, values, marked in (
            (False, measure.levels, measure.values, measure.saturated),
            (True, measure.control_levels, measure.control_values, measure.control_saturated),
        ):
            if values is None:
                continue
            points = tuple(point_of(evidence, level, values[:, k], level in marked, measure.kind) for k, level in enumerate(levels))
            yield Curve(
                arm=family.arm,
                control=control,
                attack=ENVELOPES.get(measure.attack, measure.name),
                group=group,
                over=_over(family, measure.attack, measure.norm, measure.domain),
                points=tuple(one for one in points if one.seeds),
            )


def truths(family: Family, evidence: Evidence) -> Iterator[Curve]:
    """What complete search found along the levels of an arm, one curve per norm, domain and budget.

    A level has a mean where every sample was decided; elsewhere the truth lies between what is certified and what nothing broke.
    """
    for norm, domain, eps in dict.fromkeys(place for level in family.pruned.values() for place in level.exact):
        found = {k: family.searched(k, (norm, domain, eps)) for k in family.levels}
        group = Group(metric=metric_name("r_2" if eps is None else "r_inf", norm), norm=norm, domain=domain, eps=eps)
        points = tuple(_truth(evidence, level, one, eps) for level, one in found.items() if one)
        yield Curve(arm=family.arm, attack=EXACT, group=group, points=points)


def _truth(evidence: Evidence, level: int, found: Sequence[Bracketed], eps: float | None) -> Point:
    lower, upper = (np.stack([getattr(one, end) for one in found]) for end in ("radius", "upper"))
    right = upper > 0
    low, high = (lower, upper) if eps is None else (certified(lower, upper, eps) * 1.0, (unbroken(upper, eps) & right) * 1.0)
    point = point_of(evidence, level, high, kind="r_inf" if eps is not None else "distance")
    open_ = int((~decided(lower, upper, eps)).sum())
    if not open_:
        return point
    low_, high_ = (float(end.mean()) if np.isfinite(end).all() else math.nan for end in (low, high))
    return replace(point, mean=math.nan, sd=math.nan, median=math.nan, by_seed=(), undecided=open_, void=False, low=low_, high=high_)


def point_of(evidence: Evidence, level: int, values: Array, is_saturated: bool = False, kind: str = "r_inf") -> Point:
    """One level of a curve from values [S, N]: over the seeds that were measured, on the samples that all of them were measured on.

    A void r_2 has no mean; its failures and the median over the attacked samples, in which a failure counts as inf, say what is known.
    """
    measured = np.any(~np.isnan(values), axis=1)
    present = values[measured]
    present = present[:, ~np.isnan(present).any(0)]
    told: dict[str, Any] = {"seeds": len(present), "n": present.shape[1], "mean": math.nan}
    if kind == "distance":
        failed, attacked = np.isposinf(present).sum(1), (present > 0).sum(1)
        told |= {"void": bool(void_share(failed, attacked).any()), "median": _median(present)}
        told |= {"failed": int(failed.sum()), "attacked": int(attacked.sum())}
        present = impute_failures(present)
    if len(present) and present.shape[1] > 1 and np.isfinite(present).all() and not told.get("void"):
        low, high = crossed(present).interval()
        by_seed = present.mean(1)
        each = np.full(len(measured), math.nan)
        each[measured] = by_seed
        low, high = (low, high) if kind == "distance" else (max(low, 0.0), min(high, 1.0))
        sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else math.nan
        told |= {"mean": float(by_seed.mean()), "sd": sd, "low": low, "high": high, "by_seed": tuple(each.tolist())}
    sparsity, collapsed = evidence.sparsity.get(level, 0.0), evidence.collapsed_at(level)
    return Point(level=level, sparsity=sparsity, saturated=is_saturated, collapsed=collapsed, **told)


def _median(distances: Array) -> float:
    """Of the attacked samples of all seeds together; inf where more than half of the attacks failed, NaN where nothing was attacked."""
    pooled = distances.ravel()
    return median_distance(pooled, pooled > 0) if (pooled > 0).any() else math.nan


def _over(family: Family, attack: str, norm: str, domain: str) -> tuple[str, ...]:
    """The attacks that an envelope is the minimum over; none for an attack."""
    for name, threat in envelopes(family):
        if (name, threat.norm, threat.domain) == (attack, norm, domain):
            return threat.ids
    return ()
