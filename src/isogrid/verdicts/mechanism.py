"""Why a level is more or less robust than the dense reference: which of margin and slope moved, by how much, with intervals.

The paper's argument is that sparsity lowers local Lipschitz constants; it lowers margins as well, and only their quotient counts. What
belongs here: the split of a change of distance. What does not: measuring any part of it (`study.cells.lipschitz`), words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from isogrid.metrics.statistics import crossed
from isogrid.verdicts.evidence import NORMS
from isogrid.verdicts.records import Family, Level, threats
from isogrid.verdicts.results import CONFIDENCE, Mechanism, Ratio

Array = np.ndarray[Any, np.dtype[np.float64]]
FEWEST = 8
"""Samples that are classified correctly at both levels, below which nothing is said."""


def mechanisms(family: Family) -> Iterator[Mechanism]:
    """For every level >= 1 and norm in which samples were looked at on it and on the dense reference, in every seed that has both."""
    where: dict[str, Any] = {name: value for name, value in family.arm.columns().items() if name != "control"}
    for norm in NORMS:
        for level in family.levels:
            pairs = [(family.pruned.get((seed, 0)), family.pruned.get((seed, level))) for seed in family.seeds]
            found = [(a, b) for a, b in pairs if a is not None and b is not None and a.near is not None and b.near is not None]
            if level == 0 or not found:
                continue
            one = _mechanism(family, norm, found)
            if one:
                yield Mechanism(**where, norm=norm, level=level, sparsity=family.sparsity(level), **one)


def _mechanism(family: Family, norm: str, pairs: list[tuple[Level, Level]]) -> dict[str, Any]:
    """The changes from the first to the second of each pair, on the samples that have them in all of them; nothing where these are few."""
    domain, ids = _minimum_norm(family, norm)
    logs: dict[str, list[Array]] = {}
    for levels in pairs:
        parts = [_parts(level, norm, ids) for level in levels]
        for name in parts[0].keys() & parts[1].keys():
            logs.setdefault(name, []).append(parts[1][name] - parts[0][name])
    changes = {name: np.stack(found) for name, found in logs.items() if len(found) == len(pairs)}
    if not {"margin", "slope"} <= changes.keys():
        return {}
    usable = np.isfinite(changes["margin"]).all(0) & np.isfinite(changes["slope"]).all(0)
    told = {name: values[:, usable] for name, values in changes.items()}
    if "distance" in told:
        finite = np.isfinite(told["distance"]).all(0)
        if finite.sum() >= FEWEST and finite.mean() >= 0.99:  # as everywhere: above 1 % failures a distance says nothing
            told = {name: values[:, finite] for name, values in told.items()}
            told["rest"] = told["distance"] - told["margin"] + told["slope"]
        else:
            del told["distance"]
    if "local" in told and not np.isfinite(told["local"]).all():
        del told["local"]
    told["quotient"] = told["margin"] - told["slope"]
    n = told["margin"].shape[1]
    if n < FEWEST:
        return {}
    return {name: _ratio(values) for name, values in told.items()} | {
        "domain": domain if "distance" in told else "",
        "n": n,
        "seeds": len(pairs),
    }


def _parts(level: Level, norm: str, ids: tuple[str, ...]) -> dict[str, Array]:
    """Logarithms per sample; NaN where a sample is misclassified or its gradient is zero."""
    assert level.near is not None
    near, found = level.near, dict[str, Array]()
    right = near["correct"].to_numpy(dtype=bool)
    distance = level.judged(ids, None) if ids else None
    columns = {"margin": f"gap_{norm}", "slope": f"slope_{norm}", "local": f"local_{norm}"}
    values = {name: near[column].to_numpy() for name, column in columns.items() if column in near}
    if distance is not None:
        values["distance"] = distance[near["sample"].to_numpy()]
    for name, value in values.items():
        usable = right & (value > 0) & np.isfinite(value)
        found[name] = np.where(usable, np.log(np.where(usable, value, 1.0)), math.nan)
    return found


def _minimum_norm(family: Family, norm: str) -> tuple[str, tuple[str, ...]]:
    """The domain, the box where there is a choice, and the attacks of a norm that measure distances."""
    offers = [threat for threat in threats(family.pruned.values()) if threat.norm == norm and None in threat.budgets]
    best = min(offers, key=lambda threat: threat.domain != "box", default=None)
    return ("", ()) if best is None else (best.domain, best.ids)


def _ratio(changes: Array) -> Ratio:
    estimate = crossed(changes)
    low, high = estimate.interval(CONFIDENCE)
    return Ratio(effect=math.expm1(estimate.value), low=math.expm1(low), high=math.expm1(high))
