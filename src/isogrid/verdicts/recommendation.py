"""Which level to take: the most robust one, the best compromise, the sparsest one not worse than dense, the first fragile one.

Everything is a paired comparison with a level of the same network, mostly with dense (level 0), within tolerances, at the one-sided
level ALPHA each. A search along the levels is a fixed sequence: levels are tested in an order that was fixed beforehand, and the
first that fails ends the search, so no correction for the number of levels is needed (Maurer, Hothorn & Lehmacher 1995). Not worse:
the lower confidence limit lies above dense minus tolerance. Fragile: the upper one lies below. Between the two, "undecided" is said.
The first fragile level is a warning and is searched without stopping: each level is tested by itself (Bonferroni over accuracy and
norms, none over levels), so that a level that is no evidence in one norm, or a hole in the evidence, cannot hide it.
With one seed the statements hold for that one trained network, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isogrid.metrics.statistics import Estimate, choosing, crossed, held_out_means, judging, relative
from isogrid.verdicts.evidence import ALPHA, CONFIDENCE, GIVEN, Evidence, Measure, Table, effect_size, effect_text, plain, primaries, table

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """One quantity that may get worse: accuracy (`measure` None) or a primary measure, as a complete table with a tolerance."""

    name: str
    measure: Measure | None
    rows: Table
    tolerance: float

    @property
    def ratio(self) -> bool:
        return self.measure is not None and self.measure.ratio

    def at(self, level: int) -> Floats:
        values: Floats = self.rows.values[:, self.rows.levels.index(level)]
        return values

    def gain(self, values: Floats, picks: NDArray[np.intp]) -> Estimate:
        """The gain over dense, first of the levels of values [S, L, N], at the level that each seed's `picks` [S] name."""
        picked, dense = judging(values[np.arange(len(values)), picks]), judging(values[:, 0])
        return relative(picked, dense, chosen=True) if self.ratio else crossed(picked - dense, chosen=True)

    def not_worse(self, level: int, reference: int) -> bool:
        """The lower one-sided limit of level - reference lies above -tolerance."""
        return self._test(level, reference).p_greater(0.0 if self.ratio else -self.tolerance) <= ALPHA

    def worse(self, level: int, alpha: float) -> bool:
        """The upper one-sided limit of level - dense lies below -tolerance."""
        return self._test(level, 0).p_less(0.0 if self.ratio else -self.tolerance) <= alpha

    def recovers(self, level: int) -> bool:
        """Whether the mean at a level that is evidence lies above dense minus tolerance."""
        return level in self.rows.levels and self._test(level, 0).value > (0.0 if self.ratio else -self.tolerance)

    def loss(self, level: int) -> str:
        """The change from dense to a level, in words."""
        values, dense = self.at(level), self.at(0)
        change = relative(values, dense) if self.ratio else crossed(values - dense)
        return f"{self.name} {effect_size(change, self.ratio)}"

    def _test(self, level: int, reference: int) -> Estimate:
        scale = 1 - self.tolerance if self.ratio else 1.0
        return crossed(self.at(level) - scale * self.at(reference))


def recommend(evidence: Sequence[Evidence], tolerance: Mapping[str, float]) -> list[dict[str, Any]]:
    """A recommendation for each network of a study, as plain dicts (summary.json).

    Keys: those of `Arm.columns`, seeds, confidence, most_robust (a list, one per norm: norm, measure, level, sparsity, value, gain, low,
    high, decided, equal_levels, sentence), compromise (level, sparsity, gains, decided, reason, sentence) or None, highest_sparsity (level,
    sparsity, stopped_at, decided, sentence), first_fragile (level, sparsity, in, sentence; level None where none was found), sentences
    (all of them).
    """
    return [_one(item, tolerance) for item in evidence]


def _one(evidence: Evidence, tolerance: Mapping[str, float]) -> dict[str, Any]:
    accuracy, norms, mute = _axes(evidence, tolerance)
    result: dict[str, Any] = {
        **evidence.arm.columns(),
        "confidence": CONFIDENCE,
        "seeds": len(accuracy.rows.seeds),
    }
    if 0 not in accuracy.rows.levels:
        sentence = "Undecided: the dense reference is collapsed or missing, so nothing can be compared with it."
        nothing = {"level": None, "sparsity": None, "sentence": sentence}
        return result | {
            "most_robust": [],
            "compromise": None,
            "highest_sparsity": nothing | {"stopped_at": None, "decided": False},
            "first_fragile": nothing | {"in": []},
            "sentences": [sentence],
        }
    fragile = _fragile(evidence, [accuracy, *norms])
    result |= {
        "most_robust": [_most_robust(evidence, axis) for axis in norms],
        "compromise": _compromise(evidence, accuracy, norms) if norms else None,
        "highest_sparsity": _highest(evidence, [accuracy, *norms], fragile["level"]),
        "first_fragile": fragile,
    }
    said = [*result["most_robust"], result["compromise"], result["highest_sparsity"], result["first_fragile"]]
    sentences = [part["sentence"] for part in said if part] + mute
    if result["seeds"] == 1:
        given = evidence.arm.pruner == GIVEN
        what, whose = ("One network per level", "these given files") if given else ("One seed", "the one network that was trained")
        sentences.append(f"{what}: this holds for {whose}; another training run may differ.")
    return result | {"sentences": sentences}


def _axes(evidence: Evidence, tolerance: Mapping[str, float]) -> tuple[_Axis, list[_Axis], list[str]]:
    """Accuracy, the norms that can be compared with dense, and a sentence for each norm that cannot."""
    clean = Measure(name="accuracy", attack="", norm="", domain="", eps=None, kind="r_inf", levels=evidence.levels, values=evidence.correct)
    norms, mute = [], []
    for norm, measure in primaries(evidence.measures).items():
        rows = table(evidence, measure)
        kind = "r_inf" if measure.kind == "r_inf" else "distance"
        compared = rows.usable and 0 in rows.levels
        if compared and (kind == "r_inf" or _positive(rows.values[:, rows.levels.index(0)])):
            norms.append(_Axis(name=measure.title, measure=measure, rows=rows, tolerance=tolerance[kind]))
        else:
            why = "hardly ever right" if compared else rows.left_out.get(0, "not measured")
            mute.append(f"{norm}: undecided, the dense reference is {why} under {measure.title}; nothing can be compared with it.")
    return _Axis(name="accuracy", measure=None, rows=table(evidence, clean), tolerance=tolerance["accuracy"]), norms, mute


def _positive(dense: Floats) -> bool:
    """Whether the reference [S, N] of a relative gain is positive wherever a gain is chosen or judged: 0 is "wrong to begin with"."""
    return bool(dense[:, choosing(dense.shape[1])].mean(1).min() > 0 and judging(dense).mean() > 0)


def _percent(evidence: Evidence, level: int) -> str:
    return "dense" if level == 0 else f"{100 * evidence.sparsity[level]:.1f} % sparsity (level {level})"


def _most_robust(evidence: Evidence, axis: _Axis) -> dict[str, Any]:
    """The level of the highest mean; its gain over dense is estimated at the level that the other seeds and samples choose."""
    assert axis.measure is not None
    levels, means = axis.rows.levels, axis.rows.values.mean((0, 2))
    best = int(means.argmax())
    picks = held_out_means(axis.rows.values).argmax(-1)
    gain = axis.gain(axis.rows.values, picks)
    decided = best > 0 and gain.p_greater() <= ALPHA
    equal = [levels[best]]
    for step in (1, -1):
        index = best + step
        while 0 <= index < len(levels) and axis.not_worse(levels[index], levels[best]):
            equal.append(levels[index])
            index += step
    low, high = gain.interval(CONFIDENCE)
    level = levels[best]
    gained = effect_text(axis.measure, gain)
    sentence = f"Most robust in {axis.measure.norm}: {_percent(evidence, level)}, a gain over dense of {gained}"
    sentence = f"{sentence}." if decided else f"{sentence}: undecided, the gain over dense is not distinguished from chance."
    if level == 0:
        sentence = f"Most robust in {axis.measure.norm}: dense has the highest mean of {axis.name}; no sparse level is shown to be better."
    if max(equal) > level:
        sentence += f" Within the tolerance it is matched up to {_percent(evidence, max(equal))}."
    return {
        "norm": axis.measure.norm,
        "measure": axis.measure.name,
        "level": level,
        "sparsity": evidence.sparsity[level],
        "value": float(means[best]),
        "gain": gain.value,
        "low": plain(low),
        "high": plain(high),
        "decided": decided,
        "equal_levels": sorted(equal),
        "sentence": sentence,
    }


def _compromise(evidence: Evidence, accuracy: _Axis, norms: Sequence[_Axis]) -> dict[str, Any]:
    """Among the levels that keep their accuracy (fixed sequence), score each by its smallest gain over the norms in units of the
    tolerances (max-min: no norm is paid for with another); the sparsest level within one unit, a difference that is tolerated, of
    the best score is the compromise. The gains are estimated at the level that the other seeds and samples choose so."""
    kept = {0, *_kept([accuracy], 0)}
    levels = [level for level in accuracy.rows.levels if level in kept and all(level in axis.rows.levels for axis in norms)]
    score = np.min([_scores(axis, axis.rows.values[:, [axis.rows.levels.index(k) for k in levels]].mean((0, 2))) for axis in norms], axis=0)
    level = levels[int(_sparsest_near_best(score))]
    shared = [seed for seed in norms[0].rows.seeds if all(seed in axis.rows.seeds for axis in norms)]
    tables = [axis.rows.values[np.isin(axis.rows.seeds, shared)][:, [axis.rows.levels.index(k) for k in levels]] for axis in norms]
    held_out = np.min([_scores(axis, held_out_means(values)) for axis, values in zip(norms, tables, strict=True)], axis=0)
    gains = [axis.gain(values, _sparsest_near_best(held_out)) for axis, values in zip(norms, tables, strict=True)]
    # not worse in any norm and better in at least one (Bonferroni over the norms)
    decided = all(g.interval(CONFIDENCE)[0] > -a.tolerance for g, a in zip(gains, norms, strict=True)) and any(
        g.p_greater() <= ALPHA / len(gains) for g in gains
    )
    told = "; ".join(effect_text(a.measure, g) for g, a in zip(gains, norms, strict=True) if a.measure is not None)
    over = " and ".join(axis.measure.norm for axis in norms if axis.measure is not None)
    sentence, why = f"Best compromise over {over}, with accuracy kept: {_percent(evidence, level)}: {told}", ""
    if level == 0:
        why = "every sparse level that keeps it loses more than the tolerance in some norm"
        why = why if levels[1:] else "no sparse level is shown to keep it"
        sentence = f"Best compromise over {over}, with accuracy kept: dense; {why}"
    return {
        "level": level,
        "sparsity": evidence.sparsity[level],
        "gains": [
            {"measure": a.measure.name if a.measure else "", "gain": g.value, "low": plain(low), "high": plain(high)}
            for g, a in zip(gains, norms, strict=True)
            for low, high in [g.interval(CONFIDENCE)]
        ],
        "decided": decided,
        "reason": why,
        "sentence": sentence + ("." if decided else ": undecided, it is not shown to be better than dense." if level else "."),
    }


def _scores(axis: _Axis, means: Floats) -> Floats:
    """Gains over dense (first along the last axis) in units of the tolerance."""
    gain = means / means[..., :1] - 1 if axis.ratio else means - means[..., :1]
    scores: Floats = gain / max(axis.tolerance, 1e-9)
    return scores


def _sparsest_near_best(scores: Floats) -> NDArray[np.intp]:
    """The last index [...] of scores [..., L] within 1 of the largest."""
    near = scores >= scores.max(-1, keepdims=True) - 1
    return np.asarray(scores.shape[-1] - 1 - near[..., ::-1].argmax(-1))


def _kept(axes: Sequence[_Axis], reference: int) -> list[int]:
    """The levels 1, 2, ... that are not worse than dense on any axis, up to the first that is not shown to be."""
    attacked = [set(axis.rows.levels) | set(axis.rows.left_out) for axis in axes]
    kept = []
    for level in sorted(set.intersection(*attacked) - {reference}):
        if not all(level in axis.rows.levels and axis.not_worse(level, reference) for axis in axes):
            break
        kept.append(level)
    return kept


def _highest(evidence: Evidence, axes: Sequence[_Axis], fragile: int | None) -> dict[str, Any]:
    """The last level before the first that is not shown to be as good; none, and decided so, where the very first is shown to be worse."""
    kept = _kept(axes, 0)
    level = kept[-1] if kept else 0
    attacked = sorted(set.intersection(*(set(axis.rows.levels) | set(axis.rows.left_out) for axis in axes)))
    stop = next((k for k in attacked if k > level), None)
    names = " and ".join(axis.name for axis in axes)
    if level:
        sentence = f"Highest sparsity that is not worse than dense within the tolerances ({names}): {_percent(evidence, level)}"
        sentence += f"; {_percent(evidence, stop)} is not shown to be as good." if stop is not None else ", the last level measured."
    elif stop is not None and fragile is not None and fragile <= stop:
        sentence = f"No sparse level is as good as dense within the tolerances ({names}): {_percent(evidence, fragile)} is already worse."
        return {"level": 0, "sparsity": 0.0, "stopped_at": stop, "decided": True, "sentence": sentence}
    else:
        sentence = f"Undecided: no sparse level is shown to be not worse than dense within the tolerances ({names})."
    return {"level": level, "sparsity": evidence.sparsity[level], "stopped_at": stop, "decided": bool(level), "sentence": sentence}


def _fragile(evidence: Evidence, axes: Sequence[_Axis]) -> dict[str, Any]:
    """The first level, in rising sparsity, that is worse than dense on some axis that is evidence there, or that has collapsed."""
    first, worse = None, list[_Axis]()
    for level in evidence.levels[1:]:
        worse = [axis for axis in axes if level in axis.rows.levels and axis.worse(level, ALPHA / len(axes))]
        if worse or evidence.collapsed_at(level):
            first = level
            break
    if first is None:
        sentence = f"No fragile level up to {_percent(evidence, evidence.levels[-1])}: none is shown to lie below dense minus tolerance."
        return {"level": None, "sparsity": None, "in": [], "sentence": sentence}
    why = "it has collapsed"
    if worse:
        why = f"below dense minus tolerance in {' and '.join(axis.loss(first) for axis in worse)}"
        again = [k for k in evidence.levels if k > first and any(axis.recovers(k) for axis in worse)]
        why += f"; {_percent(evidence, again[0])} lies above it again" if again else ""
    return {
        "level": first,
        "sparsity": evidence.sparsity[first],
        "in": [axis.name for axis in worse] or ["collapsed"],
        "sentence": f"First fragile level: {_percent(evidence, first)}, {why}.",
    }
