"""Checks of how far an attack's search went: more steps, larger budgets. Not here: one attack against another (`audit.masking`)."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from isogrid.audit.check import Check, Occurrence, Occurrences, Scope, many, of, share, where
from isogrid.audit.records import LevelInputs

CONVERGED: Final = 0.01


class Convergence(Check):
    """Attacks that twice the steps make clearly stronger."""

    code = "IG006"
    title = "more steps still help"
    severity = "warning"
    remedy = "Double the attack's steps until nothing changes, or use an attack that stops on convergence (ddn, apgd-t)."

    def applies(self, inputs: LevelInputs) -> Scope:
        gap = "no attack was repeated with twice its steps (a study's `audit:` does that where attacks have steps)"
        return where(inputs.doubled, gap)

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record, double in inputs.doubled:
            both = record.ran & double.ran
            extra, total = int((double.success & ~record.success & both).sum()), int(both.sum())
            if many(extra, total, least=2):
                yield share(extra, total, record.attack, f"{record.attack}: twice the steps break {of(extra, total)} more correct samples")
            found = both & record.success & double.success
            if record.eps is None and found.any():
                before, after = float(record.distance[found].mean()), float(double.distance[found].mean())
                if after < (1 - CONVERGED) * before:
                    gain = 1 - after / before
                    text = f"{record.attack}: twice the steps shorten the mean distance by {gain:.1%}, to {after:.4g}"
                    yield Occurrence(about=record.attack, share=gain, text=text)


class BudgetGrowth(Check):
    """Success that falls with a growing budget, or stays below 100 % where any input is allowed."""

    code = "IG007"
    title = "success does not reach 100 % with a growing budget"
    severity = "error"
    remedy = (
        "An attack that fails where any input is allowed does not work on this model: gradients are masked, or its step size or "
        "loss does not fit. Use another attack (margin loss, gradient-free) before reading any figure of this one."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        gap = "no attack of several steps was run at growing budgets (a study's `audit:` does that, and so does a grid of eps)"
        return where(inputs.growth, gap)

    def look(self, inputs: LevelInputs) -> Occurrences:
        for growth in inputs.growth:
            records = sorted(growth.records, key=lambda record: record.eps or 0.0)
            for small, large in pairwise(records):
                both = small.ran & large.ran
                lost, total = int(small.success[both].sum()) - int(large.success[both].sum()), int(both.sum())
                if many(lost, total, least=2):
                    text = f"{large.attack}: eps {large.eps:g} breaks {of(lost, total)} correct samples fewer than eps {small.eps:g}"
                    yield share(lost, total, large.attack, text)
            last = records[-1]
            left, total = int((last.ran & ~last.success).sum()), int(last.ran.sum())
            if growth.spans and many(left, total):
                text = f"{last.attack}: {of(left, total)} correct samples withstand eps {last.eps:g}, where any input is allowed"
                yield share(left, total, last.attack, text)


__all__ = ["BudgetGrowth", "Convergence"]
