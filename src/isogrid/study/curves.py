"""The curves of a study: every measure along the levels of an arm and of its dense control. Not here: drawing, judging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from isogrid.metrics.robustness import median_distance, metric_name, void_share
from isogrid.metrics.statistics import crossed, impute_failures
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.evidence import Evidence
from isogrid.verdicts.measures import ENVELOPE, SHARED, headlines, shared
from isogrid.verdicts.records import Family, Threat, threats

Array = np.ndarray[Any, Any]


def envelopes(family: Family) -> list[tuple[str, Threat]]:
    """Every threat of a model under the name of its envelope, and the part of it that contrasts rest on where that is less."""
    whole = threats(family.pruned.values())
    parts = [shared(family, threat)[0] for threat in whole]
    less = [part for threat, part in zip(whole, parts, strict=True) if 1 < len(part.ids) < len(threat.ids)]
    return [*((ENVELOPE, threat) for threat in whole), *((SHARED, part) for part in less)]


def curves(family: Family, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Mean, standard deviation over seeds and 95 % crossed interval of every measure along the levels, sparse network and control."""
    arms = (family.arm, family.arm.dense_control)
    for arm, levels, correct in zip(
        arms, (evidence.levels, evidence.control_levels), (evidence.correct, evidence.control_correct), strict=True
    ):
        if correct is not None:
            points = [_point(evidence, level, correct[:, k]) for k, level in enumerate(levels)]
            yield _head(family, arm) | {"metric": "accuracy", "attack": "", "norm": "", "domain": "", "eps": None, "points": points}
    for measure in (*headlines(family), *evidence.measures):
        for arm, levels, values, marked in (
            (arms[0], measure.levels, measure.values, measure.saturated),
            (arms[1], measure.control_levels, measure.control_values, measure.control_saturated),
        ):
            if values is None:
                continue
            points = [_point(evidence, level, values[:, k], level in marked, measure.kind) for k, level in enumerate(levels)]
            yield _head(family, arm) | {
                "metric": metric_name("r_inf" if measure.kind == "r_inf" else "r_2", measure.norm),
                "attack": measure.attack.replace(" ", "-") if measure.attack in (ENVELOPE, SHARED) else measure.name,
                "over": _over(family, measure.attack, measure.norm, measure.domain),
                "norm": measure.norm,
                "domain": measure.domain,
                "eps": measure.eps,
                "points": [point for point in points if point["seeds"]],
            }


def _head(family: Family, arm: Arm) -> dict[str, Any]:
    """Whose curve it is; a control's says beside which pruner it stands."""
    return arm.columns() | {"beside": family.arm.pruner}


def _point(evidence: Evidence, level: int, values: Array, is_saturated: bool = False, kind: str = "r_inf") -> dict[str, Any]:
    """One level of a curve from values [S, N]: over the seeds that were measured, on the samples that all of them were measured on.

    A void r_2 has no mean; its failures and the median over the attacked samples, in which a failure counts as inf, say what is known.
    """
    present = values[~np.isnan(values).all(1)]
    present = present[:, ~np.isnan(present).any(0)]
    point: dict[str, Any] = {"level": level, "sparsity": evidence.sparsity.get(level, 0.0), "seeds": len(present), "n": present.shape[1]}
    void = False
    if kind == "distance":
        failed, attacked = np.isposinf(present).sum(1), (present > 0).sum(1)
        void = bool(void_share(failed, attacked).any())
        point |= {"failed": int(failed.sum()), "attacked": int(attacked.sum()), "median": _median(present)}
        present = impute_failures(present)
    point |= {"saturated": is_saturated, "collapsed": evidence.collapsed_at(level), "void": void}
    if len(present) and present.shape[1] > 1 and np.isfinite(present).all() and not void:
        low, high = crossed(present).interval()
        by_seed = present.mean(1)
        low, high = (low, high) if kind == "distance" else (max(low, 0.0), min(high, 1.0))
        point |= {"mean": float(by_seed.mean()), "sd": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None, "low": low, "high": high}
    else:
        point |= {"mean": None, "sd": None, "low": None, "high": None}
    return point


def _median(distances: Array) -> float | None:
    """Of the attacked samples of all seeds together; inf where more than half of the attacks failed, None where nothing was attacked."""
    pooled = distances.ravel()
    return median_distance(pooled, pooled > 0) if (pooled > 0).any() else None


def _over(family: Family, attack: str, norm: str, domain: str) -> list[str]:
    """The attacks that an envelope is the minimum over; none for an attack."""
    for name, threat in envelopes(family):
        if (name, threat.norm, threat.domain) == (attack, norm, domain):
            return list(threat.ids)
    return []
