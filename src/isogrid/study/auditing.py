"""The audit of a whole study: the rules of `audit` over every level's records and what its probes found, told once each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from isogrid.audit import Audit, examine_level
from isogrid.audit.findings import PlacedCheck, PlacedFinding
from isogrid.audit.records import AttackRecord, CleanRecord, Growth, LevelInputs, TruthRecord, observed
from isogrid.metrics.brackets import known, unbroken
from isogrid.study import cells
from isogrid.study.levels import Finished
from isogrid.verdicts.records import Attacked, Level

GRAVITY = {"error": 0, "warning": 1, "info": 2}
STATES = ("found", "passed", "not checked")
"""From what weighs most: a level counts as checked where its own records or its probes could be judged."""


def audit_study(levels: Sequence[Finished]) -> tuple[tuple[PlacedFinding, ...], tuple[PlacedCheck, ...]]:
    """The findings of all levels and seeds, and what became of every check on them."""
    own = [(one, examine_level(_inputs(one.level))) for one in levels]
    return tuple(_findings(own)), tuple(_checks(own))


def _findings(audits: Sequence[tuple[Finished, Audit]]) -> Iterator[PlacedFinding]:
    """The gravest first, one entry per code, model, method and attack or threat model.

    Each says on which `levels` and in which `seeds` it was found, and tells the worst one: its `detail`, with its `level` and `seed`.
    """
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for one, own in audits:
        where = one.level.arm.columns() | {"level": one.level.level, "seed": one.level.seed}
        probed = [finding for entry in one.entries(cells.Audit.kind) for finding in entry.metrics["findings"]]
        for finding in (*map(asdict, own.findings), *probed):
            here = finding | where
            place = tuple(here[name] for name in ("code", "model", "objective", "penalty", "method", "about"))
            before = merged.get(place, here | {"levels": [], "seeds": []})
            worst = here if here["share"] > before["share"] else before
            merged[place] = worst | {name: sorted({*before[name], where[name[:-1]]}) for name in ("levels", "seeds")}
    order = sorted(merged.values(), key=lambda f: (GRAVITY[f["severity"]], f["code"], f["model"], f["method"], f["about"]))
    return (PlacedFinding(**one) for one in order)


def _checks(audits: Sequence[tuple[Finished, Audit]]) -> Iterator[PlacedCheck]:
    """One entry per code, model, method, state and gap, with the number of networks and their levels and seeds."""
    merged: dict[tuple[Any, ...], dict[str, Any]] = {}
    for level, own in audits:
        arm = level.level.arm.columns()
        probed = {check["code"]: check for entry in level.entries(cells.Audit.kind) for check in entry.metrics["checks"]}
        for mine in map(asdict, own.checks):
            one = _together([mine, probed.get(mine["code"], mine)])
            place = (
                one["code"],
                STATES.index(one["state"]),
                *(arm[name] for name in ("model", "method", "objective", "penalty")),
                one["gap"],
            )
            entry = merged.setdefault(place, one | arm | {"networks": 0, "levels": [], "seeds": []})
            entry["networks"] += 1
            entry["levels"] = sorted({*entry["levels"], level.level.level})
            entry["seeds"] = sorted({*entry["seeds"], level.level.seed})
    return (PlacedCheck(**merged[place]) for place in sorted(merged))


def _together(looks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One rule on one level, looked at twice: the graver state, and the smaller gap of the looks that could judge."""
    state = min((one["state"] for one in looks), key=STATES.index)
    judged = [one["gap"] for one in looks if one["state"] != "not checked"]
    return looks[0] | {"state": state, "gap": min(judged, key=len) if judged else looks[-1]["gap"]}


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
    attacks = tuple(_record(level.attacks[one.id], clean) for one in level.planned if one.id in level.attacks)
    return LevelInputs(clean=record, attacks=attacks, growth=tuple(_grids(attacks)), truths=tuple(_truths(level)))


def _truths(level: Level) -> Iterator[TruthRecord]:
    """What complete search found on the level, over all of its samples; what it did not see is neither broken nor known."""
    for (norm, domain, eps), found in level.exact.items():
        distance = np.full(len(level.clean), math.inf)
        broken, count = np.zeros(len(distance), bool), len(found.upper)
        distance[:count] = found.upper
        broken[:count] = known(found.lower, found.upper) & np.isfinite(found.upper) if eps is None else ~unbroken(found.upper, eps)
        yield TruthRecord(norm=norm, domain=domain, eps=eps, broken=broken & level.correct, distance=distance)


def _grids(attacks: Sequence[AttackRecord]) -> Iterator[Growth]:
    """The attacks of several steps that the study itself runs at several budgets. Single steps overshoot: their success need not grow."""
    grids: dict[tuple[str, str, str], list[AttackRecord]] = {}
    for record in attacks:
        if record.reported and record.role == "strong" and record.eps is not None:
            grids.setdefault((record.attack.split("@")[0], record.norm, record.domain), []).append(record)
    for grid in grids.values():
        if len(grid) > 1:
            yield Growth(records=tuple(grid))


def _record(attacked: Attacked, clean: pd.DataFrame) -> AttackRecord:
    """The records in the order of all N samples; what was not attacked has NaN for a distance."""
    count, rows, records, about = len(clean), attacked.records["sample"].to_numpy(), attacked.records, attacked.about

    def whole(name: str, missing: Any, kind: type) -> np.ndarray[Any, Any]:
        values: np.ndarray[Any, Any] = np.full(count, missing, dtype=kind)
        values[rows] = records[name].to_numpy()
        return values

    label = clean["label"].to_numpy()
    return AttackRecord(
        attack=about.id,
        norm=about.norm,
        domain=about.domain,
        eps=about.eps,
        role=observed(about.role, records["backwards"]),
        correct=(label == clean["prediction"].to_numpy()) & np.isin(np.arange(count), rows),
        success=whole("success", False, bool),
        robust=whole("adversarial", -1, np.int64) == label,
        distance=whole("distance", math.nan, np.float64),
        margin=whole("margin", math.nan, np.float64),
        zero_gradient=whole("zero_gradient", False, bool),
        broken_gradient=whole("broken_gradient", False, bool),
        reported=not about.partial,
        leaky=about.leaky,
    )
