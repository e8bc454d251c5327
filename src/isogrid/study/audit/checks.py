"""The audit's checks: small pure functions from what a level recorded to its occurrences. Codes and remedies: `study.audit.rules`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from isogrid.metrics.robustness import collapsed, median_distance, saturated, void_share
from isogrid.study.audit.records import AttackRecord, Bools, Floats, LevelInputs

MANY: Final = 0.01
"""A share of samples above which a finding counts, and at least two samples where one could be chance."""
SATURATION_GAP: Final = 16.6
"""log(2^24): at this logit gap 1 - p_y rounds to 0 in float32, and the plain cross-entropy has no gradient left."""
TIE: Final = 8
"""Below so many units in the last place of the level's logits, batch size and device decide on which side of the boundary a sample lies:
about 1e-5 at logits of 10 in float32."""
RANDOM_DIFFERENCE: Final = 1e-4
SHORTER: Final = 0.95
"""A median distance counts as beaten below this share of it."""
CONVERGED: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What a check saw: on which attack or threat model (`about`; "" where it is the level itself), how much of it (`share`, 0 to 1; of two
    occurrences of one check about the same, the larger one is worse), and both in words."""

    about: str
    share: float
    text: str


Occurrences = Iterator[Occurrence]


def _many(count: int, total: int, least: int = 1) -> bool:
    return count >= least and count > MANY * total


def _of(count: int, total: int) -> str:
    return f"{count} of {total} ({count / max(total, 1):.1%})"


def _share(count: int, total: int, about: str, text: str) -> Occurrence:
    return Occurrence(about=about, share=count / max(total, 1), text=text)


def _whole(text: str) -> Occurrence:
    """What is so or not, in no degree, and of the level itself."""
    return Occurrence(about="", share=1.0, text=text)


def white(inputs: LevelInputs) -> list[AttackRecord]:
    """The records of white-box attacks."""
    return [record for record in inputs.attacks if not record.gradient_free]


def fixed(inputs: LevelInputs) -> list[AttackRecord]:
    """The records of white-box attacks with a budget."""
    return [record for record in white(inputs) if record.eps is not None]


def zero_gradients(inputs: LevelInputs) -> Occurrences:
    """Samples whose first loss gradient is exactly zero, or so small that the linearised boundary lies outside the box."""
    for record in white(inputs):
        zero, total = int((record.zero_gradient & record.ran).sum()), int(record.ran.sum())
        if _many(zero, total):
            text = f"{record.attack}: {_of(zero, total)} correct samples have a loss gradient that is exactly zero"
            yield _share(zero, total, record.attack, text)
    if inputs.clean.reach is not None:
        far = int((inputs.clean.correct & (inputs.clean.reach > 1)).sum())
        total = int(inputs.clean.correct.sum())
        if _many(far, total):
            text = f"at {_of(far, total)} correct samples the gradient is so small that the boundary would lie outside the box"
            yield _share(far, total, "", text)


def float32_saturation(inputs: LevelInputs) -> Occurrences:
    """Samples so confident that a plain float32 cross-entropy has no gradient."""
    wide, total = int((inputs.clean.margin > SATURATION_GAP).sum()), len(inputs.clean.margin)
    if _many(wide, total):
        text = f"{_of(wide, total)} samples have a logit gap above {SATURATION_GAP} (largest {inputs.clean.margin.max():.1f})"
        yield _share(wide, total, "", text)


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


def masked(inputs: LevelInputs) -> Occurrences:
    """Gradient-free attacks (transfer included) that find what no white-box attack of the same norm and domain found."""
    for norm, domain in sorted({(record.norm, record.domain) for record in inputs.attacks}):
        here = [record for record in inputs.attacks if (record.norm, record.domain) == (norm, domain)]
        white, free = ([record for record in here if record.gradient_free is flag] for flag in (False, True))
        if white and free:
            yield from _more_broken(white, free, f"{norm}, {domain}")
            yield from _shorter(white, free, f"{norm}, {domain}")


def _more_broken(white: list[AttackRecord], free: list[AttackRecord], threat: str) -> Occurrences:
    """At each budget that both sides were judged at: what no white-box attack broke and a gradient-free one did."""
    budgets = {r.eps for r in white if r.eps is not None}
    if any(r.eps is None for r in white):
        budgets |= {r.eps for r in free if r.eps is not None}
    for eps in sorted(budgets):
        judged = [r for r in white if r.eps is None or r.eps <= eps]
        tried = np.all([r.ran for r in judged], axis=0)
        broken = np.any([r.broken_at(eps) for r in judged], axis=0)
        for record in free:
            both = tried & record.ran
            extra, total = int((record.broken_at(eps) & ~broken & both).sum()), int(both.sum())
            if (record.eps is None or record.eps <= eps) and _many(extra, total, least=2):
                text = f"{threat}, eps {eps:g}: {record.attack} breaks {_of(extra, total)} correct samples that no white-box attack broke"
                yield _share(extra, total, f"{record.attack}, {threat}", text)


def _shorter(white: list[AttackRecord], free: list[AttackRecord], threat: str) -> Occurrences:
    """Minimum-norm against minimum-norm: samples that only the gradient-free attack breaks, or a median distance clearly below.

    The median and not single samples: DeepFool lies far above the optimum on some samples of any network.
    """
    known = [record for record in white if record.eps is None]
    if not known:
        return
    tried = np.all([record.ran for record in known], axis=0)
    best: Floats = np.min([record.distance for record in known], axis=0)
    for record in free:
        both = tried & record.ran
        if record.eps is not None or not both.any():
            continue
        about = f"{record.attack}, {threat}"
        lost, total = int((np.isinf(best) & np.isfinite(record.distance) & both).sum()), int(both.sum())
        if _many(lost, total, least=2):
            text = f"{threat}: {record.attack} breaks {_of(lost, total)} correct samples on which every white-box attack failed"
            yield _share(lost, total, about, text)
        ours, theirs = (median_distance(distance[both], np.ones(total, bool)) for distance in (best, record.distance))
        if theirs < SHORTER * ours:
            text = f"{threat}: median distance {theirs:.4g} of {record.attack}, {ours:.4g} of the white-box attacks, {total} samples"
            yield Occurrence(about=about, share=1 - theirs / ours, text=text)


def not_converged(inputs: LevelInputs) -> Occurrences:
    """Attacks that twice the steps make clearly stronger."""
    for record, double in inputs.doubled:
        both = record.ran & double.ran
        extra, total = int((double.success & ~record.success & both).sum()), int(both.sum())
        if _many(extra, total, least=2):
            yield _share(extra, total, record.attack, f"{record.attack}: twice the steps break {_of(extra, total)} more correct samples")
        found = both & record.success & double.success
        if record.eps is None and found.any():
            before, after = float(record.distance[found].mean()), float(double.distance[found].mean())
            if after < (1 - CONVERGED) * before:
                gain = 1 - after / before
                text = f"{record.attack}: twice the steps shorten the mean distance by {gain:.1%}, to {after:.4g}"
                yield Occurrence(about=record.attack, share=gain, text=text)


def not_all_broken(inputs: LevelInputs) -> Occurrences:
    """Success that falls with a growing budget, or stays below 100 % where any input is allowed."""
    records = sorted(inputs.growth, key=lambda record: record.eps or 0.0)
    for small, large in pairwise(records):
        both = small.ran & large.ran
        lost, total = int(small.success[both].sum()) - int(large.success[both].sum()), int(both.sum())
        if _many(lost, total, least=2):
            text = f"{large.attack}: eps {large.eps:g} breaks {_of(lost, total)} correct samples fewer than eps {small.eps:g}"
            yield _share(lost, total, large.attack, text)
    if records and inputs.growth_spans:
        last = records[-1]
        left, total = int((last.ran & ~last.success).sum()), int(last.ran.sum())
        if _many(left, total):
            text = f"{last.attack}: {_of(left, total)} correct samples withstand eps {last.eps:g}, where any input is allowed"
            yield _share(left, total, last.attack, text)


def tiny_margins(inputs: LevelInputs) -> Occurrences:
    """Verdicts that rest on a margin within rounding: clean ones, and those of fixed-budget attacks."""

    def judge(about: str, margin: Floats, among: Bools) -> Occurrences:
        small, total = int((np.abs(margin[among]) <= TIE * inputs.clean.rounding).sum()), int(among.sum())
        if _many(small, total):
            text = f"{about or 'clean samples'}: {_of(small, total)} samples lie within {TIE} units in the last place of a tie"
            yield _share(small, total, about, text)

    yield from judge("", inputs.clean.margin, np.ones(len(inputs.clean.margin), bool))
    for record in inputs.attacks:
        if record.eps is not None:  # a minimum-norm candidate lies at the boundary by design
            yield from judge(record.attack, record.margin, record.ran)


def failures(inputs: LevelInputs) -> Occurrences:
    """Minimum-norm white-box attacks that fail too often for a mean distance."""
    for record in white(inputs):
        failed, total = int((record.ran & ~record.success).sum()), int(record.ran.sum())
        if record.eps is None and bool(void_share(failed, total)):
            yield _share(failed, total, record.attack, f"{record.attack}: fails on {_of(failed, total)} correct samples, so r_2 is void")


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
    names = inputs.clean.training
    if names:
        yield _whole(f"in train mode: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")


def always(_inputs: LevelInputs) -> bool:
    """For rules that every level can be judged by."""
    return True


def has_both_kinds(inputs: LevelInputs) -> bool:
    """Some norm and domain has a white-box and a gradient-free attack."""
    kinds = {(r.norm, r.domain, r.gradient_free) for r in inputs.attacks}
    return any((norm, domain, not free) in kinds for norm, domain, free in kinds)
