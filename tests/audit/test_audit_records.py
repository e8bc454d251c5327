"""The audit's checks over made-up records: each fires where they show it and is silent where they do not."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from isogrid.audit import CHECKS, Finding, examine_level
from isogrid.audit.records import AttackRecord, CleanRecord, Growth, LevelInputs, TruthRecord

N, INPUTS, CLASSES, EPS = 60, 16, 3, 0.05


def clean(margin: np.ndarray | None = None, **rest: object) -> CleanRecord:
    label = np.arange(200) % 2
    values = {"label": label, "prediction": label, "margin": np.ones(200) if margin is None else margin, "rounding": 2.0**-23}
    return CleanRecord(**(values | rest))  # type: ignore[arg-type]


def record(broken: int, *, eps: float | None = 0.1, free: bool = False, size: float = 0.1, ran: int = 200, **rest: object) -> AttackRecord:
    """200 correct samples, of which the first `ran` were attacked and the first `broken` turned at distance `size`."""
    index = np.arange(200)
    success = index < broken
    distance = np.where(success, size, np.inf)
    distance[ran:] = np.nan
    values = {
        "attack": "free" if free else "white",
        "norm": "linf",
        "domain": "box",
        "eps": eps,
        "role": "gradient-free" if free else "strong",
        "correct": np.ones(200, bool),
        "success": success,
        "robust": ~success,
        "distance": distance,
        "margin": np.where(success, -1.0, 1.0),
        "zero_gradient": np.zeros(200, bool),
        "broken_gradient": np.zeros(200, bool),
    }
    return AttackRecord(**(values | rest))  # type: ignore[arg-type]


def codes(*attacks: AttackRecord, given: CleanRecord | None = None, **rest: object) -> set[str]:
    inputs = LevelInputs(clean=given or clean(), attacks=attacks, model="m", method="progressive", level=3, **rest)  # type: ignore[arg-type]
    audit = examine_level(inputs)
    findings = audit.findings
    assert all((f.model, f.method, f.level) == ("m", "progressive", 3) for f in findings)
    assert {one.code for one in audit.checks if one.state == "found"} == {f.code for f in findings}
    return {f.code for f in findings}


def test_records_zero_gradients() -> None:
    zero = np.arange(200) < 2
    assert codes(record(100, zero_gradient=zero)) == set()  # 1 %
    assert codes(record(100, zero_gradient=np.arange(200) < 3)) == {"IG001"}
    assert codes(record(100, zero_gradient=np.arange(200) < 3, free=True)) == set()
    assert codes(given=clean(reach=np.where(np.arange(200) < 3, np.inf, 0.1))) == {"IG001"}


def test_records_gradient_free_wins_at_equal_budgets_only() -> None:
    white = record(100)
    assert codes(white, record(102, free=True)) == set()
    assert codes(white, record(103, free=True)) == {"IG005"}
    assert codes(white, record(150, free=True, eps=0.2, size=0.2)) == set()  # a larger budget is no comparison
    assert codes(white, record(150, free=True, eps=None, size=0.09, reported=False)) == {"IG005"}  # minimum-norm, within the budget
    assert codes(white, record(150, free=True, eps=None, size=0.11, reported=False)) == set()
    assert codes(white, record(150, free=True, norm="l2")) == set()  # another threat model
    assert codes(white, record(150, free=True, domain="free")) == set()
    assert codes(white, record(150, attack="pgd-2"), record(150, free=True)) == set()  # the envelope of white-box attacks counts
    assert codes(record(100, ran=100), record(150, free=True)) - {"IG011"} == set()  # other samples are no comparison


def test_records_a_weak_attack_has_successes_and_proves_nothing_by_its_failures() -> None:
    wins = record(150, free=True)
    weak, mixed = record(100, role="weak"), record(100, role="mixed")
    assert codes(weak, wins) == codes(mixed, wins) == codes(weak, mixed, wins) == set()
    assert codes(weak, record(100), wins) == {"IG005"}
    assert codes(record(150, role="weak"), record(100), wins) == set()  # a gradient found them, whichever
    assert codes(record(150, role="mixed"), record(100), wins) == {"IG005"}  # nobody knows what found them
    assert codes(record(200, eps=None, role="weak", size=1.0), record(200, eps=None, size=0.5, free=True)) == set()


def test_records_attacks_on_survivors_count_where_they_ran() -> None:
    index = np.arange(200)

    def survivors(broken: int) -> AttackRecord:
        success = (index >= 100) & (index < broken)
        rest = {"success": success, "distance": np.where(index < 100, np.nan, np.where(success, 0.1, np.inf))}
        return record(broken, reported=False, **rest)

    fgs = record(100, role="weak")
    assert codes(fgs, survivors(150), record(150, free=True)) == set()
    assert codes(fgs, survivors(150), record(160, free=True)) == {"IG005"}
    assert codes(survivors(200)) == set()  # it has no figure that could be saturated


def test_records_a_success_in_the_box_is_one_without_it() -> None:
    wins, free = record(150, free=True), {"domain": "free"}
    assert codes(record(100, **free), record(150, role="weak"), record(150, free=True, **free)) == set()
    assert codes(record(100, **free), wins) == {"IG005"}  # a box is no handicap that one could blame
    assert codes(record(100), record(150, free=True, **free)) == set()  # without it one may well do better
    near, far = record(200, eps=None, size=0.5), record(200, eps=None, size=1.0, **free)
    assert codes(near, far, record(200, eps=None, size=0.5, free=True, **free)) == set()


def test_records_distances() -> None:
    assert codes(record(200, eps=None, size=1.0), record(200, eps=None, size=0.96, free=True)) == set()
    assert codes(record(200, eps=None, size=1.0), record(200, eps=None, size=0.9, free=True)) == {"IG005"}
    few = np.where(np.arange(200) < 60, 0.5, 1.1)  # shorter on some samples is what DeepFool's excess allows
    assert codes(record(200, eps=None, size=1.0), record(200, eps=None, distance=few, free=True)) == set()
    assert codes(record(197, eps=None), record(200, eps=None, free=True)) == {"IG005", "IG009"}  # broken by nothing else


def test_records_convergence() -> None:
    assert codes(doubled=((record(100), record(102)),)) == set()
    assert codes(doubled=((record(100), record(103)),)) == {"IG006"}
    assert codes(doubled=((record(200, eps=None), record(200, eps=None, size=0.0995)),)) == set()
    assert codes(doubled=((record(200, eps=None), record(200, eps=None, size=0.098)),)) == {"IG006"}


def test_records_growth() -> None:
    def grown(*counts: int, spans: bool = False) -> tuple[Growth, ...]:
        records = tuple(record(count, eps=0.1 * 2**k, size=0.1 * 2**k) for k, count in enumerate(counts))
        return (Growth(records=records, spans=spans),)

    assert codes(growth=grown(50, 100, 200, spans=True)) == set()
    assert codes(growth=grown(50, 100, 190)) == set()  # the last budget is not everything
    assert codes(growth=grown(50, 100, 190, spans=True)) == {"IG007"}
    assert codes(growth=grown(50, 100, 90)) == {"IG007"}
    assert codes(growth=grown(50, 100) + grown(50, 40)) == {"IG007"}  # of each attack


def test_records_margins_failures_saturation() -> None:
    tie = np.where(np.arange(200) < 3, 1e-7, 1.0)
    assert codes(given=clean(tie)) == {"IG008"}
    assert codes(record(100, margin=tie)) == {"IG008"}
    assert codes(record(200, eps=None, margin=tie)) == set()  # a minimum-norm candidate lies at the boundary by design
    assert codes(record(198, eps=None)) == set()
    assert codes(record(197, eps=None)) == {"IG009"}
    assert codes(record(198, eps=None, free=True)) == set()
    assert codes(record(197, eps=None, free=True)) == {"IG009"}  # its mean is as void
    assert codes(record(100, eps=None, free=True, reported=False)) == set()  # the audit's own, of which no mean is told
    assert codes(record(200)) == codes(record(0)) == {"IG011"}
    assert codes(record(0, free=True)) == set()  # noise that breaks nothing is what one hopes for
    assert codes(given=clean(np.where(np.arange(200) < 3, 17.0, 1.0))) == {"IG002"}
    assert codes(given=clean(np.full(200, 16.0))) == set()


def states(inputs: LevelInputs) -> dict[str, str]:
    """What became of each check; what was not checked has a reason."""
    found = examine_level(inputs).checks
    assert [one.code for one in found] == [check.code for check in CHECKS]
    assert all(one.gap for one in found if one.state == "not checked")
    return {one.code: one.state for one in found}


def test_what_was_not_checked_has_not_passed() -> None:
    bare = states(LevelInputs(clean=clean()))
    assert {code for code, state in bare.items() if state == "passed"} == {"IG002", "IG003", "IG008", "IG010"}
    assert set(bare.values()) == {"passed", "not checked"}
    full = LevelInputs(
        clean=clean(repeat_difference=0.0, training=()),
        attacks=(record(100), replace(record(100), leaky=True), record(50, free=True), record(200, eps=None)),
        doubled=((record(100), record(100)),),
        growth=(Growth(records=(record(100), record(200, eps=0.2))),),
        truths=(TruthRecord(norm="linf", domain="box", eps=0.1, broken=np.zeros(200, bool), distance=np.full(200, np.inf)),),
    )
    assert set(states(full).values()) == {"passed"}


def test_masking_is_checked_threat_model_by_threat_model() -> None:
    def judged(*attacks: AttackRecord) -> tuple[str, str]:
        [one] = [one for one in examine_level(LevelInputs(clean=clean(), attacks=attacks)).checks if one.code == "IG005"]
        return one.state, one.gap

    free, deepfool = record(50, free=True), record(200, eps=None, norm="l2", role="weak", attack="deepfool")
    assert judged(record(100), free) == ("passed", "")
    assert judged(free)[0] == judged(record(100))[0] == judged(record(100, role="mixed"), free)[0] == "not checked"
    assert judged(record(100), free, deepfool) == ("passed", "no gradient-free attack (l2, box)")
    state, gap = judged(deepfool, record(150, eps=None, norm="l2", free=True))
    assert state == "not checked"
    assert "only deepfool" in gap


def test_findings_are_plain_data() -> None:
    [finding] = examine_level(LevelInputs(clean=clean(probabilities=True))).findings
    assert isinstance(finding, Finding)
    assert finding.severity == "error"
    names = {"code", "severity", "title", "detail", "remedy", "about", "share", "model", "method", "level"}
    assert set(dataclasses.asdict(finding)) == names
