"""Can these figures be believed? Coded findings, each from one small pure rule over what a level's cells recorded.

What belongs here: the rules, their severity and their remedy. What does not: running anything (`study.audit.model` does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from isogrid.study.audit import checks, masking
from isogrid.study.audit.records import LevelInputs

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a reviewer would hold against the figures of a level, and what to do about it.

    code: IG001 ... ; severity: "error" (the figures cannot be used), "warning" (they may mislead), "info". about: the attack or threat
    model ("" for the level itself); share: how much of it, 0 to 1. model, method, level: where.
    """

    code: str
    severity: Severity
    title: str
    detail: str
    remedy: str
    about: str = ""
    share: float = 0.0
    model: str = ""
    method: str = ""
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A finding in waiting: `check(inputs)` yields its occurrences; `applies(inputs)`: there was something to judge."""

    code: str
    severity: Severity
    title: str
    remedy: str
    check: Callable[[LevelInputs], checks.Occurrences]
    applies: Callable[[LevelInputs], bool]


def audit_level(inputs: LevelInputs) -> list[Finding]:
    """All findings on one level from its records, in the order of their codes; an empty list where nothing was found.

    >>> import torch
    >>> from isogrid.study.audit.records import CleanRecord
    >>> z, y = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    >>> [finding.code for finding in audit_level(LevelInputs(clean=CleanRecord.of_logits(z, y)))]
    ['IG003']
    """
    return [
        Finding(
            code=rule.code,
            severity=rule.severity,
            title=rule.title,
            detail=found.text,
            remedy=rule.remedy,
            about=found.about,
            share=found.share,
            model=inputs.model,
            method=inputs.method,
            level=inputs.level,
        )
        for rule in RULES
        for found in rule.check(inputs)
    ]


def verdicts(inputs: LevelInputs) -> dict[str, Literal["found", "passed", "not applicable"]]:
    """What became of each rule on one level, by code: "passed" is said only where there was something to judge."""
    return {
        rule.code: "found" if any(True for _ in rule.check(inputs)) else "passed" if rule.applies(inputs) else "not applicable"
        for rule in RULES
    }


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        code="IG001",
        severity="error",
        title="zero or tiny gradients",
        remedy="Gradient attacks cannot move these samples: look for quantised inputs, saturated activations or dead paths, attack a "
        "smooth copy of the model, and report gradient-free attacks (square, hopskipjump) beside.",
        check=checks.zero_gradients,
        applies=lambda inputs: bool(checks.white(inputs)) or inputs.clean.reach is not None,
    ),
    Rule(
        code="IG002",
        severity="info",
        title="float32 cross-entropy would have saturated",
        remedy="Nothing to do here: isogrid's losses do not saturate. Do not compare with figures from a library that climbs the plain "
        "float32 cross-entropy; it overstates the robustness of this model.",
        check=checks.float32_saturation,
        applies=checks.always,
    ),
    Rule(
        code="IG003",
        severity="error",
        title="probabilities instead of logits",
        remedy="Remove the softmax or sigmoid from the end of the model: return logits.",
        check=checks.probabilities,
        applies=checks.always,
    ),
    Rule(
        code="IG004",
        severity="error",
        title="randomised outputs",
        remedy="Make the model deterministic in eval mode, or average gradients and verdicts over many draws (expectation over "
        "transformation): one draw's success is chance.",
        check=checks.randomised,
        applies=lambda inputs: inputs.clean.repeat_difference is not None,
    ),
    Rule(
        code="IG005",
        severity="error",
        title="a gradient-free attack beats the white-box ones",
        remedy="The gradients mislead, or the white-box attacks are too weak: add apgd-t or autoattack and restarts; if it stays, "
        "gradients are masked and only the envelope with the gradient-free attack may be reported.",
        check=masking.masked,
        applies=lambda inputs: any(case.proof and case.free for case in masking.cases(inputs)),
    ),
    Rule(
        code="IG006",
        severity="warning",
        title="more steps still help",
        remedy="Double the attack's steps until nothing changes, or use an attack that stops on convergence (ddn, apgd-t).",
        check=checks.not_converged,
        applies=lambda inputs: bool(inputs.doubled),
    ),
    Rule(
        code="IG007",
        severity="error",
        title="success does not reach 100 % with a growing budget",
        remedy="An attack that fails where any input is allowed does not work on this model: gradients are masked, or its step size or "
        "loss does not fit. Use another attack (margin loss, gradient-free) before reading any figure of this one.",
        check=checks.not_all_broken,
        applies=lambda inputs: len(inputs.growth) > 1 or inputs.growth_spans,
    ),
    Rule(
        code="IG008",
        severity="warning",
        title="margins too small to trust",
        remedy="These verdicts change with batch size, device and precision: evaluate in float64, and take out of the logits what all "
        "classes have in common.",
        check=checks.tiny_margins,
        applies=checks.always,
    ),
    Rule(
        code="IG009",
        severity="warning",
        title="attack failures above 1 %",
        remedy="Dropping failures biases the mean, so it is marked void and no claim uses it. Add an attack that does not fail (ddn, cw; "
        "fmn in linf) in the same norm and domain, and read their envelope.",
        check=checks.failures,
        applies=lambda inputs: bool(checks.minimum_norm(inputs)),
    ),
    Rule(
        code="IG010",
        severity="warning",
        title="collapsed level",
        remedy="The level takes no part in r_2 or claims. Prune less, protect the last layer, or retrain longer.",
        check=checks.collapse,
        applies=lambda inputs: len(inputs.clean.prediction) > 1,
    ),
    Rule(
        code="IG011",
        severity="info",
        title="saturated r_inf",
        remedy="At the floor or the ceiling a change cannot be seen, so this eps is no evidence here: add a smaller or a larger eps.",
        check=checks.saturated_budgets,
        applies=lambda inputs: bool(checks.fixed(inputs)),
    ),
    Rule(
        code="IG012",
        severity="warning",
        title="model in train mode",
        remedy="Call model.eval() before evaluating: the attacks do, so their figures differ from yours with dropout on.",
        check=checks.train_mode,
        applies=checks.always,
    ),
)
"""Every rule, in the order of its code; codes are never used again for something else."""


__all__ = ["RULES", "Finding", "Rule", "audit_level", "verdicts"]
