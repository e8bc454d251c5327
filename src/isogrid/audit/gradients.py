"""Checks of the gradients that attacks follow. Not here: whether they mislead (`audit.masking`), how far a search went (`audit.search`)."""

from __future__ import annotations

from typing import Final

import numpy as np

from isogrid.audit.check import CLEAN, MANY, Check, Occurrence, Occurrences, Scope, many, of, share, where
from isogrid.audit.records import AttackRecord, LevelInputs

SATURATION_GAP: Final = 16.6
"""log(2^24): at this logit gap 1 - p_y rounds to 0 in float32, and the plain cross-entropy has no gradient left."""


class ZeroGradients(Check):
    """Samples whose first loss gradient is exactly zero, or so small that the linearised boundary lies outside the box."""

    code = "IG001"
    title = "zero or tiny gradients"
    severity = "error"
    remedy = (
        "Gradient attacks cannot move these samples: look for quantised inputs, saturated activations or dead paths, attack a "
        "smooth copy of the model, and report gradient-free attacks (square, hopskipjump) beside."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(inputs.white or inputs.clean.reach is not None, "no gradient was asked for")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record in inputs.white:
            zero, total = int((record.zero_gradient & record.ran).sum()), int(record.ran.sum())
            if many(zero, total):
                text = f"{record.attack}: {of(zero, total)} correct samples have a loss gradient that is exactly zero"
                yield share(zero, total, record.attack, text)
        if inputs.clean.reach is not None:
            far = int((inputs.clean.correct & (inputs.clean.reach > 1)).sum())
            total = int(inputs.clean.correct.sum())
            if many(far, total):
                text = f"at {of(far, total)} correct samples the gradient is so small that the boundary would lie outside the box"
                yield share(far, total, "", text)


class CrossEntropySaturation(Check):
    """Samples so confident that a plain float32 cross-entropy has no gradient."""

    code = "IG002"
    title = "float32 cross-entropy would have saturated"
    severity = "info"
    remedy = (
        "Nothing to do here: isogrid's losses do not saturate. Do not compare with figures from a library that climbs the plain "
        "float32 cross-entropy; it overstates the robustness of this model."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return CLEAN

    def look(self, inputs: LevelInputs) -> Occurrences:
        wide, total = int((inputs.clean.margin > SATURATION_GAP).sum()), len(inputs.clean.margin)
        if many(wide, total):
            text = f"{of(wide, total)} samples have a logit gap above {SATURATION_GAP} (largest {inputs.clean.margin.max():.1f})"
            yield share(wide, total, "", text)


class BlindGradients(Check):
    """Samples that fall where dead units let the gradient through, and to no attack that follows the exact one."""

    code = "IG013"
    title = "dead units hide adversarial examples from plain gradients"
    severity = "warning"
    remedy = (
        "Figures of attacks with exact gradients overstate the robustness of this level, the sparser the more: read the envelope, of "
        "which the leaky attacks (`backward: leaky`) are a part."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        leaky = [record for record in inputs.attacks if record.leaky]
        return where(any(self._plain(inputs, record) for record in leaky), "no attack with a leaky backward pass beside an exact one")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record in inputs.attacks:
            plain = self._plain(inputs, record) if record.leaky else []
            if not plain:
                continue
            if record.eps is not None:
                known = np.any([one.broken_at(record.eps) for one in plain], axis=0)
                hidden, total = int((record.success & ~known).sum()), int(inputs.clean.correct.sum())
                if many(hidden, total, least=2):
                    text = f"{record.attack}: turns {of(hidden, total)} correct samples that no attack with exact gradients turned"
                    yield share(hidden, total, record.attack, text)
                continue
            best = np.min([np.where(one.success, one.distance, np.inf) for one in plain], axis=0)
            both = record.success & np.isfinite(best)
            before, after = (float(values[both].mean()) if both.any() else 0.0 for values in (best, np.minimum(best, record.distance)))
            if after < (1 - MANY) * before:
                shorter = 1 - after / before
                text = f"{record.attack}: the mean distance is {shorter:.1%} shorter than that of all attacks with exact gradients"
                yield Occurrence(about=record.attack, share=shorter, text=text)

    def _plain(self, inputs: LevelInputs, leaky: AttackRecord) -> list[AttackRecord]:
        """The attacks with exact gradients on the same threat model."""
        same = [r for r in inputs.attacks if (r.norm, r.domain) == (leaky.norm, leaky.domain) and not r.leaky and not r.gradient_free]
        return [record for record in same if (record.eps is None) >= (leaky.eps is None)]


class BrokenGradients(Check):
    """Samples at which a gradient is NaN or infinite in some component."""

    code = "IG014"
    title = "gradients that are not finite"
    severity = "warning"
    remedy = (
        "Such components counted as 0, so attacks cannot use them: look for square roots, norms, logarithms and divisions at 0, add a "
        "small constant inside them, and report gradient-free attacks (square, hopskipjump) beside."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(inputs.white, "no gradient was asked for")

    def look(self, inputs: LevelInputs) -> Occurrences:
        for record in inputs.white:
            broken, total = int((record.broken_gradient & record.ran).sum()), int(record.ran.sum())
            if many(broken, total):
                text = f"{record.attack}: {of(broken, total)} correct samples met a gradient with NaN or infinite components"
                yield share(broken, total, record.attack, text)


__all__ = ["BlindGradients", "BrokenGradients", "CrossEntropySaturation", "ZeroGradients"]
