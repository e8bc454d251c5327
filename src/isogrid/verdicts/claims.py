"""The verdict rule: which of the paper's five claims hold for one network and one data set, by contrasts fixed beforehand.

Three rules keep a verdict from being chance. (a) Whatever is chosen by looking at data, for a seed, is chosen on the OTHER seeds:
which levels keep their accuracy, which level is the peak (there also on samples that are not judged). (b) p-values are those of
crossed seeds and samples, conservative by construction for few seeds (`metrics.statistics`). (c) A claim that needs two things takes the
larger p-value of the two (intersection-union test, Berger 1982), a contradiction that one of two things brings about takes twice the
smaller one (Bonferroni), and Holm's method covers all claims of the study, supports and contradictions each at level ALPHA.

With one seed nothing is said beyond "undecided": the variance between seeds cannot be estimated. See docs/claims.md.
What belongs here: verdicts and their words. What does not: reading the store, drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from isogrid.metrics.statistics import holm
from isogrid.verdicts.contrasts import Finding, Part, findings_of
from isogrid.verdicts.evidence import ALPHA, CONFIDENCE, Evidence, Measure, effect_size, effect_text, effect_value, plain
from isogrid.verdicts.recommendation import recommend

STATEMENTS = {
    1: "linear classifiers: sparsity raises r_inf, while r_2 stays level or falls",
    2: "nonlinear networks: sparsity raises robustness in both norms, up to a threshold",
    3: "nonlinear networks: beyond a threshold of sparsity robustness falls",
    4: "activation sparsity has the same effect",
    5: "deeper networks on CIFAR-10 show the same effect",
}


def judge(evidence: Sequence[Evidence], tolerance: Mapping[str, float], alpha: float = ALPHA) -> list[dict[str, Any]]:
    """The verdicts on claims 1 to 5 for each network of a study, as plain dicts (claims.json).

    `tolerance`: "r_inf" and "accuracy" (absolute), "distance" (relative). Keys: those of `Arm.columns`, claim, verdict ("supported",
    "contradicted", "undecided", "no control", "not applicable"), statement, parts (the primary measures first, then secondary
    effects, which no verdict rests on), effect and interval (of the part `effect_of`, the one hardest to establish), confidence,
    p, p_holm (for), p_against, p_against_holm, levels, control, reason.
    """
    findings = [finding for one in evidence for finding in findings_of(one, tolerance)]
    family = [index for index, finding in enumerate(findings) if finding.applies and finding.controlled]
    for_, against = (holm([getattr(findings[i], name) for i in family]) for name in ("p_for", "p_against"))
    adjusted = {index: (for_[k], against[k]) for k, index in enumerate(family)}
    return [_written(finding, adjusted.get(index), alpha) for index, finding in enumerate(findings)]


def _written(finding: Finding, adjusted: tuple[float, float] | None, alpha: float) -> dict[str, Any]:
    """The finding with its verdict, in plain values (None for what is not finite or not defined)."""
    verdict, reason = _verdict(finding, adjusted, alpha)
    evidence, parts = finding.evidence, finding.parts
    hardest = max(parts, key=lambda part: part.p_for, default=None)
    judged = adjusted is not None
    return {
        **evidence.arm.columns(),
        "claim": finding.claim,
        "verdict": verdict,
        "statement": _sentence(finding, verdict, reason, alpha),
        "parts": [_row(part, role, alpha) for role, some in (("primary", parts), ("secondary", finding.secondary)) for part in some],
        "effect": None if hardest is None else plain(hardest.estimate.value),
        "interval": None if hardest is None else [plain(end) for end in hardest.estimate.interval(CONFIDENCE)],
        "effect_of": None if hardest is None else hardest.measure.name,
        "confidence": CONFIDENCE,
        "p": finding.p_for if judged else None,
        "p_holm": adjusted[0] if adjusted else None,
        "p_against": finding.p_against if judged else None,
        "p_against_holm": adjusted[1] if adjusted else None,
        "levels": sorted({level for part in parts for level in part.levels}),
        "control": _control(finding),
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
    sides = [part.speaks(alpha) for part in finding.parts]
    if adjusted[1] <= alpha:
        return "contradicted", finding.reason or ("it needs both halves, and one speaks against it" if "for" in sides else "")
    if finding.reason:
        return "undecided", finding.reason
    if "against" in sides:
        return "undecided", "the half against it is significant alone, but not once all claims of this study are counted"
    if "open" in sides:
        unclear = [part for part in finding.parts if part.speaks(alpha) == "open"]
        meanwhile = " or from what training did between rounds of the control" if any(part.straight is not None for part in unclear) else ""
        return "undecided", f"not told from chance{meanwhile}: {' and '.join(part.measure.title for part in unclear)}"
    return "undecided", "each half is significant alone, but not both once all claims of this study are counted"


def _sentence(finding: Finding, verdict: str, reason: str, alpha: float) -> str:
    """The verdict, what speaks for it, what against it, what is open, and why."""
    where = f"{finding.evidence.arm.model} on {finding.evidence.arm.data}"
    head = f"Claim {finding.claim} ({STATEMENTS[finding.claim]}) is {verdict} for {where}"
    if verdict == "no control":
        head = f"Claim {finding.claim} ({STATEMENTS[finding.claim]}): no control for {where}"
    said = {"for": "For it", "against": "Against it", "open": "Open"}
    told = []
    for side, words in said.items():
        effects = [_effect(part) for part in finding.parts if part.speaks(alpha) == side]
        told += [f"{words}: {'; '.join(effects)}."] if effects else []
    return " ".join([head + (f" ({reason})." if reason else "."), *told])


def _effect(part: Part) -> str:
    text = effect_text(part.measure, part.estimate)
    if part.to_peak:
        text += f" in the mean up to its peak at level {_listed(part.at)}"
    elif part.at != part.levels:
        text += f" at level {_listed(part.at)}, the hardest to establish of the levels compared"
    if part.side == "not above":
        size = f"{100 * part.bound:g} %" if part.measure.ratio else f"{part.bound:g}"
        text += f", where level or falling means at most +{size}"
    if part.straight is not None:
        text += f" ({effect_value(part.straight, part.measure.ratio)} where the control is interpolated in straight lines)"
    if part.net is not None:
        text += f", beyond the dense control's own change {effect_size(part.net, part.measure.ratio)}"
    return text


def _control(finding: Finding) -> str:
    """What the effects are differences to, in words."""
    if not finding.parts:
        return ""
    if finding.claim != 3:
        return _control_text({(level, part.against) for part in finding.parts for level in part.levels})
    peaks = sorted({level for part in finding.parts for level in part.against})
    text = f"most robust level before it, chosen on the other seeds and samples: {_listed(peaks)}"
    compared = {(level, part.rounds) for part in finding.parts for level in (*part.levels, *part.against) if part.rounds}
    return f"{text}; and beyond the change meanwhile of the {_control_text(compared)}" if compared else text


def _control_text(compared: Set[tuple[int, tuple[int, ...]]]) -> str:
    """The control's rounds, from pairs (level, rounds that its measure's comparison rests on)."""
    rounds = sorted({one for _, rounds in compared for one in rounds})
    text = f"dense control of equal training, round k against level k: attacked at rounds {_listed([one for one in rounds if one])}"
    between = sorted({one for level, rounds in compared if level not in rounds and level < rounds[-1] for one in rounds})
    if between:
        text += f"; interpolated between rounds {_listed(between)} (in log(1 + k); verdicts must hold for straight lines too)"
    last = sorted({rounds[-1] for level, rounds in compared if level > rounds[-1]})
    return text + (f"; round {_listed(last)} stands for the later ones" if last else "")


def _row(part: Part, role: str, alpha: float) -> dict[str, Any]:
    measure, estimate = part.measure, part.estimate
    low, high = estimate.interval(CONFIDENCE)
    known = not estimate.over_samples_only
    return {
        "measure": measure.name,
        "attack": measure.shown,
        "norm": measure.norm,
        "domain": measure.domain,
        "eps": measure.eps,
        "role": role,
        "speaks": part.speaks(alpha),
        "unit": "relative" if measure.ratio else "absolute",
        "effect": plain(estimate.value),
        "low": plain(low),
        "high": plain(high),
        "p": part.p_for if known else None,
        "p_against": part.p_against if known else None,
        "straight_effect": None if part.straight is None else plain(part.straight.value),
        "net_effect": None if part.net is None else plain(part.net.value),
        "se": plain(estimate.se),
        "df": plain(estimate.df),
        "levels": list(part.levels),
        "at": list(part.at),
        "to_peak": part.to_peak,
        "against": list(part.against),
        "seeds": estimate.seeds,
        "n": estimate.samples,
        "failed": part.failed,
    }


def _listed(levels: Sequence[int]) -> str:
    return ", ".join(map(str, levels))


__all__ = ["ALPHA", "CONFIDENCE", "STATEMENTS", "Evidence", "Measure", "judge", "recommend"]
