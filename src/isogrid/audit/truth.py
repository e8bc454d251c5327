"""IG015, blindness: what attacks miss of the counterexamples that there are. Not here: finding these (`certify`)."""

from __future__ import annotations

from typing import Final

import numpy as np

from isogrid.audit.check import Check, Occurrence, Occurrences, Scope, many, of, share, where
from isogrid.audit.records import AttackRecord, LevelInputs, TruthRecord

LONGER: Final = 1.02
"""A mean distance counts as too long above this multiple of the true one, which is known to a hundredth."""
ALL: Final = "all attacks"


class Blindness(Check):
    """Attacks that call samples robust, or distances long, though complete search has found perturbations that they missed.

    Told of every attack with figures of its own, and of all of them together: what an envelope of this study can still miss.
    """

    code = "IG015"
    title = "attacks miss counterexamples that there are"
    severity = "warning"
    remedy = (
        "At this level use the truth, which is drawn beside the envelope. At levels where complete search decides nothing expect the "
        "envelope to be too high as well, by more where many units are dead: add attacks with a leaky backward pass."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(inputs.truths, "no complete search was run (a study's `exact:` does that)")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for truth in inputs.truths:
            alike = [record for record in inputs.attacks if (record.norm, record.domain) == (truth.norm, truth.domain)]
            told = [[record] for record in alike if record.reported]
            for group in ([alike] if len(alike) > 1 else []) + told:
                yield from _missed(truth, group) if truth.eps is not None else _longer(truth, group)


def _missed(truth: TruthRecord, group: list[AttackRecord]) -> Occurrences:
    """Samples with a counterexample within the budget that none of the attacks found."""
    assert truth.eps is not None
    deciding = [record for record in group if record.eps in (None, truth.eps)]
    if not deciding:
        return
    seen = truth.broken & np.any([record.ran for record in deciding], axis=0)
    found = np.any([record.broken_at(truth.eps) for record in group], axis=0)
    missed, total = int((seen & ~found).sum()), int(seen.sum())
    if many(missed, total, least=2):
        about = _about(group, truth)
        yield share(missed, total, about, f"{about}: misses {of(missed, total)} correct samples that complete search broke")


def _longer(truth: TruthRecord, group: list[AttackRecord]) -> Occurrences:
    """Samples whose distance is known and on which all of the attacks failed; on the others, a mean that is longer than the true one."""
    free = [record for record in group if record.eps is None]
    if not free:
        return
    seen = truth.broken & np.any([record.ran for record in free], axis=0)
    best = np.min([np.where(record.success, record.distance, np.inf) for record in free], axis=0)
    both, about = seen & np.isfinite(best), _about(group, truth)
    missed, total = int((seen & ~both).sum()), int(seen.sum())
    if many(missed, total, least=2):
        yield share(missed, total, about, f"{about}: finds nothing on {of(missed, total)} samples whose distance is known")
    if not both.any():
        return
    mean, true = float(best[both].mean()), float(truth.distance[both].mean())
    if mean > LONGER * true:
        text = f"{about}: mean distance {mean:.4g}, in truth {true:.4g}, on {int(both.sum())} samples whose distance is known"
        yield Occurrence(about=about, share=1 - true / mean, text=text)


def _about(group: list[AttackRecord], truth: TruthRecord) -> str:
    name = group[0].attack if len(group) == 1 else ALL
    return f"{name}, {truth.norm}, {truth.domain}" + ("" if truth.eps is None else f", eps {truth.eps:g}")


__all__ = ["Blindness"]
