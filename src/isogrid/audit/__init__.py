"""Can these figures be believed? The checks in the order of their codes, and what they say of a level's records.

What belongs in this room: checks over models and records, one class each, one file per family. What does not: studies, the page.
"""

from __future__ import annotations

from typing import Final

from isogrid.audit.check import Check
from isogrid.audit.figures import Collapse, Failures, Saturated
from isogrid.audit.findings import Audit, Checked, Finding, State
from isogrid.audit.gradients import BlindGradients, BrokenGradients, CrossEntropySaturation, ZeroGradients
from isogrid.audit.masking import Masking
from isogrid.audit.outputs import Probabilities, Randomised, TinyMargins, TrainMode
from isogrid.audit.records import LevelInputs
from isogrid.audit.search import BudgetGrowth, Convergence
from isogrid.audit.truth import Blindness

CHECKS: Final[tuple[Check, ...]] = (
    ZeroGradients(),
    CrossEntropySaturation(),
    Probabilities(),
    Randomised(),
    Masking(),
    Convergence(),
    BudgetGrowth(),
    TinyMargins(),
    Failures(),
    Collapse(),
    Saturated(),
    TrainMode(),
    BlindGradients(),
    BrokenGradients(),
    Blindness(),
)
"""Every check, in the order of its code."""


def examine_level(inputs: LevelInputs) -> Audit:
    """Apply every check to one level's records. That none fired does not mean that each had something to judge: `Audit.checks` tells.

    >>> import torch
    >>> from isogrid.audit.records import CleanRecord
    >>> z, y = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    >>> audit = examine_level(LevelInputs(clean=CleanRecord.of_logits(z, y)))
    >>> [finding.code for finding in audit.findings], [one.code for one in audit.checks if one.state == "passed"]
    (['IG003'], ['IG002', 'IG008', 'IG010'])
    """
    findings, checked = [], []
    for check in CHECKS:
        place = {"model": inputs.model, "method": inputs.method, "level": inputs.level}
        said = {"code": check.code, "severity": check.severity, "title": check.title}
        found = [
            Finding(**said, detail=one.text, remedy=check.remedy, about=one.about, share=one.share, **place)  # type: ignore[arg-type]
            for one in check.look(inputs)
        ]
        scope = check.applies(inputs)
        state: State = "found" if found else "passed" if scope.judged else "not checked"
        findings += found
        checked.append(Checked(**said, state=state, gap=scope.gap))  # type: ignore[arg-type]
    return Audit(findings=findings, checks=checked)


__all__ = ["CHECKS", "Audit", "Check", "Checked", "Finding", "LevelInputs", "examine_level"]
