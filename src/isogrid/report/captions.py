"""Captions, labels and alternative texts of the figures. What belongs here: words about curves. What does not: drawing, judging."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isogrid.report.tables import Tables
from isogrid.report.words import attack_label, group_title, joined, number, percent, samples_note
from isogrid.study.results import Curve, Group
from isogrid.verdicts.arm import Arm

MOST = 0.95
"""Sparsity over a lesser share of all weights is never shown without that share."""


def curve_label(study: Tables, curve: Curve) -> str:
    """The attack, and its number of samples where that is not the study's."""
    note = samples_note(curve.samples, study.samples)
    return attack_label(curve.attack) + (f" ({note})" if note else "")


def counted_over(study: Tables, arm: Arm) -> str:
    """A sentence on what an arm's sparsity counts over, where that is less than 95 % of the weights; empty elsewhere."""
    share = study.counted(arm)
    return f"Sparsity counts over {percent(share)} of all weights." if share < MOST else ""


def on_samples(study: Tables, curves: Sequence[Curve]) -> str:
    """`, n = 200 of 1000 test samples` where it is not all of them."""
    notes = dict.fromkeys(note for curve in curves if (note := samples_note(curve.samples, study.samples)))
    return f", {joined(list(notes))} of {study.samples} test samples" if notes and study.samples else ""


def few_samples(study: Tables, curves: Sequence[Curve]) -> str:
    """A sentence on the attacks that did not see all test samples; empty where every one did."""
    few = [curve_label(study, curve) for curve in curves if samples_note(curve.samples, study.samples)]
    return f" On fewer than all {study.samples} test samples: {joined(few)}." if few else ""


def describe(model: str, curve: Curve, group: Group) -> str:
    """The alternative text of a curve."""
    sound = [point for point in curve.points if point.state == "sound" and math.isfinite(point.mean)]
    if not sound:
        return f"{group_title(group)} of {model}: no level gives evidence."
    best = max(sound, key=lambda point: point.mean)
    first, last = sound[0], sound[-1]
    return (
        f"{group_title(group)} of {model} against sparsity, {attack_label(curve.attack) or 'clean'}: "
        f"{number(first.mean)} at {percent(first.sparsity)}, highest {number(best.mean)} at {percent(best.sparsity)}, "
        f"{number(last.mean)} at {percent(last.sparsity)}."
    )


def caption(study: Tables, main: Curve, others: Sequence[Curve], control: Curve | None, several: bool, truth: Curve | None = None) -> str:
    """What an overview shows: which attacks, over which samples and seeds, against which control."""
    seeds, given = max((point.seeds for point in main.points), default=0), study.given(main.arm)
    mean = "" if given else f", mean of {seeds} seed{'s' if seeds != 1 else ''}"
    parts = [
        f"Bold: {'the envelope' if main.is_envelope else attack_label(main.attack)}"
        f"{' over ' + joined([attack_label(attack) for attack in main.over]) if main.over else ''}"
        f"{mean}{on_samples(study, [main])}."
    ]
    if others:
        parts.append(f"Thin: {joined([curve_label(study, curve) for curve in others])}.")
    if truth is not None:
        seeds_told = max((point.seeds for point in truth.points), default=0)
        where = "" if seeds_told == seeds else f" of {seeds_told} of {seeds} seeds"
        open_ = any(point.undecided for point in truth.points)
        parts.append(
            f"Diamonds: the truth{where}{on_samples(study, [truth])}, by complete search: every sample is proved robust or broken."
        )
        parts += ["Bars: between the ends of what is known, where some samples are undecided."] if open_ else []
    if control is None:
        parts.append("This attack has no dense control: no control.")
    elif control.attack != main.attack:
        met = joined([attack_label(attack) for attack in control.over])
        parts.append(f"The dense control met {met} alone: compare it with the shared envelope, as the claims do.")
    else:
        parts.append("Each control is drawn at the level whose training it shares.")
    if main.points and all(point.void for point in main.points):
        parts.append("Every level is void: what is known, the median and what failed, is in the frontier below.")
    elif not several and not given:
        parts.append("One seed: no spread over seeds can be shown.")
    return " ".join([*parts, counted_over(study, main.arm)]).strip()
