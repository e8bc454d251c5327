"""IG015: what attacks miss of the counterexamples that there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isogrid.audit import LevelInputs, examine_level
from isogrid.audit.records import AttackRecord, CleanRecord, TruthRecord

N = 100
CLEAN = CleanRecord(label=np.zeros(N, np.int64), prediction=np.zeros(N, np.int64), margin=np.ones(N), rounding=1e-7)


def attack(name: str, distance: Any, eps: float | None = 0.1, **other: Any) -> AttackRecord:
    distance = np.asarray(distance, np.float64)
    success, none = np.isfinite(distance), np.zeros(N, bool)
    told = {"attack": name, "norm": "linf", "domain": "box", "eps": eps, "role": "strong", "correct": ~none, "success": success}
    told |= {"robust": ~success, "distance": distance, "margin": np.ones(N), "zero_gradient": none, "broken_gradient": none}
    return AttackRecord(**told | other)


def truth(distance: Any, eps: float | None = 0.1, **other: Any) -> TruthRecord:
    distance = np.asarray(distance, np.float64)
    broken = np.isfinite(distance) if eps is None else distance <= eps
    return TruthRecord(**{"norm": "linf", "domain": "box", "eps": eps, "broken": broken, "distance": distance} | other)


def found(attacks: tuple[AttackRecord, ...], *truths: TruthRecord) -> dict[str, tuple[float, str]]:
    audit = examine_level(LevelInputs(clean=CLEAN, attacks=attacks, truths=truths))
    return {one.about: (one.share, one.detail) for one in audit.findings if one.code == "IG015"}


def first(count: int, distance: float = 0.05) -> np.ndarray[Any, Any]:
    return np.where(np.arange(N) < count, distance, np.inf)


def test_what_an_attack_missed_is_counted_of_what_there_is():
    told = found((attack("pgd@0.1", first(40)), attack("fgs@0.1", first(20))), truth(first(50)))
    assert told["pgd@0.1, linf, box, eps 0.1"][0] == pytest.approx(10 / 50)
    assert told["fgs@0.1, linf, box, eps 0.1"][0] == pytest.approx(30 / 50)
    assert told["all attacks, linf, box, eps 0.1"][0] == pytest.approx(10 / 50)
    assert "misses 10 of 50 (20.0%)" in told["all attacks, linf, box, eps 0.1"][1]


def test_attacks_that_find_all_are_not_blind_and_what_they_find_together_counts_together():
    half, other = first(25), np.where((np.arange(N) >= 25) & (np.arange(N) < 50), 0.05, np.inf)
    told = found((attack("a@0.1", half), attack("b@0.1", other)), truth(first(50)))
    assert "all attacks, linf, box, eps 0.1" not in told
    assert not found((attack("a@0.1", first(50)),), truth(first(50)))


def test_a_minimum_norm_attack_answers_for_a_budget_and_another_threat_model_for_none():
    far = first(50, 0.2)
    assert found((attack("fmn", far, eps=None),), truth(first(50)))["fmn, linf, box, eps 0.1"][0] == 1
    assert not found((attack("ddn", far, eps=None, norm="l2"), attack("pgd", first(0), domain="free")), truth(first(50)))
    assert not found((attack("pgd@0.2", first(0), eps=0.2),), truth(first(50))), "of another budget, and it failed: it says nothing"


def test_distances_are_compared_where_both_are_known():
    told = found((attack("fmn", first(60, 0.06), eps=None),), truth(first(50, 0.05), eps=None))
    assert told["fmn, linf, box"][0] == pytest.approx(1 - 0.05 / 0.06)
    assert not found((attack("fmn", first(60, 0.0505), eps=None),), truth(first(50, 0.05), eps=None))


def test_a_failure_on_a_known_distance_is_a_miss_and_no_part_of_the_mean():
    told = found((attack("deepfool", first(40, 0.05), eps=None),), truth(first(50, 0.05), eps=None))
    assert told["deepfool, linf, box"][0] == pytest.approx(10 / 50)
    assert "finds nothing on 10 of 50 (20.0%)" in told["deepfool, linf, box"][1]
    longer = found((attack("deepfool", first(49, 0.06), eps=None),), truth(first(50, 0.05), eps=None))
    assert longer["deepfool, linf, box"][0] == pytest.approx(1 - 0.05 / 0.06), "one may be chance"


def test_where_nothing_was_searched_it_says_so():
    audit = examine_level(LevelInputs(clean=CLEAN, attacks=(attack("pgd@0.1", first(10)),)))
    (mine,) = (one for one in audit.checks if one.code == "IG015")
    assert mine.state == "not checked"
    assert "exact:" in mine.gap
