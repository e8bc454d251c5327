"""What one level of one network is worth, from per-sample arrays: accuracy, r_inf, r_2, medians, failures, envelopes.

What belongs here: the definitions, as functions of arrays [N] (one entry per sample). What does not: means over seeds and their
intervals (`metrics.statistics`), running an attack (`attacks.driver.base`, whose outcome has these very arrays).

The convention for a `distance` [N], as the attack driver gives it: 0 where the clean prediction is wrong already, the size of the
verified perturbation where the attack succeeded, inf where it failed; NaN where this attack was not run on the sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from isogrid.core.norms import allowed

VOID_FAILURES = 0.01
"""Above this share of failures among the attacked, correctly classified samples, r_2 is void."""
SATURATION_MARGIN = 0.01
"""An r_inf that may lie within this margin of 0 or of the accuracy is saturated; half the default tolerance of r_inf."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def _array(name: str, values: ArrayLike, like: NDArray[Any] | None = None) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{name}: got shape {array.shape}; accepted: one entry per sample, at least one")
    if like is not None and len(array) != len(like):
        raise ValueError(f"{name}: got {len(array)} entries for {len(like)} samples")
    return array


def accuracy(label: ArrayLike, prediction: ArrayLike) -> float:
    """E[1(y = yhat)] over all N samples. With predictions at x_adv it is r_inf, misclassified samples put right included.

    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    label = _array("label", label)
    return float(np.mean(label == _array("prediction", prediction, label)))


def class_accuracy(label: ArrayLike, prediction: ArrayLike, classes: int) -> Floats:
    """Accuracy among the samples of each class [classes]; NaN where a class has no sample.

    >>> class_accuracy([0, 0, 1], [0, 1, 1], 3)
    array([0.5, 1. , nan])
    """
    label = _array("label", label)
    hits = label == _array("prediction", prediction, label)
    counts = np.bincount(label, minlength=classes)[:classes]
    right = np.bincount(label, hits, minlength=classes)[:classes]
    shares: Floats = np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0)
    return shares


def r_inf(label: ArrayLike, adversarial: ArrayLike) -> float:
    """r_inf = E[1(y = yhat(x~))] over ALL samples, `adversarial` [N] being the predictions at x~ (PAPER.md, definitions).

    A misclassified sample that the attack happens to put right counts. Pitfall: "1 - success rate" is another figure.
    """
    return accuracy(label, adversarial)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDistance:
    """r_2 with what it needs beside it: `value` (units of x; NaN where void), `failures` of `attacked` correct samples, `void`."""

    value: float
    failures: int
    attacked: int
    n: int
    void: bool


def mean_distance(distance: ArrayLike) -> MeanDistance:
    """r_2 = E[1(y = yhat) ||x - x~||] over the samples with a finite distance; misclassified samples count as 0.

    Dropping failures biases the mean (they are the robust samples), so above 1 % failures among the attacked correct samples
    it is void: its value is NaN. Raises ValueError for a negative distance.

    >>> mean_distance([0.0, 1.0, 2.0]).value
    1.0
    >>> mean_distance([0.0, 1.0, float("inf")])
    MeanDistance(value=nan, failures=1, attacked=2, n=2, void=True)
    """
    distance = _array("distance", distance).astype(np.float64)
    if np.any(distance < 0):
        raise ValueError("distance: got a negative value; accepted: 0, a distance, or inf for a failure")
    finite = np.isfinite(distance)
    failures, attacked = int(np.isposinf(distance).sum()), int((distance > 0).sum())
    void = bool(void_share(failures, attacked)) or not finite.any()
    value = float("nan") if void else float(distance[finite].mean())
    return MeanDistance(value=value, failures=failures, attacked=attacked, n=int(finite.sum()), void=void)


def void_share(failures: ArrayLike, attacked: ArrayLike) -> Bools:
    """Whether `failures` of `attacked` correct samples are more than 1 %; false where nothing was attacked. Any shape."""
    return np.asarray(failures) > VOID_FAILURES * np.asarray(attacked)


def median_distance(distance: ArrayLike, correct: ArrayLike) -> float:
    """The median distance over the correctly classified samples; a failure counts as inf. NaN where none is correct.

    Of two middle values of which one is inf the finite one, so that inf means: more than half of the attacks failed.

    >>> median_distance([0.0, 1.0, 3.0, float("inf")], [False, True, True, True])
    3.0
    """
    distance = _array("distance", distance)
    values = np.sort(distance[_array("correct", correct, distance).astype(bool) & ~np.isnan(distance)])
    if len(values) == 0:
        return float("nan")
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    return float(low if np.isposinf(high) else (low + high) / 2)


def share(of: ArrayLike, among: ArrayLike) -> float:
    """The share of `of` [N] bool among the samples `among` [N] bool; NaN where there are none."""
    among = _array("among", among).astype(bool)
    chosen = _array("of", of, among).astype(bool)[among]
    return float(chosen.mean()) if len(chosen) else float("nan")


def success_rate(success: ArrayLike, correct: ArrayLike) -> float:
    """The share of the correctly classified samples that the attack turned; NaN where none is correct."""
    return share(success, correct)


def failed_share(success: ArrayLike, correct: ArrayLike) -> float:
    """The share of the correctly classified samples that withstood the attack: 1 - success rate."""
    return share(~np.asarray(success, dtype=bool), correct)


def attack_metrics(
    *,
    label: ArrayLike,
    clean: ArrayLike,
    adversarial: ArrayLike,
    success: ArrayLike,
    distance: ArrayLike,
    zero_gradient: ArrayLike,
    fixed_budget: bool,
) -> dict[str, float]:
    """All figures of one attack on one level, under the names of the tables; every argument is an array [N] of the outcome.

    A fixed-budget attack has r_inf and no distances (they are its budget); a minimum-norm attack has r_2 (NaN where void) and
    the median, and no r_inf. `zero_gradient` is the share of all N samples whose first loss gradient was exactly zero.
    """
    correct = np.asarray(label) == np.asarray(clean)
    common = {
        "success_rate": success_rate(success, correct),
        "failed": failed_share(success, correct),
        "zero_gradient": share(zero_gradient, np.ones(len(correct), bool)),
    }
    if fixed_budget:
        return {"r_inf": r_inf(label, adversarial)} | common
    return {"r_2": mean_distance(distance).value, "median_distance": median_distance(distance, correct)} | common


def collapsed(prediction: ArrayLike, no_live_path: bool = False) -> bool:
    """Whether a level has collapsed: one class is predicted for the whole test set, or a class output has no live path.

    `no_live_path` comes from the masks (`sparsity`). A collapsed level is shown, and takes no part in r_2 or claims.

    >>> collapsed([3, 3, 3]), collapsed([3, 3, 1]), collapsed([3, 1], no_live_path=True)
    (True, False, True)
    """
    prediction = _array("prediction", prediction)
    return bool(no_live_path or (len(prediction) > 1 and np.all(prediction == prediction[0])))


def saturated(robust: int, correct: int, n: int) -> str:
    """Whether r_inf at an eps is at the "floor", the "ceiling", or neither (""), from counts over n samples.

    Floor: the 95 % Clopper-Pearson interval of robust / n reaches below SATURATION_MARGIN. Ceiling: the same interval of
    (correct - robust) / n, the share that the attack took away, does (the ceiling is where both are). Such a level is no evidence:
    a fall below the floor or a rise above the accuracy could not be seen. The interval and not the point estimate decides, so that
    few samples cannot make a level look better measured than it is; the margin is half the default tolerance, because a true
    r_inf closer to its end than that cannot move by an amount that counts. Pool the counts over seeds before asking.

    >>> saturated(4, 900, 1000), saturated(300, 900, 1000), saturated(893, 900, 1000)
    ('floor', '', 'ceiling')
    """
    if not 0 <= correct <= n or not 0 <= robust <= n or n < 1:
        raise ValueError(f"saturated: got robust={robust}, correct={correct}, n={n}; accepted: counts among n >= 1 samples")
    if _lower(correct - robust, n) < SATURATION_MARGIN:
        return "ceiling" if correct > 0 and robust > 0 else "floor"
    return "floor" if _lower(robust, n) < SATURATION_MARGIN else ""


def _lower(k: int, n: int) -> float:
    """The lower end of the two-sided 95 % interval of Clopper & Pearson 1934 for k of n."""
    return float(betaincinv(k, n - k + 1, 0.025)) if k > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """One attack's distances [N] on one level; `attack` is its id in the study."""

    attack: str
    norm: str
    domain: str
    distance: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The per-sample minimum over attacks of one norm and one domain: `distance` [N], and `winner` [N], the id of the attack that
    found it ("" where the sample was misclassified to begin with or where every attack failed)."""

    norm: str
    domain: str
    distance: Floats
    winner: NDArray[np.str_]

    def r_inf(self, eps: float) -> float:
        """The share of all N samples that are correct and that no attack turned within eps: E[distance > `allowed(eps)`]."""
        return float(np.mean(self.distance[~np.isnan(self.distance)] > allowed(eps)))


def envelope(attacks: Sequence[Distances]) -> Envelope:
    """The per-sample envelope over `attacks`, fixed-budget ones counting with the distance measured at their successes.

    Ties go to the attack named first. An attack that was run on part of the samples (NaN elsewhere) counts where it was run.
    Raises ValueError for no attack, for two norms or two domains (their distances do not compare), or for unequal N.

    >>> a = Distances(attack="ddn", norm="l2", domain="box", distance=np.array([0.0, 1.0, 2.0]))
    >>> b = Distances(attack="cw", norm="l2", domain="box", distance=np.array([0.0, 1.5, 1.9]))
    >>> both = envelope([a, b])
    >>> both.distance.tolist(), both.winner.tolist(), round(both.r_inf(1.5), 3)
    ([0.0, 1.0, 1.9], ['', 'ddn', 'cw'], 0.333)
    """
    if not attacks or len({(a.norm, a.domain, len(a.distance)) for a in attacks}) != 1:
        raise ValueError("envelope: accepted: at least one attack, all of one norm, one domain and the same samples")
    stack = np.stack([a.distance for a in attacks]).astype(np.float64)
    missing = np.isnan(stack)
    filled = np.where(missing, np.inf, stack)
    distance = np.where(missing.all(0), np.nan, filled.min(0))
    names = np.array([a.attack for a in attacks])[filled.argmin(0)]
    winner = np.where(np.isfinite(distance) & (distance > 0), names, "")
    return Envelope(norm=attacks[0].norm, domain=attacks[0].domain, distance=distance, winner=winner)


def metric_name(metric: str, norm: str) -> str:
    """r_inf is accuracy under an l_inf budget and r_2 a mean l2 distance; in the other norm they go by their plain names."""
    if metric == "r_inf" and norm != "linf":
        return "robust_accuracy"
    return "mean_distance" if metric == "r_2" and norm != "l2" else metric
