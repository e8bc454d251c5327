"""The verdict rule: which of the paper's five claims hold for one network and one data set, by contrasts fixed beforehand.

1 (linear models): the mean over the attacked levels >= 1 whose accuracy is at least dense minus tolerance, against the mean over
  the attacked levels >= 1 of the dense twin of equal training: r_inf rises, and r_2 does not rise by more than the tolerance.
2 (nonlinear models), 5 (deeper networks on CIFAR-10): the same contrast rises in both norms.
3 (nonlinear models): the last uncollapsed level lies below the most robust level before it, in both norms.

Three rules keep a verdict from being chance. (a) Whatever is chosen by looking at data, for a seed, is chosen on the OTHER seeds:
which levels keep their accuracy, which level is the peak (there also on samples that are not judged). (b) p-values are those of
crossed seeds and samples, conservative by construction for few seeds (`metrics.statistics`). (c) A claim that needs two things takes the
larger p-value of the two (intersection-union test, Berger 1982), a contradiction that one of two things brings about takes twice the
smaller one (Bonferroni), and Holm's method covers all claims of the study, supports and contradictions each at level ALPHA.

With one seed nothing is said beyond "undecided": the variance between seeds cannot be estimated. See docs/claims.md.
What belongs here: verdicts and their words. What does not: reading the store, drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from isogrid.metrics.statistics import Estimate, crossed, held_out_means, holm, judging, relative
from isogrid.study.evidence import ALPHA, CONFIDENCE, NORMS, Bools, Evidence, Floats, Measure, Table, effect_text, plain, primaries, table
from isogrid.study.recommendation import recommend

DEEP = ("vgg-like", "resnet-32")

STATEMENTS = {
    1: "linear classifiers: sparsity raises r_inf, while r_2 stays level or falls",
    2: "nonlinear networks: sparsity raises robustness in both norms, up to a threshold",
    3: "nonlinear networks: beyond a threshold of sparsity robustness falls",
    4: "activation sparsity has the same effect",
    5: "deeper networks on CIFAR-10 show the same effect",
}
Side = Literal["rises", "not above", "falls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measure's share in a claim: the effect (absolute for r_inf, relative for a distance), and the p-values for and against."""

    measure: Measure
    estimate: Estimate
    p_for: float
    p_against: float
    levels: tuple[int, ...]
    against: tuple[int, ...]
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim before Holm: `applies` and `controlled` say whether it can be judged, `reason` what stands in its way."""

    evidence: Evidence
    claim: int
    parts: tuple[Part, ...] = ()
    secondary: tuple[Part, ...] = ()
    applies: bool = True
    controlled: bool = True
    p_for: float = 1.0
    p_against: float = 1.0
    reason: str = ""


def judge(evidence: Sequence[Evidence], tolerance: Mapping[str, float], alpha: float = ALPHA) -> list[dict[str, Any]]:
    """The verdicts on claims 1 to 5 for each network of a study, as plain dicts (claims.json).

    `tolerance`: "r_inf" and "accuracy" (absolute), "distance" (relative). Keys: data, model, method, claim, verdict ("supported",
    "contradicted", "undecided", "no control", "not applicable"), statement, parts (the primary measures first, then secondary
    effects, which no verdict rests on), effect and interval (of the part `effect_of`, the one hardest to establish), confidence,
    p, p_holm (for), p_against, p_against_holm, levels, control, reason.
    """
    findings = [finding for one in evidence for finding in _findings(one, tolerance)]
    family = [index for index, finding in enumerate(findings) if finding.applies and finding.controlled]
    for_, against = (holm([getattr(findings[i], name) for i in family]) for name in ("p_for", "p_against"))
    adjusted = {index: (for_[k], against[k]) for k, index in enumerate(family)}
    return [_written(finding, adjusted.get(index), alpha) for index, finding in enumerate(findings)]


def _findings(evidence: Evidence, tolerance: Mapping[str, float]) -> list[Finding]:
    deep = evidence.data.startswith("cifar10") and evidence.model in DEEP

    def no(claim: int, reason: str) -> Finding:
        return Finding(evidence=evidence, claim=claim, applies=False, reason=reason)

    only_linear, only_nonlinear = "the claim is about linear models", "the claim is about nonlinear networks"
    linear = evidence.linear
    return [
        _against_twin(evidence, 1, {"linf": "rises", "l2": "not above"}, tolerance) if linear else no(1, only_linear),
        no(2, only_nonlinear if linear else "judged as claim 5")
        if linear or deep
        else _against_twin(evidence, 2, {"linf": "rises", "l2": "rises"}, tolerance),
        no(3, only_nonlinear) if linear else _beyond_peak(evidence, tolerance),
        no(4, "the levels compared here differ in the sparsity of weights, not of activations"),
        _against_twin(evidence, 5, {"linf": "rises", "l2": "rises"}, tolerance)
        if deep
        else no(5, "the claim is about VGG-like networks and ResNet-32 on CIFAR-10"),
    ]


def _against_twin(evidence: Evidence, claim: int, sides: Mapping[str, Side], tolerance: Mapping[str, float]) -> Finding:
    """Claims 1, 2, 5: sparse levels that keep their accuracy against the dense twin, per norm."""
    chosen = primaries(evidence.measures)
    if not any(measure.controlled for measure in evidence.measures):
        reason = "no dense twin of equal training was attacked" if evidence.measures else "nothing was attacked"
        return Finding(evidence=evidence, claim=claim, controlled=False, reason=reason)
    parts, reasons = [], []
    for norm in NORMS:
        if norm not in chosen or not chosen[norm].controlled:
            reasons.append(f"{norm}: not attacked on sparse levels and dense twin alike")
            continue
        part = _twin_part(evidence, chosen[norm], sides[norm], tolerance)
        if isinstance(part, Part):
            parts.append(part)
        else:
            reasons.append(f"{norm}: {part}")
    others = [m for m in evidence.measures if m.controlled and m.name not in {c.name for c in chosen.values()}]
    secondary = [part for m in others if isinstance(part := _twin_part(evidence, m, sides[m.norm], tolerance), Part)]
    return _combined(evidence, claim, parts, secondary, reasons)


def _twin_part(evidence: Evidence, measure: Measure, side: Side, tolerance: Mapping[str, float]) -> Part | str:
    """The contrast of one measure, or why there is none."""
    rows = table(evidence, measure)
    if not rows.usable:
        return "no seed, or fewer than eight samples, measured on both"
    if not rows.twin_levels:
        return "every level of the twin is saturated, void or missing"
    keeps = _keeps_accuracy(evidence, rows, tolerance["accuracy"])
    if not keeps.any(-1).all():
        return "no attacked level >= 1 that keeps its accuracy is evidence (the rest is collapsed, saturated, void or less accurate)"
    values = np.einsum("sl,sln->sn", keeps / keeps.sum(-1, keepdims=True), rows.values)
    twin = rows.twin.mean(1)
    if measure.kind == "distance" and not twin.mean() > 0:
        return "the twin's distances are all zero"
    levels = tuple(level for level, used in zip(rows.levels, np.any(keeps, axis=0).tolist(), strict=True) if used)
    bound = tolerance["r_inf" if measure.kind == "r_inf" else "distance"] if side == "not above" else 0.0
    return _part(measure, rows, values, twin, side, bound, levels, rows.twin_levels)


def _keeps_accuracy(evidence: Evidence, rows: Table, tolerance: float) -> Bools:
    """Whether, for a seed, a level >= 1 is at least as accurate as dense minus tolerance in the mean of the other seeds: [S, L]."""
    columns = [evidence.levels.index(level) for level in (0, *rows.levels)]
    accuracy = np.nanmean(evidence.correct[rows.seeds][:, columns], axis=2)
    if len(accuracy) > 1:
        accuracy = (accuracy.sum(0, keepdims=True) - accuracy) / (len(accuracy) - 1)
    keeps: Bools = (accuracy[:, 1:] >= accuracy[:, :1] - tolerance - 1e-12) & (np.array(rows.levels) >= 1)
    return keeps


def _part(
    measure: Measure,
    rows: Table,
    values: Floats,
    reference: Floats,
    side: Side,
    bound: float,
    levels: tuple[int, ...],
    against: tuple[int, ...],
    chosen: bool = False,
) -> Part:
    """The effect of `values` over `reference` [S, N], and its p-values; tests of a ratio are made on x - (1 + bound) t, exactly."""
    ratio = measure.kind == "distance"
    estimate = relative(values, reference, chosen=chosen) if ratio else crossed(values - reference, chosen=chosen)
    test = crossed(values - reference * (1 + bound), chosen=chosen) if ratio else estimate
    threshold = 0.0 if ratio else bound
    up, down = test.p_greater(threshold), test.p_less(threshold)
    if estimate.over_samples_only:
        up = down = 1.0
    p_for, p_against = (up, down) if side == "rises" else (down, up)
    return Part(measure=measure, estimate=estimate, p_for=p_for, p_against=p_against, levels=levels, against=against, failed=rows.failed)


def _beyond_peak(evidence: Evidence, tolerance: Mapping[str, float]) -> Finding:
    """Claim 3: the last level that is evidence against the most robust level before it.

    Against the claim speaks a last level that lies above every level before it although it has lost accuracy; where it
    has not, the study did not go far enough to contradict.
    """
    chosen = primaries(evidence.measures)
    if not chosen:
        return Finding(evidence=evidence, claim=3, controlled=False, reason="nothing was attacked")
    parts, reasons = [], [f"{norm}: not attacked" for norm in NORMS if norm not in chosen]
    for norm, measure in chosen.items():
        part = _peak_part(evidence, measure, tolerance)
        if isinstance(part, Part):
            parts.append(part)
        else:
            reasons.append(f"{norm}: {part}")
    names = {c.name for c in chosen.values()}
    others = [_peak_part(evidence, m, tolerance) for m in evidence.measures if m.name not in names]
    return _combined(evidence, 3, parts, [part for part in others if isinstance(part, Part)], reasons)


def _peak_part(evidence: Evidence, measure: Measure, tolerance: Mapping[str, float]) -> Part | str:
    rows = table(evidence, measure)
    if not rows.usable or len(rows.levels) < 2:
        return "fewer than two attacked levels are evidence (the rest is collapsed, saturated or void)"
    before = rows.values[:, :-1]
    peak = held_out_means(before).argmax(-1)
    values, reference = judging(rows.values[:, -1]), judging(before[np.arange(len(before)), peak])
    if measure.kind == "distance" and not reference.mean() > 0:
        return "the distances at the peak are all zero"
    against = tuple(rows.levels[index] for index in sorted(set(peak.tolist())))
    part = _part(measure, rows, values, reference, "falls", 0.0, rows.levels[-1:], against, chosen=True)
    first, last = (evidence.correct[rows.seeds, evidence.levels.index(level)] for level in (0, rows.levels[-1]))
    lost = last - first
    lost = crossed(lost[:, ~np.isnan(lost).any(0)]).p_less(-tolerance["accuracy"])
    p_against = max(part.p_against, lost)
    return Part(
        measure=measure,
        estimate=part.estimate,
        p_for=part.p_for,
        p_against=p_against,
        levels=part.levels,
        against=part.against,
        failed=part.failed,
    )


def _combined(evidence: Evidence, claim: int, parts: list[Part], secondary: list[Part], reasons: list[str]) -> Finding:
    """All parts for it: the largest p. Any part against it: the smallest, times their number."""
    if parts and parts[0].estimate.over_samples_only:
        reasons = [*reasons, "one seed: the variance between seeds cannot be estimated"]
    complete = len(parts) == len(NORMS)
    return Finding(
        evidence=evidence,
        claim=claim,
        parts=tuple(parts),
        secondary=tuple(secondary),
        p_for=max(part.p_for for part in parts) if complete else 1.0,
        p_against=min(1.0, len(NORMS) * min((part.p_against for part in parts), default=1.0)),
        reason="; ".join(reasons),
    )


def _written(finding: Finding, adjusted: tuple[float, float] | None, alpha: float) -> dict[str, Any]:
    """The finding with its verdict, in plain values (None for what is not finite or not defined)."""
    verdict, reason = _verdict(finding, adjusted, alpha)
    evidence, parts = finding.evidence, finding.parts
    hardest = max(parts, key=lambda part: part.p_for, default=None)
    twin = sorted({level for part in parts for level in part.against})
    control = "" if not parts else f"dense twin of equal training, levels {_listed(twin)}"
    if parts and finding.claim == 3:
        control = f"most robust level before it, chosen on the other seeds and samples: {_listed(twin)}"
    judged = adjusted is not None
    return {
        "data": evidence.data,
        "model": evidence.model,
        "method": evidence.method,
        "claim": finding.claim,
        "verdict": verdict,
        "statement": _sentence(finding, verdict, reason),
        "parts": [_row(part, "primary") for part in parts] + [_row(part, "secondary") for part in finding.secondary],
        "effect": None if hardest is None else plain(hardest.estimate.value),
        "interval": None if hardest is None else [plain(end) for end in hardest.estimate.interval(CONFIDENCE)],
        "effect_of": None if hardest is None else hardest.measure.name,
        "confidence": CONFIDENCE,
        "p": finding.p_for if judged else None,
        "p_holm": adjusted[0] if adjusted else None,
        "p_against": finding.p_against if judged else None,
        "p_against_holm": adjusted[1] if adjusted else None,
        "levels": sorted({level for part in parts for level in part.levels}),
        "control": control,
        "reason": reason,
    }


def _verdict(finding: Finding, adjusted: tuple[float, float] | None, alpha: float) -> tuple[str, str]:
    if not finding.applies:
        return "not applicable", finding.reason
    if not finding.controlled:
        return "no control", finding.reason
    assert adjusted is not None
    if adjusted[0] <= alpha:
        return "supported", finding.reason
    if adjusted[1] <= alpha:
        return "contradicted", finding.reason
    return "undecided", finding.reason or "the effect is not distinguished from chance in every norm it is claimed for"


def _sentence(finding: Finding, verdict: str, reason: str) -> str:
    where = f"{finding.evidence.model} on {finding.evidence.data}"
    head = f"Claim {finding.claim} ({STATEMENTS[finding.claim]}) is {verdict} for {where}"
    if verdict == "no control":
        head = f"Claim {finding.claim} ({STATEMENTS[finding.claim]}): no control for {where}"
    effects = [effect_text(part.measure, part.estimate) for part in finding.parts]
    return ": ".join([head, *filter(None, ["; ".join(effects)])]) + (f" ({reason})." if reason else ".")


def _row(part: Part, role: str) -> dict[str, Any]:
    measure, estimate = part.measure, part.estimate
    low, high = estimate.interval(CONFIDENCE)
    known = not estimate.over_samples_only
    return {
        "measure": measure.name,
        "attack": measure.attack,
        "norm": measure.norm,
        "domain": measure.domain,
        "eps": measure.eps,
        "role": role,
        "unit": "relative" if measure.kind == "distance" else "absolute",
        "effect": plain(estimate.value),
        "low": plain(low),
        "high": plain(high),
        "p": part.p_for if known else None,
        "p_against": part.p_against if known else None,
        "se": plain(estimate.se),
        "df": plain(estimate.df),
        "levels": list(part.levels),
        "against": list(part.against),
        "seeds": estimate.seeds,
        "n": estimate.samples,
        "failed": part.failed,
    }


def _listed(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))


__all__ = ["ALPHA", "CONFIDENCE", "STATEMENTS", "Evidence", "Measure", "judge", "recommend"]
