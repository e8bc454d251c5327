"""The contrasts that the paper's claims are judged by, fixed beforehand: effects with p-values, before any verdict.

1 (linear models), over the attacked levels k >= 1 whose accuracy is at least dense minus tolerance, each against the dense control
  after the same k rounds of training: r_inf rises in the mean of these levels, and r_2 lies at none of them above the control by more
  than the tolerance ("from the first round on": in a mean a late fall would hide an early rise). Against it speaks a mean r_2 of the
  levels up to its peak that lies higher.
2 (nonlinear models), 5 (deeper networks on CIFAR-10), over the same levels: in both norms the mean of the levels up to the peak, the
  level that lies highest above the control, rises. What comes after the peak is claim 3's and does not count here. Against it speaks a norm
  in which every single level lies below the control: then no threshold makes the claim true.
  A peak is chosen, for a seed, on other seeds and other samples than are judged (`metrics.statistics.held_out_means`).
  Between the rounds at which the control was attacked it is interpolated, and what is concluded must hold on both scales of
  interpolation, log(1 + k) and k (the larger p-value; `evidence.Table.control_weights`); the effect shown is that on log(1 + k).
3 (nonlinear models): the last uncollapsed level lies below the most robust level before it, in both norms, and it fell by more than
  the control did over the same rounds: a fall that training alone brings about supports nothing.
4 as claim 2, along another axis: dense networks by the rising weight of their penalty on activations, each against the network without a
  penalty, of the same seed and training (`Evidence.activations`).

What belongs here: which levels are compared with what, and how the halves of a claim are put together. What does not: verdicts and their
words (`verdicts.claims`), which arrays are evidence (`verdicts.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isogrid.metrics.statistics import Estimate, apart, choosing, crossed, held_out_means, judging, relative
from isogrid.verdicts.evidence import ALPHA, GIVEN, NORMS, Bools, Evidence, Floats, Measure, Table, primaries, table
from isogrid.verdicts.results import Change

DEEP = ("vgg-like", "resnet-32")
Side = Literal["rises", "rises to a peak", "not above", "falls"]
Obstacle = Literal[
    "linear only",
    "nonlinear only",
    "judged as claim 5",
    "weights only",
    "deep only",
    "no control",
    "no attack",
    "not alike",
    "too few",
    "control no evidence",
    "no level",
    "control all zero",
    "one level",
    "peak all zero",
    "one seed",
    "one network",
]
"""What stands in the way of a verdict, by a code; in words: `verdicts.wording.OBSTACLES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One measure's share in a claim: the effect (absolute for r_inf, relative for a distance), and the p-values for and against.

    `levels`: those that were compared. `at`: what the effect is the effect of: all of them, the mean up to the peaks that the seeds were
    given (`to_peak`), or the one level that is hardest to establish. `against`: the control's rounds that the comparison rests on, claim
    3: the peak's levels. `side`, `bound`: what is claimed, "not above" +bound say. `straight`: the effect where the control is interpolated
    in straight lines; None where nothing is interpolated. `net`:
    claim 3's effect beyond the control's change over the same time, by its `rounds`; None in other claims. `apart`: the
    seed, by number, whose effect lies apart from the others' (`metrics.statistics.apart`).
    """

    measure: Measure
    estimate: Estimate
    side: Side
    bound: float
    p_for: float
    p_against: float
    levels: tuple[int, ...]
    at: tuple[int, ...]
    to_peak: bool
    against: tuple[int, ...]
    failed: int
    apart: tuple[int, ...] = ()
    straight: Estimate | None = None
    net: Estimate | None = None
    rounds: tuple[int, ...] = ()

    @property
    def change(self) -> Change:
        """The effect as it is written."""
        return Change.of(self.measure.quantity, self.estimate)

    def speaks(self, alpha: float) -> str:
        """ "for" or "against" where it does by itself, before any correction for more than one test; else "open"."""
        return "for" if self.p_for <= alpha else "against" if self.p_against <= alpha else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A claim before Holm: `applies` and `controlled` say whether it can be judged, `obstacles` what stands in its way, in which norm
    ("" for both)."""

    evidence: Evidence
    claim: int
    parts: tuple[Part, ...] = ()
    secondary: tuple[Part, ...] = ()
    applies: bool = True
    controlled: bool = True
    p_for: float = 1.0
    p_against: float = 1.0
    obstacles: tuple[tuple[str, Obstacle], ...] = ()


def contrasts_of(evidence: Evidence, tolerance: Mapping[str, float]) -> list[Contrast]:
    """One contrast for each of the claims 1 to 5; `tolerance` as in `verdicts.claims.judge`."""
    deep = evidence.arm.data.startswith("cifar10") and evidence.arm.model.partition("(")[0] in DEEP  # at any width

    def no(claim: int, obstacle: Obstacle) -> Contrast:
        return Contrast(evidence=evidence, claim=claim, applies=False, obstacles=(("", obstacle),))

    linear = evidence.linear
    return [
        _against_control(evidence, 1, {"linf": "rises", "l2": "not above"}, tolerance) if linear else no(1, "linear only"),
        no(2, "nonlinear only" if linear else "judged as claim 5")
        if linear or deep
        else _against_control(evidence, 2, {"linf": "rises to a peak", "l2": "rises to a peak"}, tolerance),
        no(3, "nonlinear only") if linear else _beyond_peak(evidence, tolerance),
        no(4, "weights only")
        if evidence.activations is None
        else _against_control(evidence.activations, 4, {"linf": "rises to a peak", "l2": "rises to a peak"}, tolerance),
        _against_control(evidence, 5, {"linf": "rises to a peak", "l2": "rises to a peak"}, tolerance) if deep else no(5, "deep only"),
    ]


def _against_control(evidence: Evidence, claim: int, sides: Mapping[str, Side], tolerance: Mapping[str, float]) -> Contrast:
    """Claims 1, 2, 4, 5: sparse levels that keep their accuracy, each against the dense control at the same round, per norm."""
    return _judged(evidence, claim, lambda measure: _control_part(evidence, measure, sides[measure.norm], tolerance))


def _judged(evidence: Evidence, claim: int, contrast: Callable[[Measure], Part | Obstacle]) -> Contrast:
    """The claim by the contrast of each norm's primary measure, that of the other measures beside it; nothing without a control."""
    chosen = primaries(evidence.measures)
    if not any(measure.controlled for measure in evidence.measures):
        obstacle: Obstacle = "no control" if evidence.measures else "no attack"
        return Contrast(evidence=evidence, claim=claim, controlled=False, obstacles=(("", obstacle),))
    parts, obstacles = list[Part](), list[tuple[str, Obstacle]]()
    for norm in NORMS:
        if norm not in chosen or not chosen[norm].controlled:
            obstacles.append((norm, "not alike"))
            continue
        part = contrast(chosen[norm])
        if isinstance(part, Part):
            parts.append(part)
        else:
            obstacles.append((norm, part))
    others = [m for m in evidence.measures if m.controlled and m.name not in {c.name for c in chosen.values()}]
    return _combined(evidence, claim, parts, [part for m in others if isinstance(part := contrast(m), Part)], obstacles)


def _tables(evidence: Evidence, measure: Measure) -> list[Table]:
    """The levels that have a control, with failures at the mean of their cell; and at its largest distance, where there are failures."""
    rows = table(evidence, measure).with_control()
    return [rows, table(evidence, measure, largest=True).with_control()] if rows.failed else [rows]


def _scales(rows: Table, used: Bools) -> list[Floats]:
    """The control's weights [T, L] on both scales of interpolation, on one where they agree on the levels `used` [L]."""
    weights, straight = rows.control_weights(), rows.control_weights(straight=True)
    return [weights] if np.array_equal(weights[:, used], straight[:, used]) else [weights, straight]


def _control_part(evidence: Evidence, measure: Measure, side: Side, tolerance: Mapping[str, float]) -> Part | Obstacle:
    """The contrast of one measure, or why there is none."""
    tables = _tables(evidence, measure)
    rows = tables[0]
    if not rows.usable:
        return "too few"
    if not rows.controlled:
        return "control no evidence"
    keeps = _keeps_accuracy(evidence, rows, tolerance["accuracy"])
    if not keeps.any(-1).all():
        return "no level"
    if measure.ratio and not judging(rows.control).mean((0, 2)).min() > 0:
        return "control all zero"
    bound = tolerance["r_inf" if measure.kind == "r_inf" else "distance"] if side == "not above" else 0.0
    one, other = _tests(measure, tables, keeps, side, bound)
    shown = other if other.p_against <= min(ALPHA, one.p_for) else one  # no verdict stands beside an effect that another test was made on
    return replace(shown, p_for=one.p_for, p_against=other.p_against)


def _tests(measure: Measure, tables: Sequence[Table], keeps: Bools, side: Side, bound: float) -> tuple[Part, Part]:
    """What tests a side, and what tests its contrary, on the levels of `keeps` [S, L]: whatever failures and interpolation are taken for.

    A single level stands for "at every level": the one that is hardest to establish (intersection-union over the levels, Berger 1982).
    The mean up to the peak stands for "at some level": where no level lies beyond the bound, neither does a mean of levels.
    """
    rows, used = tables[0], np.any(keeps, axis=0)
    scales = _scales(rows, used)
    levels, rounds = _where(rows.levels, used), _where(rows.control_levels, np.any(scales[0][:, used], axis=1))
    pairs = [(judging(some.values), np.einsum("tl,stn->sln", scale, judging(some.control))) for some in tables for scale in scales]

    def mean(taken: Bools, at: tuple[int, ...], *, to_peak: bool = False) -> Part:
        shares = taken / taken.sum(-1, keepdims=True)
        parts = []
        for pair in pairs:
            values, reference = (np.einsum("sl,sln->sn", shares, some) for some in pair)
            tested = _tested(measure, values, reference, side, bound, chosen=to_peak) | {"apart": _apart(rows, values - reference)}
            parts.append(Part(**tested, levels=levels, at=at, to_peak=to_peak, against=rounds, failed=rows.failed))
        return replace(_hardest(parts), straight=parts[1].estimate if len(scales) > 1 else None)

    if side == "rises":
        return (part := mean(keeps, levels)), part
    places = np.arange(len(rows.levels))
    control = np.einsum("tl,stn->sln", scales[0], rows.control)
    peak = np.where(keeps, held_out_means(rows.values) - held_out_means(control), -np.inf).argmax(-1)
    peaks = tuple(rows.levels[k] for k in sorted(set(peak.tolist())))
    some = mean(keeps & (places <= peak[:, None]), peaks, to_peak=True)
    each = [mean(np.broadcast_to(places == k, keeps.shape), (rows.levels[k],)) for k in np.flatnonzero(used)]
    if side == "not above":
        return max(each, key=lambda one: one.p_for), some
    return some, max(each, key=lambda one: one.p_against)


def _apart(rows: Table, change: Floats) -> tuple[int, ...]:
    """The seed whose `change` [S, N] lies apart."""
    index = apart(change.mean(1))
    return () if index is None else (int(rows.seeds[index]),)


def _hardest(parts: Sequence[Part]) -> Part:
    """The first of several looks at one effect, with the p-values of the look at which it is hardest to establish."""
    return replace(parts[0], p_for=max(part.p_for for part in parts), p_against=max(part.p_against for part in parts))


def _where(levels: tuple[int, ...], chosen: Bools) -> tuple[int, ...]:
    return tuple(level for level, taken in zip(levels, chosen.tolist(), strict=True) if taken)


def _keeps_accuracy(evidence: Evidence, rows: Table, tolerance: float) -> Bools:
    """Whether, for a seed, a level >= 1 is at least as accurate as dense minus tolerance, in the mean of the other seeds and on the samples
    that `rows` is not judged on: [S, L].

    Who looks at accuracy looks at r_inf as well, where most of what is right stays right under attack: at the tolerance's edge the levels
    that noise lifts would be kept, and judged by that noise.
    """
    columns = [evidence.levels.index(level) for level in (0, *rows.levels)]
    free: Bools = np.ones(evidence.correct.shape[2], bool)
    free[rows.samples[~choosing(len(rows.samples))]] = False
    accuracy = np.nanmean(evidence.correct[rows.seeds][:, columns][:, :, free], axis=2)
    if len(accuracy) > 1:
        accuracy = (accuracy.sum(0, keepdims=True) - accuracy) / (len(accuracy) - 1)
    keeps: Bools = (accuracy[:, 1:] >= accuracy[:, :1] - tolerance - 1e-12) & (np.array(rows.levels) >= 1)
    return keeps


def _tested(measure: Measure, values: Floats, reference: Floats, side: Side, bound: float, *, chosen: bool) -> dict[str, Any]:
    """The effect of `values` over `reference` [S, N], and its p-values; tests of a ratio are made on x - (1 + bound) t, exactly."""
    ratio = measure.ratio
    estimate = relative(values, reference, chosen=chosen) if ratio else crossed(values - reference, chosen=chosen)
    test = crossed(values - reference * (1 + bound), chosen=chosen) if ratio else estimate
    threshold = 0.0 if ratio else bound
    up = test.p_greater(threshold)
    down = test.p_less(threshold) if test.certain else 1 - up
    if estimate.over_samples_only:
        up = down = 1.0
    p_for, p_against = (up, down) if side in ("rises", "rises to a peak") else (down, up)
    return {"measure": measure, "estimate": estimate, "side": side, "bound": bound, "p_for": p_for, "p_against": p_against}


def _beyond_peak(evidence: Evidence, tolerance: Mapping[str, float]) -> Contrast:
    """Claim 3: the last level that is evidence against the most robust level before it, and beyond what the control did meanwhile.

    Against the claim speaks a last level that lies above every level before it although it has lost accuracy; where it
    has not, the study did not go far enough to contradict.
    """
    return _judged(evidence, 3, lambda measure: _peak_part(evidence, measure, tolerance))


def _peak_part(evidence: Evidence, measure: Measure, tolerance: Mapping[str, float]) -> Part | Obstacle:
    tables = _tables(evidence, measure)
    rows = tables[0]
    if not rows.controlled:
        return "control no evidence"
    if not rows.usable or len(rows.levels) < 2:
        return "one level"
    peak = held_out_means(rows.values[:, :-1]).argmax(-1)
    if measure.ratio and not judging(rows.values[np.arange(len(peak)), peak]).mean() > 0:
        return "peak all zero"
    accuracy = [evidence.correct[rows.seeds, evidence.levels.index(level)] for level in (0, rows.levels[-1])]
    lost = accuracy[1] - accuracy[0]
    lost = crossed(lost[:, ~np.isnan(lost).any(0)]).p_less(-tolerance["accuracy"])
    part = _hardest([_from_peak(measure, some, peak) for some in tables])
    return replace(part, p_against=max(part.p_against, lost))


def _from_peak(measure: Measure, rows: Table, peak: NDArray[np.intp]) -> Part:
    """The fall from the peaks, indices of levels [S], to the last level, which must hold beyond the change of the control over the same
    rounds, too (the larger p)."""
    values, reference = judging(rows.values[:, -1]), judging(rows.values[np.arange(len(peak)), peak])
    size = float(reference.mean())
    last, against = rows.levels[-1:], tuple(rows.levels[index] for index in sorted(set(peak.tolist())))
    used = np.isin(np.arange(len(rows.levels)), [*peak, len(rows.levels) - 1])
    scales = _scales(rows, used)
    changes = [values - reference - np.einsum("ts,stn->sn", scale[:, -1:] - scale[:, peak], judging(rows.control)) for scale in scales]
    nets = [crossed(change, chosen=True).scaled(1 / size if measure.ratio else 1.0) for change in changes]
    tested = _tested(measure, values, reference, "falls", 0.0, chosen=True)
    if not nets[0].over_samples_only:
        tested["p_for"] = max(tested["p_for"], *(net.p_less() for net in nets))
        tested["p_against"] = max(tested["p_against"], *(net.p_greater() for net in nets))
    rounds = _where(rows.control_levels, np.any(scales[0][:, used], axis=1))
    lies = _apart(rows, changes[0])
    return Part(**tested, levels=last, at=last, to_peak=False, against=against, failed=rows.failed, apart=lies, net=nets[0], rounds=rounds)


def _combined(evidence: Evidence, claim: int, parts: list[Part], secondary: list[Part], obstacles: list[tuple[str, Obstacle]]) -> Contrast:
    """All parts for it: the largest p. Any part against it: the smallest, times their number."""
    if parts and parts[0].estimate.over_samples_only:
        obstacles = [*obstacles, ("", "one network" if evidence.arm.pruner == GIVEN else "one seed")]
    complete = len(parts) == len(NORMS)
    return Contrast(
        evidence=evidence,
        claim=claim,
        parts=tuple(parts),
        secondary=tuple(secondary),
        p_for=max(part.p_for for part in parts) if complete else 1.0,
        p_against=min(1.0, len(NORMS) * min((part.p_against for part in parts), default=1.0)),
        obstacles=tuple(obstacles),
    )
