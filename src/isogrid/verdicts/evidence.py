"""What claims and recommendations rest on: the per-sample arrays of one network's levels, and which of them are evidence.

What belongs here: the containers, the rules by which a level takes part, and the choice of the primary measures. What does not: reading
the store (`study.tables` builds these), verdicts (`verdicts.claims`), choosing a level (`study.recommendation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isogrid.metrics.robustness import void_share
from isogrid.metrics.statistics import complete_seeds, impute_failures
from isogrid.verdicts.arm import Arm
from isogrid.verdicts.results import End, Quantity

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
ALPHA = 0.05
"""The chance, over a whole study, that any claim is supported though nothing is there; the same for contradicted."""
NORMS = ("linf", "l2")
GIVEN = "given"
"""The pruner of levels that are the user's files: how they were pruned and trained is not known here."""
KIND = {"linf": "r_inf", "l2": "distance"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One attack's figures on S seeds, L levels and N samples, and on T levels of the dense control: the same seeds and samples.

    `attack`: the attack's name ("envelope" for a per-sample minimum over all attacks, "shared envelope" over those that all levels and
    the control have in common: what is compared met the SAME attacks). `kind`:
    "r_inf" (values 0 / 1: classified correctly under attack) or "distance" (0 misclassified to begin with, d > 0, inf failed).
    `values` [S, L, N], `control_values` [S, T, N] or None; NaN: not run (a cell of a failed task, or samples left out). `eps`: None for
    a minimum-norm attack. `saturated`, `control_saturated`: levels at the floor or the ceiling (`metrics.robustness.saturated`).
    `strength`: the attack's rank as benchmarks of others have it, fixed before any figure is seen: larger is stronger, 0 unknown.
    `primary`: verdicts rest on this one; where no measure of a norm says so, `primaries` chooses.
    """

    name: str
    attack: str
    norm: str
    domain: str
    eps: float | None
    kind: Literal["r_inf", "distance"]
    levels: tuple[int, ...]
    values: Floats
    control_levels: tuple[int, ...] = ()
    control_values: Floats | None = None
    strength: int = 0
    primary: bool = False
    saturated: tuple[int, ...] = ()
    control_saturated: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(f"measure {self.name}", self.values, self.levels)
        if self.control_values is not None:
            _check(f"measure {self.name}, control", self.control_values, self.control_levels)
            if self.control_values.shape[::2] != self.values.shape[::2]:
                raise ValueError(f"measure {self.name}: got other seeds or samples for the control; accepted: the same, in the same order")

    @property
    def controlled(self) -> bool:
        """Whether the control was attacked at a level of its own (level 0 is the dense reference itself, no control of training)."""
        return self.control_values is not None and any(level >= 1 for level in self.control_levels)

    @property
    def ratio(self) -> bool:
        """Whether effects are relative, as those of distances are."""
        return self.kind == "distance"

    @property
    def shown(self) -> str:
        """The attack as a reader knows it: by its label, where the study gave it one, else by its id, less what the title says anyway."""
        if self.name.startswith(("envelope-", "shared-envelope-")):
            return self.attack
        return self.name.partition("@")[0].replace(f"-{self.norm}", "").replace(f"-{self.domain}", "")

    @property
    def quantity(self) -> Quantity:
        """What effects on it are effects on."""
        unit: Literal["relative", "absolute"] = "relative" if self.ratio else "absolute"
        return Quantity(measure=self.name, attack=self.shown, norm=self.norm, domain=self.domain, eps=self.eps, unit=unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that one arm of a study can say, with its dense control.

    `linear`: whether logits are affine in the input. `sparsity`: share of weights removed, per level. `levels` start with 0, the
    untouched dense reference. `correct` [S, L, N] 0 / 1: the clean prediction is right; all NaN where the level was not trained.
    `collapsed` [S, L]. `activations`: the evidence along the arm's penalties on activations, where there are some; there `sparsity` is the
    share of activations that are zero, and `penalties` says what a level is (`verdicts.records.Family`).
    `end`: of the brackets that the measures are: what attacks reached, or what is certified.
    """

    arm: Arm
    linear: bool
    sparsity: Mapping[int, float]
    levels: tuple[int, ...]
    correct: Floats
    collapsed: Bools
    control_levels: tuple[int, ...] = ()
    control_correct: Floats | None = None
    measures: tuple[Measure, ...] = ()
    penalties: Mapping[int, str] = field(default_factory=dict)
    activations: Evidence | None = None
    end: End = "attacked"

    def __post_init__(self) -> None:
        _check("correct", self.correct, self.levels)
        if not self.levels or self.levels[0] != 0 or set(self.levels) - set(self.sparsity):
            raise ValueError("levels: accepted: 0 (the dense reference) first, each with its sparsity")
        if self.collapsed.shape != self.correct.shape[:2] or any(m.values.shape[0] != len(self.correct) for m in self.measures):
            raise ValueError("evidence: accepted: the same seeds in correct, collapsed and every measure")

    def collapsed_at(self, level: int) -> bool:
        """Whether that level has collapsed in any seed; then it takes no part."""
        return level in self.levels and bool(self.collapsed[:, self.levels.index(level)].any())


def _check(name: str, values: Floats, levels: Sequence[int]) -> None:
    if values.ndim != 3 or values.shape[1] != len(levels) or list(levels) != sorted(set(levels)):
        raise ValueError(f"{name}: got shape {values.shape} for levels {tuple(levels)}; accepted: [seeds, levels, samples], levels rising")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The part of a measure that is evidence: finite values [S, L, N] of `levels`, control [S, T, N] at the rounds `control_levels`.

    Round 0 of the control is the dense reference, level 0 of `values`, and is among them where that is evidence. `seeds` [S], `samples`
    [N]: which of the evidence's these are; `left_out`: level -> why it takes no part; `failed`: attacks that failed, imputed.
    """

    levels: tuple[int, ...]
    values: Floats
    control_levels: tuple[int, ...]
    control: Floats
    seeds: NDArray[np.intp]
    samples: NDArray[np.intp]
    left_out: Mapping[int, str]
    failed: int

    @property
    def usable(self) -> bool:
        """Whether there are seeds and samples enough to compute anything (two samples to choose on at least)."""
        return len(self.seeds) >= 1 and self.values.shape[2] >= 8

    @property
    def controlled(self) -> bool:
        """Whether a round of the control beyond the dense reference is evidence."""
        return any(level >= 1 for level in self.control_levels)

    def control_weights(self, straight: bool = False) -> Floats:
        r"""The weights [T, L] by which the control's rounds make the control at round k, for each level k: equal training.

        An attacked round k is itself. Between two attacked rounds s < k < t the control is interpolated on a scale f,

            control(k) = (1 - w) control(s) + w control(t),    w = (f(k) - f(s)) / (f(t) - f(s)),

        with f(k) = log(1 + k), or f(k) = k where `straight`. A level before the first round that is evidence, or beyond the last, has no
        control: its column is 0. Linear in the data, so that seeds and samples stay crossed. Source of the logarithm: on separable data
        the weights of a linear model grow with the logarithm of the steps (Soudry et al. 2018, "The implicit bias of gradient descent on
        separable data"). Pitfall: both are assumptions. Between rounds 0 and 6 of the linear model on mnist-5k the straight line lay 4 %
        above the control's true r_2 in the mean, the logarithm 1 % below: hence verdicts ask for both (`verdicts.contrasts`). Beyond the
        last round nothing is assumed: where that round stood for the later ones, what training did after it bought 4 claims of 5.

        >>> Table(levels=(0, 1, 3, 9), values=np.zeros((1, 4, 8)), control_levels=(0, 3), control=np.zeros((1, 2, 8)), seeds=np.arange(1),
        ...       samples=np.arange(8), left_out={}, failed=0).control_weights().tolist()
        [[1.0, 0.5, 0.0, 0.0], [0.0, 0.5, 1.0, 0.0]]
        """
        if not self.control_levels:
            return np.zeros((0, len(self.levels)))
        levels, rounds = (np.array(some) if straight else np.log1p(some) for some in (self.levels, self.control_levels))
        weights = np.array([np.interp(levels, rounds, one) for one in np.eye(len(self.control_levels))])
        return weights * self.within_control

    def with_control(self) -> Table:
        """The part of the levels that have a control."""
        keep = self.within_control
        return replace(self, levels=tuple(np.array(self.levels)[keep].tolist()), values=self.values[:, keep])

    @property
    def within_control(self) -> Bools:
        """bool [L]: the levels that have a control: none before its first round that is evidence, nor beyond the last."""
        if not self.control_levels:
            return np.zeros(len(self.levels), bool)
        levels = np.array(self.levels)
        return (levels >= self.control_levels[0]) & (levels <= self.control_levels[-1])


def table(evidence: Evidence, measure: Measure, *, largest: bool = False) -> Table:
    """The evidence in `measure`: without levels that are collapsed, saturated, void or not measured in every seed.

    A seed without any measured cell is left out (its task failed); then a level that is missing in a seed left is. Void: more
    than 1 % failures among the attacked correct samples, in any seed. Failures of the other levels are set to the mean of the
    finite distances of their cell, or to their `largest` (`metrics.statistics.impute_failures`). The control at round 0 is the dense
    reference and is taken from the levels, where it is evidence; a round of the control that is saturated, void or missing is left out.
    """
    arrays = [measure.values] if measure.control_values is None else [measure.values, measure.control_values]
    seeds = np.flatnonzero(complete_seeds(*arrays, evidence.correct))
    out: dict[int, str] = {level: "collapsed" for level in measure.levels if evidence.collapsed_at(level)}
    out |= {level: "saturated" for level in measure.saturated if level not in out}
    values, levels = _sound(measure, measure.values[seeds], measure.levels, out)
    control_out = {0: "reference"} | dict.fromkeys(measure.control_saturated, "saturated")
    control: Floats = np.empty((len(seeds), 0, values.shape[2]))
    control_levels: tuple[int, ...] = ()
    if measure.control_values is not None:
        control, control_levels = _sound(measure, measure.control_values[seeds], measure.control_levels, control_out)
    samples = np.flatnonzero(~(np.isnan(values).any((0, 1)) | np.isnan(control).any((0, 1))))
    values, control = values[:, :, samples], control[:, :, samples]
    failed = int(np.isposinf(values).sum() + np.isposinf(control).sum())
    if control_levels and levels[:1] == (0,):
        control, control_levels = np.concatenate([values[:, :1], control], axis=1), (0, *control_levels)
    return Table(
        levels=levels,
        values=impute_failures(values, largest=largest),
        control_levels=control_levels,
        control=impute_failures(control, largest=largest),
        seeds=seeds,
        samples=samples,
        left_out=out,
        failed=failed,
    )


def _sound(measure: Measure, values: Floats, levels: tuple[int, ...], out: dict[int, str]) -> tuple[Floats, tuple[int, ...]]:
    """The levels not in `out`, after adding to it those that are missing or void."""
    missing: Bools = np.any(np.all(np.isnan(values), axis=-1), axis=0)
    void: Bools = np.zeros(len(levels), bool)
    if measure.kind == "distance":
        void = np.any(void_share(np.isposinf(values).sum(-1), (values > 0).sum(-1)), axis=0)
    for index, level in enumerate(levels):
        if level not in out and (missing[index] or void[index]):
            out[level] = "not measured in every seed" if missing[index] else "void"
    keep = [index for index, level in enumerate(levels) if level not in out]
    return values[:, keep], tuple(levels[index] for index in keep)


def primaries(measures: Sequence[Measure]) -> dict[str, Measure]:
    """The one measure per norm that verdicts rest on, by a rule that looks at no outcome.

    A measure marked `primary` is it. Else, in this order: the control was attacked too; the norm's own kind (r_inf for linf, distance
    for l2); strength; domain box before free; the attack's name; the lower median of the eps on offer.

    >>> def fgs(eps): return Measure(name=f"fgs@{eps}", attack="fgs", norm="linf", domain="box", eps=eps, kind="r_inf", levels=(0,),
    ...                              values=np.zeros((1, 1, 4)))
    >>> primaries([fgs(0.05), fgs(0.1), fgs(0.2)])["linf"].eps
    0.1
    """
    chosen: dict[str, Measure] = {}
    for norm in NORMS:
        offers = [m for m in measures if m.norm == norm]
        offers = [m for m in offers if m.primary] or offers
        if not offers:
            continue

        def rank(m: Measure, norm: str = norm) -> tuple[bool, bool, int, bool, str]:
            return (not m.controlled, m.kind != KIND[norm], -m.strength, m.domain != "box", m.attack)

        best = min(map(rank, offers))
        ties = sorted((m for m in offers if rank(m) == best), key=lambda m: (m.eps or 0.0, m.name))
        chosen[norm] = replace(ties[(len(ties) - 1) // 2], primary=True)
    return chosen
