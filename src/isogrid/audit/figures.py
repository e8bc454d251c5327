"""Checks of whether a level's figures are evidence: failed attacks, collapse, floor and ceiling. Not here: why (the other families)."""

from __future__ import annotations

import numpy as np

from isogrid.audit.check import Check, Occurrence, Occurrences, Scope, of, share, where, whole
from isogrid.audit.records import AttackRecord, LevelInputs
from isogrid.metrics.robustness import collapsed, saturated, void_share


class Failures(Check):
    """Minimum-norm attacks, gradient-free ones included, that fail too often for a mean distance."""

    code = "IG009"
    title = "attack failures above 1 %"
    severity = "warning"
    remedy = (
        "Dropping failures biases the mean, so it is marked void and no claim uses it. Add an attack that does not fail (ddn, cw; "
        "fmn in linf) in the same norm and domain, and read their envelope."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(self._distances(inputs), "no minimum-norm attack")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record in self._distances(inputs):
            failed, total = int((record.ran & ~record.success).sum()), int(record.ran.sum())
            if bool(void_share(failed, total)):
                why = " (with more queries it would fail less)" if record.gradient_free else ""
                text = f"{record.attack}: fails on {of(failed, total)} correct samples, so its mean distance is void{why}"
                yield share(failed, total, record.attack, text)

    @staticmethod
    def _distances(inputs: LevelInputs) -> list[AttackRecord]:
        return [record for record in inputs.attacks if record.reported and record.eps is None]


class Collapse(Check):
    """A level that has collapsed: constant predictions, or a class output without a live path."""

    code = "IG010"
    title = "collapsed level"
    severity = "warning"
    remedy = "The level takes no part in r_2 or claims. Prune less, protect the last layer, or retrain longer."

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(len(inputs.clean.prediction) > 1, "one sample only")

    def look(self, inputs: LevelInputs) -> Occurrences:
        clean = inputs.clean
        if clean.dead_outputs:
            yield whole(f"{clean.dead_outputs} class outputs do not depend on the input")
        elif collapsed(clean.prediction):
            yield whole(f"class {int(clean.prediction[0])} is predicted for all {len(clean.prediction)} samples")


class Saturated(Check):
    """White-box attacks with a budget whose r_inf is at the floor or the ceiling."""

    code = "IG011"
    title = "saturated r_inf"
    severity = "info"
    remedy = "At the floor or the ceiling a change cannot be seen, so this eps is no evidence here: add a smaller or a larger eps."

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(self._budgets(inputs), "no white-box attack with a budget")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record in self._budgets(inputs):
            here = ~np.isnan(record.distance)
            n, correct, robust = int(here.sum()), int((record.correct & here).sum()), int((record.robust & here).sum())
            end = saturated(robust, correct, n) if n else ""
            if end:
                text = f"{record.attack}: r_inf {robust / n:.3f} at accuracy {correct / n:.3f} is at the {end}"
                yield Occurrence(about=record.attack, share=1.0, text=text)

    @staticmethod
    def _budgets(inputs: LevelInputs) -> list[AttackRecord]:
        return [record for record in inputs.white if record.eps is not None]


__all__ = ["Collapse", "Failures", "Saturated"]
