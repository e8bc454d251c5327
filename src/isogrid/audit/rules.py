"""Can these figures be believed? Coded findings, each from one small pure rule over what a level's cells recorded.

What belongs here: the rules, their severity and their remedy. What does not: running anything (`audit.model` does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from isogrid.audit import checks, masking, scopes
from isogrid.audit.records import LevelInputs
from isogrid.audit.scopes import Scope

Severity = Literal["info", "warning", "error"]
State = Literal["found", "passed", "not checked"]


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
    """A finding in waiting: `check(inputs)` yields its occurrences; `scope(inputs)`: what there was to judge."""

    code: str
    severity: Severity
    title: str
    remedy: str
    check: Callable[[LevelInputs], checks.Occurrences]
    scope: Callable[[LevelInputs], Scope]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became of one rule. gap: what it could not look at and why; a rule that could look at nothing is "not checked"."""

    code: str
    severity: Severity
    title: str
    state: State
    gap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found, and what became of every rule, both in the order of the codes."""

    findings: list[Finding]
    checks: list[Checked]


def examine_level(inputs: LevelInputs) -> Audit:
    """Apply every rule to one level's records.

    >>> import torch
    >>> from isogrid.audit.records import CleanRecord
    >>> z, y = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    >>> audit = examine_level(LevelInputs(clean=CleanRecord.of_logits(z, y)))
    >>> [finding.code for finding in audit.findings], [one.code for one in audit.checks if one.state == "passed"]
    (['IG003'], ['IG002', 'IG008', 'IG010'])
    """
    findings, checked = [], []
    for rule in RULES:
        found = [_finding(rule, one, inputs) for one in rule.check(inputs)]
        scope = rule.scope(inputs)
        state: State = "found" if found else "passed" if scope.judged else "not checked"
        findings += found
        checked.append(Checked(code=rule.code, severity=rule.severity, title=rule.title, state=state, gap=scope.gap))
    return Audit(findings=findings, checks=checked)


def audit_level(inputs: LevelInputs) -> list[Finding]:
    """The findings alone; an empty list means that no rule fired, not that every rule had something to judge."""
    return examine_level(inputs).findings


def _finding(rule: Rule, found: checks.Occurrence, inputs: LevelInputs) -> Finding:
    return Finding(
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


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        code="IG001",
        severity="error",
        title="zero or tiny gradients",
        remedy="Gradient attacks cannot move these samples: look for quantised inputs, saturated activations or dead paths, attack a "
        "smooth copy of the model, and report gradient-free attacks (square, hopskipjump) beside.",
        check=checks.zero_gradients,
        scope=scopes.gradients,
    ),
    Rule(
        code="IG002",
        severity="info",
        title="float32 cross-entropy would have saturated",
        remedy="Nothing to do here: isogrid's losses do not saturate. Do not compare with figures from a library that climbs the plain "
        "float32 cross-entropy; it overstates the robustness of this model.",
        check=checks.float32_saturation,
        scope=scopes.everywhere,
    ),
    Rule(
        code="IG003",
        severity="error",
        title="probabilities instead of logits",
        remedy="Remove the softmax or sigmoid from the end of the model: return logits.",
        check=checks.probabilities,
        scope=scopes.everywhere,
    ),
    Rule(
        code="IG004",
        severity="error",
        title="randomised outputs",
        remedy="Make the model deterministic in eval mode, or average gradients and verdicts over many draws (expectation over "
        "transformation): one draw's success is chance.",
        check=checks.randomised,
        scope=scopes.repeated,
    ),
    Rule(
        code="IG005",
        severity="error",
        title="a gradient-free attack beats the white-box ones",
        remedy="The gradients mislead, or the white-box attacks are too weak: add apgd-t or autoattack and restarts; if it stays, "
        "gradients are masked and only the envelope with the gradient-free attack may be reported.",
        check=masking.masked,
        scope=scopes.masking,
    ),
    Rule(
        code="IG006",
        severity="warning",
        title="more steps still help",
        remedy="Double the attack's steps until nothing changes, or use an attack that stops on convergence (ddn, apgd-t).",
        check=checks.not_converged,
        scope=scopes.doubled,
    ),
    Rule(
        code="IG007",
        severity="error",
        title="success does not reach 100 % with a growing budget",
        remedy="An attack that fails where any input is allowed does not work on this model: gradients are masked, or its step size or "
        "loss does not fit. Use another attack (margin loss, gradient-free) before reading any figure of this one.",
        check=checks.not_all_broken,
        scope=scopes.grown,
    ),
    Rule(
        code="IG008",
        severity="warning",
        title="margins too small to trust",
        remedy="These verdicts change with batch size, device and precision: evaluate in float64, and take out of the logits what all "
        "classes have in common.",
        check=checks.tiny_margins,
        scope=scopes.everywhere,
    ),
    Rule(
        code="IG009",
        severity="warning",
        title="attack failures above 1 %",
        remedy="Dropping failures biases the mean, so it is marked void and no claim uses it. Add an attack that does not fail (ddn, cw; "
        "fmn in linf) in the same norm and domain, and read their envelope.",
        check=checks.failures,
        scope=scopes.distances,
    ),
    Rule(
        code="IG010",
        severity="warning",
        title="collapsed level",
        remedy="The level takes no part in r_2 or claims. Prune less, protect the last layer, or retrain longer.",
        check=checks.collapse,
        scope=scopes.several,
    ),
    Rule(
        code="IG011",
        severity="info",
        title="saturated r_inf",
        remedy="At the floor or the ceiling a change cannot be seen, so this eps is no evidence here: add a smaller or a larger eps.",
        check=checks.saturated_budgets,
        scope=scopes.budgets,
    ),
    Rule(
        code="IG012",
        severity="warning",
        title="model in train mode",
        remedy="Call model.eval() before evaluating: the attacks do, so their figures differ from yours with dropout on.",
        check=checks.train_mode,
        scope=scopes.handed_over,
    ),
)
"""Every rule, in the order of its code; codes are never used again for something else."""


__all__ = ["RULES", "Audit", "Checked", "Finding", "Rule", "audit_level", "examine_level"]
