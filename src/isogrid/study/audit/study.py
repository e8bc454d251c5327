"""The audit of a whole study: the rules of `study.audit` over every level's records and what its probes found, told once each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from isogrid.study.audit.records import AttackRecord, CleanRecord, LevelInputs, observed
from isogrid.study.audit.roles import Role, role_of_config
from isogrid.study.audit.rules import audit_level
from isogrid.study.levels import Attacked, Family, Level
from isogrid.study.plans import AttackCell

GRAVITY = {"error": 0, "warning": 1, "info": 2}


def audit_findings(grouped: Sequence[Family]) -> list[dict[str, Any]]:
    """The findings of all levels and seeds, the gravest first: one entry per code, model, method and attack or threat model.

    Each says on which `levels` and in which `seeds` it was found, and tells the worst one: its `detail`, with its `level` and `seed`.
    """
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for level in _every(grouped):
        for finding in _of_level(level):
            place = tuple(finding[name] for name in ("code", "model", "method", "about"))
            before = merged.get(place, finding | {"levels": [], "seeds": []})
            worst = finding if finding["share"] > before["share"] else before
            merged[place] = worst | {
                "levels": sorted({*before["levels"], level.plan.level}),
                "seeds": sorted({*before["seeds"], level.plan.seed}),
            }
    return sorted(merged.values(), key=lambda f: (GRAVITY[f["severity"]], f["code"], f["model"], f["method"], f["about"]))


def _every(grouped: Sequence[Family]) -> Iterator[Level]:
    for family in grouped:
        yield from family.pruned.values()
        yield from family.twin.values()


def _of_level(level: Level) -> Iterator[dict[str, Any]]:
    plan = level.plan
    where = {"model": plan.model, "method": plan.method, "level": plan.level, "seed": plan.seed}
    for finding in audit_level(_inputs(level)):
        yield asdict(finding) | where
    for probed in level.probed:
        yield probed | where


def _inputs(level: Level) -> LevelInputs:
    clean = level.clean
    record = CleanRecord(
        label=clean["label"].to_numpy(),
        prediction=clean["prediction"].to_numpy(),
        margin=clean["margin"].to_numpy(),
        rounding=level.metrics["rounding"],
        probabilities=level.metrics["probabilities"],
        repeat_difference=level.metrics["repeat_difference"],
        reach=clean["reach"].to_numpy(),
        dead_outputs=level.metrics["dead_outputs"],
    )
    planned = [cell for cell in level.plan.attacks if cell.id in level.attacks]
    return LevelInputs(clean=record, attacks=tuple(_record(level.attacks[cell.id], clean, _role(cell)) for cell in planned))


def _role(cell: AttackCell) -> Role:
    return "gradient-free" if cell.gradient_free else role_of_config(cell.config)


def _record(attacked: Attacked, clean: pd.DataFrame, role: Role) -> AttackRecord:
    """The records in the order of all N samples; what was not attacked has NaN for a distance."""
    count, rows, records = len(clean), attacked.records["sample"].to_numpy(), attacked.records

    def whole(name: str, missing: Any, kind: type) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = np.full(count, missing, dtype=kind)
        values[rows] = records[name].to_numpy()
        return values

    label = clean["label"].to_numpy()
    return AttackRecord(
        attack=attacked.id,
        norm=attacked.norm,
        domain=attacked.domain,
        eps=attacked.eps,
        role=observed(role, records["backwards"]),
        correct=(label == clean["prediction"].to_numpy()) & np.isin(np.arange(count), rows),
        success=whole("success", False, bool),
        robust=whole("adversarial", -1, np.int64) == label,
        distance=whole("distance", math.nan, np.float64),
        margin=whole("margin", math.nan, np.float64),
        zero_gradient=whole("zero_gradient", False, bool),
        reported=not attacked.partial,
    )
