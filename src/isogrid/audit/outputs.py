"""Checks of what the model returns and of the state that it was handed over in. Not here: attacks (`audit.search`, `audit.masking`)."""

from __future__ import annotations

from typing import Final

import numpy as np

from isogrid.audit.check import CLEAN, Check, Occurrence, Occurrences, Scope, many, of, share, where, whole
from isogrid.audit.records import Bools, Floats, LevelInputs

TIE: Final = 8
"""Below so many units in the last place of the level's logits, batch size and device decide on which side of the boundary a sample lies:
about 1e-5 at logits of 10 in float32."""
RANDOM_DIFFERENCE: Final = 1e-4


class Probabilities(Check):
    """Outputs that are probabilities."""

    code = "IG003"
    title = "probabilities instead of logits"
    severity = "error"
    remedy = "Remove the softmax or sigmoid from the end of the model: return logits."

    def applies(self, inputs: LevelInputs) -> Scope:
        return CLEAN

    def look(self, inputs: LevelInputs) -> Occurrences:
        if inputs.clean.probabilities:
            yield whole("the outputs are those of a softmax or a sigmoid")


class Randomised(Check):
    """Outputs that change from one evaluation to the next."""

    code = "IG004"
    title = "randomised outputs"
    severity = "error"
    remedy = (
        "Make the model deterministic in eval mode, or average gradients and verdicts over many draws (expectation over "
        "transformation): one draw's success is chance."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(inputs.clean.repeat_difference is not None, "the logits were not evaluated twice, or are not finite")

    def look(self, inputs: LevelInputs) -> Occurrences:
        difference = inputs.clean.repeat_difference
        if difference is not None and difference > RANDOM_DIFFERENCE:
            text = f"two evaluations of the same samples in eval mode differ by {difference:.2%} of the logits' spread"
            yield Occurrence(about="", share=min(difference, 1.0), text=text)


class TinyMargins(Check):
    """Verdicts that rest on a margin within rounding: clean ones, and those of fixed-budget attacks."""

    code = "IG008"
    title = "margins too small to trust"
    severity = "warning"
    remedy = (
        "These verdicts change with batch size, device and precision: evaluate in float64, and take out of the logits what all "
        "classes have in common."
    )

    def applies(self, inputs: LevelInputs) -> Scope:
        return CLEAN

    def look(self, inputs: LevelInputs) -> Occurrences:
        def judge(about: str, margin: Floats, among: Bools) -> Occurrences:
            small, total = int((np.abs(margin[among]) <= TIE * inputs.clean.rounding).sum()), int(among.sum())
            if many(small, total):
                text = f"{about or 'clean samples'}: {of(small, total)} samples lie within {TIE} units in the last place of a tie"
                yield share(small, total, about, text)

        yield from judge("", inputs.clean.margin, np.ones(len(inputs.clean.margin), bool))
        for record in inputs.attacks:
            if record.reported and record.eps is not None:  # a minimum-norm candidate lies at the boundary by design
                yield from judge(record.attack, record.margin, record.ran)


class TrainMode(Check):
    """Modules that were handed over in train mode."""

    code = "IG012"
    title = "model in train mode"
    severity = "warning"
    remedy = "Call model.eval() before evaluating: the attacks do, so their figures differ from yours with dropout on."

    def applies(self, inputs: LevelInputs) -> Scope:
        return where(inputs.clean.training is not None, "a study puts its networks in eval mode itself")

    def look(self, inputs: LevelInputs) -> Occurrences:
        names = inputs.clean.training or ()
        if names:
            yield whole(f"in train mode: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")


__all__ = ["Probabilities", "Randomised", "TinyMargins", "TrainMode"]
