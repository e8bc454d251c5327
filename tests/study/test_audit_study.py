"""The audit of a study's levels: what is told where, once per attack, and what was checked at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from isogrid.study.audit.study import audit_findings
from isogrid.study.levels import Family, Level
from isogrid.study.plans import LevelPlan

N = 200
KINDS = {"progressive": "pruned", "dense": "twin"}


def level(number: int, seed: int = 0, *, method: str = "progressive", probed: Any = (), **clean: Any) -> Level:
    """One finished level with healthy clean samples, but for `clean`."""
    frame = pd.DataFrame({"label": np.arange(N) % 2, "prediction": np.arange(N) % 2, "margin": np.ones(N), "reach": np.full(N, 0.1)})
    metrics = {"sparsity": 0.1 * number, "rounding": 2.0**-23, "probabilities": False, "repeat_difference": 0.0, "dead_outputs": 0}
    return Level(
        plan=LevelPlan(model="net", method=method, seed=seed, level=number, train="", attacks=(), theory=None, audit=None),
        metrics=metrics,
        clean=frame.assign(**clean),
        attacks={},
        theory=[],
        probed=list(probed),
    )


def families(*levels: Level) -> list[Family]:
    split: dict[str, dict[tuple[int, int], Level]] = {"pruned": {}, "twin": {}}
    for one in levels:
        split[KINDS[one.plan.method]][one.plan.seed, one.plan.level] = one
    return [Family(model=None, method="progressive", seeds=(0, 1), **split)]  # type: ignore[arg-type]


def wide(count: int) -> np.ndarray:
    """Margins beyond float32's cross-entropy on `count` samples."""
    return np.where(np.arange(N) < count, 20.0, 1.0)


def test_a_finding_is_told_once_with_all_its_places_and_the_worst_detail() -> None:
    found = audit_findings(
        families(
            level(0, 0, margin=wide(10)),
            level(1, 0, margin=wide(50)),
            level(1, 1, margin=wide(20)),
            level(2, 1),
            level(3, 1, method="dense", margin=wide(30)),
        )
    )
    assert [(f["code"], f["method"], f["levels"], f["seeds"], f["level"], f["seed"]) for f in found] == [
        ("IG002", "dense", [3], [1], 3, 1),
        ("IG002", "progressive", [0, 1], [0, 1], 1, 0),
    ]
    assert "50 of 200" in found[1]["detail"]


def test_findings_about_different_attacks_stay_apart() -> None:
    probed = [
        {"code": "IG006", "severity": "warning", "title": "", "detail": f"{about}", "remedy": "", "about": about, "share": share}
        for about, share in (("pgd@0.1", 0.02), ("cw", 0.3))
    ]
    found = audit_findings(families(level(0, 0, probed=probed), level(4, 0, probed=probed[:1])))
    assert [(f["about"], f["levels"]) for f in found] == [("cw", [0]), ("pgd@0.1", [0, 4])]
