"""The audit of a study's levels: what is told where, once per attack, and what was checked at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from isogrid.attacks import make
from isogrid.attacks.naming import attack_id
from isogrid.audit import CHECKS
from isogrid.study.auditing import audit_study
from isogrid.study.cells import Architecture, Audit, Data, Train, about
from isogrid.study.levels import Finished
from isogrid.study.plan import LevelPlan
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.records import About, Attacked, Level

N = 200
ARM = Arm(data="made-up", model="net", objective="natural", pruner="progressive")
DATA = Data(name="made-up", train=None, test=None, classes=None, content="", counts=(1, 1))
TRAIN = Train(
    data=DATA, model=Architecture(name="net", source="", tensors=""), seed=0, level=0, fit=None, pruner=None, parent=None, of="net"
)


def findings_of(levels: Sequence[Finished]) -> list[dict[str, Any]]:
    return [asdict(one) for one in audit_study(levels)[0]]


def attacked(config: dict[str, Any], broken: int, *, rows: Sequence[int] = range(N), partial: bool = False) -> tuple[About, Attacked]:
    """An attack, planned and finished, on `rows` of the 200 correct samples, of which it turned those below `broken`."""
    made = make(config)
    told = about(attack_id(made), made, partial=partial)
    index = np.asarray(rows)
    success = index < broken
    records = pd.DataFrame(
        {
            "sample": index,
            "label": index % 2,
            "clean": index % 2,
            "adversarial": np.where(success, 1 - index % 2, index % 2),
            "success": success,
            "distance": np.where(success, made.budget or 1.0, np.inf),
            "margin": np.where(success, -1.0, 1.0),
            "zero_gradient": np.zeros(len(index), bool),
            "broken_gradient": np.zeros(len(index), bool),
            "forwards": np.ones(len(index), int),
            "backwards": np.full(len(index), 0 if made.gradient_free else 1),
        }
    )
    return told, Attacked(about=told, records=records)


def level(number: int, seed: int = 0, *attacks: Any, method: str = "progressive", probed: Any = (), **clean: Any) -> Finished:
    """One finished level with healthy clean samples, but for `clean`."""
    frame = pd.DataFrame({"label": np.arange(N) % 2, "prediction": np.arange(N) % 2, "margin": np.ones(N), "reach": np.full(N, 0.1)})
    metrics = {"sparsity": 0.1 * number, "rounding": 2.0**-23, "probabilities": False, "repeat_difference": 0.0, "dead_outputs": 0}
    arm = ARM if method == "progressive" else ARM.dense_control
    place = {"arm": arm, "seed": seed, "level": number, "round": number}
    found = {one.about.id: one for _, one in attacks}
    probe = (
        Audit(network=TRAIN, attacks=(), samples=1, gradients=1.0),
        SimpleNamespace(metrics={"findings": (), "checks": ()} | dict(probed)),
    )
    return Finished(
        plan=LevelPlan(**place, train=TRAIN),
        level=Level(**place, metrics=metrics, clean=frame.assign(**clean), planned=tuple(one for one, _ in attacks), attacks=found),
        cells=(probe,) if probed else (),  # type: ignore[arg-type]
    )


def studied(*levels: Finished) -> list[Finished]:
    return list(levels)


def wide(count: int) -> np.ndarray:
    """Margins beyond float32's cross-entropy on `count` samples."""
    return np.where(np.arange(N) < count, 20.0, 1.0)


def test_a_finding_is_told_once_with_all_its_places_and_the_worst_detail() -> None:
    found = findings_of(
        studied(
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
    found = findings_of(studied(level(0, 0, probed={"findings": probed}), level(4, 0, probed={"findings": probed[:1]})))
    assert [(f["about"], f["levels"]) for f in found] == [("cw", [0]), ("pgd@0.1", [0, 4])]


FGS, APGD, SQUARE = ({"name": name, "eps": 0.1} for name in ("fgs", "apgd-t", "square"))


def found_codes(*attacks: Any) -> set[str]:
    return {finding["code"] for finding in findings_of(studied(level(0, 0, *attacks)))}


def test_what_an_attack_on_survivors_breaks_is_broken_by_gradients() -> None:
    fgs, wins = attacked(FGS, 100), attacked(SQUARE, 150)
    assert found_codes(fgs, attacked(APGD, 150, rows=range(100, N), partial=True), wins) == set()
    assert found_codes(fgs, attacked(APGD, 140, rows=range(100, N), partial=True), wins) == {"IG005"}


def test_a_study_is_not_accused_where_no_strong_attack_was_run() -> None:
    wins = attacked(SQUARE, 150)
    auto = attacked({"name": "autoattack", "eps": 0.1}, 120)
    assert found_codes(attacked(FGS, 100), wins) == found_codes(auto, wins) == set()
    assert found_codes(attacked({"name": "pgd", "eps": 0.1}, 120), auto, wins) == {"IG005"}
    distances = [attacked({"name": name, "domain": "free"} | rest, 200) for name, rest in (("deepfool", {}), ("hopskipjump", {}))]
    assert found_codes(*distances) == set()


def test_a_check_is_passed_only_where_it_was_made() -> None:
    attacks = [attacked({"name": "pgd", "eps": 0.1}, 100), attacked(SQUARE, 100)]
    probed = {"checks": [{"code": "IG006", "state": "passed", "gap": ""}, {"code": "IG005", "state": "not checked", "gap": "none"}]}
    checks = [asdict(c) for c in audit_study(studied(level(0, 0, *attacks, probed=probed), level(1, 0, *attacks), level(1, 1)))[1]]

    def told(code: str) -> list[tuple[Any, ...]]:
        return [(c["state"], c["networks"], c["levels"], c["seeds"]) for c in checks if c["code"] == code]

    assert told("IG003") == [("passed", 3, [0, 1], [0, 1])]
    assert told("IG005") == [("passed", 2, [0, 1], [0]), ("not checked", 1, [1], [1])]
    assert told("IG006") == [("passed", 1, [0], [0]), ("not checked", 2, [1], [0, 1])]
    assert told("IG012") == [("not checked", 3, [0, 1], [0, 1])]
    assert {len(told(check.code)) for check in CHECKS} == {1, 2}
    assert all(c["gap"] for c in checks if c["state"] == "not checked")


def test_a_grid_of_budgets_is_a_check_that_success_grows() -> None:
    def ig007(name: str, *counts: int) -> list[str]:
        grid = [attacked({"name": name, "eps": 0.1 * (k + 1)}, count) for k, count in enumerate(counts)]
        return [c["state"] for c in map(asdict, audit_study(studied(level(0, 0, *grid)))[1]) if c["code"] == "IG007"]

    assert ig007("pgd", 50, 100) == ["passed"]
    assert ig007("pgd", 100, 90, 150) == ["found"]
    assert ig007("pgd", 100) == ["not checked"]
    assert ig007("fgs", 100, 90) == ["not checked"]  # a single step may well go too far
