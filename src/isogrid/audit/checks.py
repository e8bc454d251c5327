"""The audit's checks: small pure functions from what a level recorded to its occurrences. Codes and remedies: `audit.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from isogrid.audit.records import AttackRecord, Bools, Floats, LevelInputs
from isogrid.metrics.robustness import collapsed, saturated, void_share

MANY: Final = 0.01
"""A share of samples above which a finding counts, and at least two samples where one could be chance."""
SATURATION_GAP: Final = 16.6
"""log(2^24): at this logit gap 1 - p_y rounds to 0 in float32, and the plain cross-entropy has no gradient left."""
TIE: Final = 8
"""Below so many units in the last place of the level's logits, batch size and device decide on which side of the boundary a sample lies:
about 1e-5 at logits of 10 in float32."""
RANDOM_DIFFERENCE: Final = 1e-4
CONVERGED: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What a check saw: on which attack or threat model (`about`; "" where it is the level itself), how much of it (`share`, 0 to 1; of two
    occurrences of one check about the same, the larger one is worse), and both in words."""

    about: str
    share: float
    text: str


Occurrences = Iterator[Occurrence]


def many(count: int, total: int, least: int = 1) -> bool:
    """Whether so many of `total` samples are more than chance."""
    return count >= least and count > MANY * total


def of(count: int, total: int) -> str:
    """Both in words."""
    return f"{count} of {total} ({count / max(total, 1):.1%})"


def share(count: int, total: int, about: str, text: str) -> Occurrence:
    """What was seen on `count` of `total` samples."""
    return Occurrence(about=about, share=count / max(total, 1), text=text)


def _whole(text: str) -> Occurrence:
    """What is so or not, in no degree, and of the level itself."""
    return Occurrence(about="", share=1.0, text=text)


def white(inputs: LevelInputs) -> list[AttackRecord]:
    """The records of the study's attacks that use gradients."""
    return [record for record in inputs.attacks if record.reported and not record.gradient_free]


def fixed(inputs: LevelInputs) -> list[AttackRecord]:
    """Those with a budget."""
    return [record for record in white(inputs) if record.eps is not None]


def zero_gradients(inputs: LevelInputs) -> Occurrences:
    """Samples whose first loss gradient is exactly zero, or so small that the linearised boundary lies outside the box."""
    for record in white(inputs):
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


def float32_saturation(inputs: LevelInputs) -> Occurrences:
    """Samples so confident that a plain float32 cross-entropy has no gradient."""
    wide, total = int((inputs.clean.margin > SATURATION_GAP).sum()), len(inputs.clean.margin)
    if many(wide, total):
        text = f"{of(wide, total)} samples have a logit gap above {SATURATION_GAP} (largest {inputs.clean.margin.max():.1f})"
        yield share(wide, total, "", text)


def probabilities(inputs: LevelInputs) -> Occurrences:
    """Outputs that are probabilities."""
    if inputs.clean.probabilities:
        yield _whole("every output of the model lies between 0 and 1, as those of a softmax or a sigmoid do")


def randomised(inputs: LevelInputs) -> Occurrences:
    """Outputs that change from one evaluation to the next."""
    difference = inputs.clean.repeat_difference
    if difference is not None and difference > RANDOM_DIFFERENCE:
        text = f"two evaluations of the same samples in eval mode differ by {difference:.2%} of the logits' spread"
        yield Occurrence(about="", share=min(difference, 1.0), text=text)


def not_converged(inputs: LevelInputs) -> Occurrences:
    """Attacks that twice the steps make clearly stronger."""
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


def not_all_broken(inputs: LevelInputs) -> Occurrences:
    """Success that falls with a growing budget, or stays below 100 % where any input is allowed."""
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


def tiny_margins(inputs: LevelInputs) -> Occurrences:
    """Verdicts that rest on a margin within rounding: clean ones, and those of fixed-budget attacks."""

    def judge(about: str, margin: Floats, among: Bools) -> Occurrences:
        small, total = int((np.abs(margin[among]) <= TIE * inputs.clean.rounding).sum()), int(among.sum())
        if many(small, total):
            text = f"{about or 'clean samples'}: {of(small, total)} samples lie within {TIE} units in the last place of a tie"
            yield share(small, total, about, text)

    yield from judge("", inputs.clean.margin, np.ones(len(inputs.clean.margin), bool))
    for record in inputs.attacks:
        if record.reported and record.eps is not None:  # a minimum-norm candidate lies at the boundary by design
            yield from judge(record.attack, record.margin, record.ran)


def minimum_norm(inputs: LevelInputs) -> list[AttackRecord]:
    """The records of the study's minimum-norm attacks, gradient-free ones included."""
    return [record for record in inputs.attacks if record.reported and record.eps is None]


def failures(inputs: LevelInputs) -> Occurrences:
    """Minimum-norm attacks that fail too often for a mean distance."""
    for record in minimum_norm(inputs):
        failed, total = int((record.ran & ~record.success).sum()), int(record.ran.sum())
        if bool(void_share(failed, total)):
            why = " (with more queries it would fail less)" if record.gradient_free else ""
            text = f"{record.attack}: fails on {of(failed, total)} correct samples, so its mean distance is void{why}"
            yield share(failed, total, record.attack, text)


def collapse(inputs: LevelInputs) -> Occurrences:
    """A level that has collapsed: constant predictions, or a class output without a live path."""
    clean = inputs.clean
    if clean.dead_outputs:
        yield _whole(f"{clean.dead_outputs} class outputs do not depend on the input")
    elif collapsed(clean.prediction):
        yield _whole(f"class {int(clean.prediction[0])} is predicted for all {len(clean.prediction)} samples")


def saturated_budgets(inputs: LevelInputs) -> Occurrences:
    """Fixed-budget attacks whose r_inf is at the floor or the ceiling."""
    for record in fixed(inputs):
        here = ~np.isnan(record.distance)
        n, correct, robust = int(here.sum()), int((record.correct & here).sum()), int((record.robust & here).sum())
        where = saturated(robust, correct, n) if n else ""
        if where:
            text = f"{record.attack}: r_inf {robust / n:.3f} at accuracy {correct / n:.3f} is at the {where}"
            yield Occurrence(about=record.attack, share=1.0, text=text)


def train_mode(inputs: LevelInputs) -> Occurrences:
    """Modules that were handed over in train mode."""
    names = inputs.clean.training or ()
    if names:
        yield _whole(f"in train mode: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
