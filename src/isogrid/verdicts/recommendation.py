"""Which level to take: the most robust one, the best compromise, the sparsest one not worse than dense, the first fragile one.

Everything is a paired comparison with a level of the same network, mostly with dense (level 0), within tolerances, at the one-sided
level ALPHA each. A search along the levels is a fixed sequence: levels are tested in an order that was fixed beforehand, and the
first that fails ends the search, so no correction for the number of levels is needed (Maurer, Hothorn & Lehmacher 1995). Not worse:
the lower confidence limit lies above dense minus tolerance. Fragile: the upper one lies below. Between the two, "undecided" is said.
The first fragile level is corrected for the number of levels, and for that of accuracy and norms (`_worse`); a level that is no evidence
in one norm is passed over there and tested in the others, so that a hole in the evidence cannot hide a fall.
With one seed the statements hold for that one trained network, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isogrid.metrics.statistics import held_out_means, holm
from isogrid.verdicts.axis import Axis, axis_of
from isogrid.verdicts.evidence import ALPHA, Evidence, Measure, Table, primaries, table
from isogrid.verdicts.results import CONFIDENCE, Best, Change, Compromise, Fragile, Highest, Mute, Quantity, Recommendation

Floats = NDArray[np.float64]


def recommend(evidence: Sequence[Evidence], tolerance: Mapping[str, float]) -> list[Recommendation]:
    """A recommendation for each network of a study (summary.json); `tolerance` as in `verdicts.claims.judge`."""
    return [_one(item, tolerance) for item in evidence]


def _one(evidence: Evidence, tolerance: Mapping[str, float]) -> Recommendation:
    accuracy, norms, mute = _axes(evidence, tolerance)
    arm, axes = evidence.arm, [accuracy, *norms]
    reference = 0 in accuracy.rows.levels
    fragile = _fragile(evidence, axes) if reference else None
    return Recommendation(
        data=arm.data,
        model=arm.model,
        objective=arm.objective,
        penalty=arm.penalty,
        method=arm.pruner,
        seeds=len(accuracy.rows.seeds),
        confidence=CONFIDENCE,
        reference=reference,
        sparsity=evidence.sparsity,
        most_robust=tuple(_most_robust(axis) for axis in norms) if reference else (),
        compromise=_compromise(accuracy, norms) if norms and reference else None,
        highest_sparsity=None if fragile is None else _highest(axes, fragile.level),
        first_fragile=fragile,
        mute=tuple(mute),
    )


def _axes(evidence: Evidence, tolerance: Mapping[str, float]) -> tuple[Axis, list[Axis], list[Mute]]:
    """Accuracy, the norms that can be compared with dense, and those that cannot."""
    clean = Measure(name="accuracy", attack="", norm="", domain="", eps=None, kind="r_inf", levels=evidence.levels, values=evidence.correct)
    norms, mute = [], []
    for measure in primaries(evidence.measures).values():
        axis, why = axis_of(evidence, measure, tolerance)
        if why:
            mute.append(Mute(of=measure.quantity, why=why))
        else:
            norms.append(axis)
    accuracy = Axis(of=Quantity(measure="accuracy"), tables=(table(evidence, clean),), tolerance=tolerance["accuracy"])
    return accuracy, norms, mute


def _most_robust(axis: Axis) -> Best:
    """The level of the highest mean; its gain over dense is estimated at the level that the other seeds and samples choose."""
    levels, means = axis.rows.levels, axis.rows.values.mean((0, 2))
    best = int(means.argmax())
    gain, p = axis.best_gain()
    equal = [levels[best]]
    for step in (1, -1):
        index = best + step
        while 0 <= index < len(levels) and axis.not_worse(levels[index], levels[best]):
            equal.append(levels[index])
            index += step
    decided = best > 0 and p <= ALPHA
    return Best.of(axis.of, gain, level=levels[best], value=float(means[best]), decided=decided, equal_levels=tuple(sorted(equal)))


def _compromise(accuracy: Axis, norms: Sequence[Axis]) -> Compromise:
    """Among the levels that keep their accuracy (fixed sequence), score each by its smallest gain over the norms in units of the
    tolerances (max-min: no norm is paid for with another); the sparsest level within one unit, a difference that is tolerated, of
    the best score is the compromise. The gains are estimated at the level that the other seeds and samples choose so."""
    kept = {0, *_kept([accuracy], 0)}
    levels = [level for level in accuracy.rows.levels if level in kept and all(level in axis.rows.levels for axis in norms)]
    score = np.min([_scores(axis, axis.rows.values[:, [axis.rows.levels.index(k) for k in levels]].mean((0, 2))) for axis in norms], axis=0)
    level = levels[int(_sparsest_near_best(score))]
    shared = [seed for seed in norms[0].rows.seeds if all(seed in axis.rows.seeds for axis in norms)]
    held_out = np.min([_scores(axis, held_out_means(_part(axis.rows, shared, levels))) for axis in norms], axis=0)
    picks = _sparsest_near_best(held_out)
    # per norm, whatever failures are taken for
    looks = [[axis.gain(_part(rows, shared, levels), picks) for rows in axis.tables] for axis in norms]
    # not worse in any norm and better in at least one (Bonferroni over the norms)
    decided = all(g.interval(CONFIDENCE)[0] > -a.tolerance for some, a in zip(looks, norms, strict=True) for g in some) and any(
        max(g.p_greater() for g in some) <= ALPHA / len(looks) for some in looks
    )
    return Compromise(
        level=level,
        gains=tuple(Change.of(a.of, some[0]) for some, a in zip(looks, norms, strict=True)),
        decided=decided,
        why="" if level else "robustness lost" if levels[1:] else "accuracy lost",
    )


def _part(rows: Table, seeds: Sequence[int], levels: Sequence[int]) -> Floats:
    """The values of some seeds and levels."""
    values: Floats = rows.values[np.isin(rows.seeds, seeds)][:, [rows.levels.index(level) for level in levels]]
    return values


def _scores(axis: Axis, means: Floats) -> Floats:
    """Gains over dense (first along the last axis) in units of the tolerance."""
    gain = means / means[..., :1] - 1 if axis.ratio else means - means[..., :1]
    scores: Floats = gain / max(axis.tolerance, 1e-9)
    return scores


def _sparsest_near_best(scores: Floats) -> NDArray[np.intp]:
    """The last index [...] of scores [..., L] within 1 of the largest."""
    near = scores >= scores.max(-1, keepdims=True) - 1
    return np.asarray(scores.shape[-1] - 1 - near[..., ::-1].argmax(-1))


def _kept(axes: Sequence[Axis], reference: int) -> list[int]:
    """The levels 1, 2, ... that are not worse than dense on any axis, up to the first that is not shown to be."""
    attacked = [set(axis.rows.levels) | set(axis.rows.left_out) for axis in axes]
    kept = []
    for level in sorted(set.intersection(*attacked) - {reference}):
        if not all(level in axis.rows.levels and axis.not_worse(level, reference) for axis in axes):
            break
        kept.append(level)
    return kept


def _highest(axes: Sequence[Axis], fragile: int | None) -> Highest:
    """The last level before the first that is not shown to be as good; none, and decided so, where the very first is shown to be worse."""
    kept = _kept(axes, 0)
    level = kept[-1] if kept else 0
    attacked = sorted(set.intersection(*(set(axis.rows.levels) | set(axis.rows.left_out) for axis in axes)))
    stop = next((k for k in attacked if k > level), None)
    worse = fragile if not level and stop is not None and fragile is not None and fragile <= stop else None
    over = tuple(axis.of for axis in axes)
    return Highest(level=level, stopped_at=stop, decided=bool(level) or worse is not None, worse=worse, over=over)


def _fragile(evidence: Evidence, axes: Sequence[Axis]) -> Fragile:
    """The first level, in rising sparsity, that is worse than dense on some axis, or that has collapsed."""
    worse = [_worse(axis, ALPHA / len(axes)) for axis in axes]
    for level in evidence.levels[1:]:
        found = [axis for axis, levels in zip(axes, worse, strict=True) if level in levels]
        if found or evidence.collapsed_at(level):
            again = next((k for k in evidence.levels if k > level and any(axis.recovers(k) for axis in found)), None)
            return Fragile(level=level, losses=tuple(axis.loss(level) for axis in found), collapsed=not found, again=again)
    return Fragile()


def _worse(axis: Axis, alpha: float) -> set[int]:
    """The levels shown to be worse than dense on an axis; the chance that any is named that is not, is at most alpha.

    Half of it is spent on a fixed sequence from the sparsest level that is evidence down to the first that is not shown to be worse (no
    correction for the number of levels), which finds a fall that lasts; half on all levels together by Holm's method, which finds one
    that is made good again.
    """
    levels = [level for level in axis.rows.levels if level > 0]
    p = [axis.worse(level) for level in levels]
    found = {level for level, adjusted in zip(levels, holm(p), strict=True) if adjusted <= alpha / 2}
    for level, one in zip(reversed(levels), reversed(p), strict=True):
        if one > alpha / 2:
            break
        found.add(level)
    return found
