r"""Means over seeds and samples as crossed random effects: intervals, one-sided p-values, relative effects, Holm.

Model. A figure of one level, or a contrast between levels, has one value for each seed s and sample i,

    d[s, i] = mu + a_s + b_i + e_si,     variances  A (seeds), B (samples), E (the rest),

because every seed's network is judged on the same samples. Then Var(mean) = A/S + B/N + E/(SN). Treating the S*N values as
independent would leave A and B out, and with them almost all of it. The ANOVA of the two-way table estimates the parts:

    MS_seed = N A + E (S - 1 degrees of freedom),  MS_sample = S B + E (N - 1),  MS_rest = E ((S - 1)(N - 1)).

Why not Satterthwaite alone. Its degrees of freedom are computed from the very mean squares whose noise they have to make up for:
where MS_seed, with its 2 degrees of freedom for 3 seeds, comes out small by chance, the variance is too small AND the degrees of
freedom are large, and the interval is too short. So intervals and p-values here use Banerjee's combination, which is conservative
by construction: with u = MS_seed / (SN) and v = max(MS_sample - MS_rest, 0) / (SN), the half-width is

    h(p) = sqrt( t_{S-1}(p)^2 u + t_{N-1}(p)^2 v ).

Proof in one line: F, the distribution function of a squared standard normal, is concave, so for a mean with variance U + V, U and V
estimated independently of the mean, P(|mean - mu| <= h) = E F((t_u^2 u + t_v^2 v) / (U + V)) >= (U E F(t_u^2 u/U) + V E F(t_v^2 v/V)) /
(U + V) = 1 - 2p. It is exact where one part dominates (t_{S-1} where the seeds do, about normal where the samples do), and cautious
between. The sample part is a difference of mean squares with hundreds of degrees of freedom, so its own noise hardly matters.
Satterthwaite's degrees of freedom are reported as a description.

Where values are counts, MS_seed can be 0 by a tie: three seeds that each gain one sample of fifty have one mean, and Banerjee's h is 0 or
nearly so. But whatever the seeds are worth, E is there, and well estimated: so h is never less than a normal interval's of the variance
that needs no seeds, w = MS_rest / (SN),

    h(p) = max( sqrt( t_{S-1}(p)^2 u + t_{N-1}(p)^2 v ), z(p) sqrt( w + v ) ).

Sources: Searle, Casella & McCulloch 1992, "Variance Components", ch. 4 (ANOVA of the crossed table); Satterthwaite 1946;
Banerjee 1960, Sankhya 22 (the combination, its conservatism); Holm 1979.

What belongs here: arrays [S, N] -> estimates. What does not: which contrast means which claim (`verdicts.claims`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

Floats = NDArray[np.float64]
_SMALLEST_P = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over crossed seeds and samples.

    `value`; `seed_part`, `sample_part`, `rest_part`: u, v and w of the module docstring, the units of value squared;
    `seeds`, `samples`: S, N; `df`: Satterthwaite's degrees of freedom (a description; NaN where the variance is 0). With one seed
    the part of the seeds cannot be estimated: `over_samples_only` is true, the interval speaks of this one network, and no
    statement about the method follows from it.
    """

    value: float
    seed_part: float
    sample_part: float
    rest_part: float = 0.0
    seeds: int
    samples: int
    df: float

    @property
    def over_samples_only(self) -> bool:
        """Whether seeds had to be left out of the variance, there being one only."""
        return self.seeds == 1

    @property
    def se(self) -> float:
        """The standard error, sqrt(u + v)."""
        return math.sqrt(self.seed_part + self.sample_part)

    @property
    def certain(self) -> bool:
        """Whether the data have no scatter at all."""
        return self.seed_part == self.sample_part == self.rest_part == 0

    def scaled(self, factor: float) -> Estimate:
        """The same in other units: value times a known factor > 0."""
        parts = {name: getattr(self, name) * factor**2 for name in ("seed_part", "sample_part", "rest_part")}
        return replace(self, value=self.value * factor, **parts)

    def half_width(self, p: float) -> float:
        """h(p): the mean exceeds mu by more than this with probability at most p, 0 < p <= 1/2 (one-sided)."""
        parts = ((self.seed_part, self.seeds - 1), (self.sample_part, self.samples - 1))
        combined = math.sqrt(sum(part * float(stdtrit(df, p)) ** 2 for part, df in parts if part > 0))
        return max(combined, -float(ndtri(p)) * math.sqrt(self.rest_part + self.sample_part))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided interval value -+ h((1 - confidence) / 2)."""
        half = self.half_width((1 - confidence) / 2)
        return self.value - half, self.value + half

    def p_greater(self, bound: float = 0.0) -> float:
        """The one-sided p-value against mu <= bound: the p at which value - h(p) = bound. 1/2 where value = bound.

        Where the variance is 0 it is 0 or 1 (1 where value = bound): data without any scatter.
        """
        return self._p(self.value - bound)

    def p_less(self, bound: float = 0.0) -> float:
        """The one-sided p-value against mu >= bound."""
        return self._p(bound - self.value)

    def _p(self, distance: float) -> float:
        if self.certain:
            return 0.0 if distance > 0 else 1.0
        size = abs(distance)
        if size == 0:
            tail = 0.5
        elif self.half_width(_SMALLEST_P) <= size:
            tail = _SMALLEST_P
        else:
            logarithm = brentq(lambda x: self.half_width(math.exp(x)) - size, math.log(_SMALLEST_P), math.log(0.5), xtol=1e-9)
            tail = math.exp(logarithm)
        return tail if distance >= 0 else 1 - tail


def crossed(values: ArrayLike, *, chosen: bool = False) -> Estimate:
    """The mean of values [S, N] (seeds x samples), as the module docstring says. All values finite; S >= 1, N >= 2.

    `chosen`: which level a seed's values belong to was chosen on the other seeds (`held_out_means`). Such values are unbiased and yet
    positively correlated between seeds, as the errors of a cross-validation are, and their scatter understates the variance of
    their mean. The part of the seeds is then multiplied by 1 + S / (S - 1), the correction of Nadeau & Bengio 2003 (the variance
    1/S becomes 1/S + n_test / n_train, here 1 / (S - 1)).

    Raises ValueError otherwise: what a failure or a missing cell is worth is decided before (`impute_failures`, `complete_seeds`).

    >>> rng = np.random.default_rng(0)
    >>> estimate = crossed(rng.normal(size=(3, 1)) + rng.normal(size=(1, 100)) + rng.normal(size=(3, 100)))
    >>> low, high = estimate.interval(0.95)
    >>> bool(low < 0 < high), estimate.seeds, estimate.samples
    (True, 3, 100)
    """
    d = np.asarray(values, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] < 1 or d.shape[1] < 2 or not np.isfinite(d).all():
        raise ValueError(f"crossed: got shape {d.shape}; accepted: finite values [seeds >= 1, samples >= 2]")
    S, N = d.shape
    mean = float(d.mean())
    d = d - mean
    by_seed, by_sample = d.mean(1), d.mean(0)
    ss_seed, ss_sample = N * float(by_seed @ by_seed), S * float(by_sample @ by_sample)
    ms_sample = ss_sample / (N - 1)
    if S == 1:
        return Estimate(value=mean, seed_part=0.0, sample_part=ms_sample / N, seeds=1, samples=N, df=N - 1.0 if ms_sample > 0 else math.nan)
    ms_seed = ss_seed / (S - 1)
    ms_rest = max(float(np.vdot(d, d)) - ss_seed - ss_sample, 0.0) / ((S - 1) * (N - 1))
    between = max(ms_sample - ms_rest, 0.0)
    if chosen:
        ms_seed *= 1 + S / (S - 1)
    return Estimate(
        value=mean,
        seed_part=ms_seed / (S * N),
        sample_part=between / (S * N),
        rest_part=ms_rest / (S * N),
        seeds=S,
        samples=N,
        df=_satterthwaite(ms_seed, ms_sample, ms_rest, S, N) if between > 0 else (S - 1.0 if ms_seed > 0 else math.nan),
    )


def _satterthwaite(ms_seed: float, ms_sample: float, ms_rest: float, S: int, N: int) -> float:
    """(sum c_j MS_j)^2 / sum (c_j MS_j)^2 / df_j for MS_seed + MS_sample - MS_rest."""
    top = (ms_seed + ms_sample - ms_rest) ** 2
    bottom = ms_seed**2 / (S - 1) + ms_sample**2 / (N - 1) + ms_rest**2 / ((S - 1) * (N - 1))
    return top / bottom if bottom > 0 else math.nan


def relative(values: ArrayLike, reference: ArrayLike, *, chosen: bool = False) -> Estimate:
    """The relative effect mean(values) / mean(reference) - 1 of paired arrays [S, N], by the delta method.

    With R the ratio, (x[s, i] - R t[s, i]) / mean(t) has mean 0 and, to first order, the ratio's error; it is put through `crossed`.
    Good where the mean of the reference is many standard errors from 0, as an r_2 is. For a test of R <= 1 + m use
    `crossed(values - (1 + m) * reference)`, which needs no approximation (Fieller 1954).
    Raises ValueError where the reference's mean is not positive.
    """
    x, t = np.asarray(values, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.shape != t.shape or not t.mean() > 0:
        raise ValueError("relative: accepted: arrays of one shape, with a reference of positive mean")
    ratio = x.mean() / t.mean()
    errors = crossed((x - ratio * t) / t.mean(), chosen=chosen)
    return Estimate(
        value=float(ratio - 1),
        seed_part=errors.seed_part,
        sample_part=errors.sample_part,
        rest_part=errors.rest_part,
        seeds=errors.seeds,
        samples=errors.samples,
        df=errors.df,
    )


def apart(values: ArrayLike, alpha: float = 0.05) -> int | None:
    """The index of the one of values [S] that lies apart from the others, by Grubbs' test; None where none does, or of fewer than three.

    G = max |x - mean| / sd against (S - 1) / sqrt(S) sqrt(t^2 / (S - 2 + t^2)), t the upper alpha / (2 S) quantile of t_{S-2} (Grubbs 1969,
    "Procedures for detecting outlying observations in samples"). Pitfall: it tells that one training is unlike the others, not that it may
    be left out; with three values it takes two that are nearly equal.

    >>> apart([0.11, 0.12, -0.30, 0.10]), apart([0.11, 0.12, 0.05, 0.10]), apart([0.1, 0.2])
    (2, None, None)
    """
    x = np.asarray(values, dtype=np.float64)
    S = len(x)
    if S < 3 or not x.std() > 1e-12 * np.abs(x).max():
        return None
    t = float(stdtrit(S - 2, alpha / (2 * S)))
    away = np.abs(x - x.mean()) / x.std(ddof=1)
    critical = (S - 1) / math.sqrt(S) * math.sqrt(t**2 / (S - 2 + t**2))
    return int(away.argmax()) if away.max() > critical else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: reject those <= alpha and the chance of any false rejection is <= alpha, whatever the dependence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def impute_failures(distance: ArrayLike, *, largest: bool = False) -> Floats:
    """Distances [..., N] with each failure (inf) replaced by the mean of the finite ones of its own row, or by their `largest`.

    By the mean, the row's mean is r_2 as defined (the mean over the samples with a finite distance) and the table stays complete, so that
    pairs stay pairs. Only meant for rows that are not void: up to 1 % failures shrink the standard error by at most about 1 %. Pitfall:
    what fails is what is far. Where the farthest hundredth of a control fails and of a level does not, r_2 seems to rise; so what is
    concluded must hold with the largest, too. A row without a finite value, and NaN, stay as they are.
    """
    d = np.array(distance, dtype=np.float64)
    failed = np.isposinf(d)
    if failed.any():
        finite = np.isfinite(d)
        counts = finite.sum(-1, keepdims=True)
        known = np.where(finite, d, 0.0)
        worth = known.max(-1, keepdims=True) if largest else known.sum(-1, keepdims=True) / np.maximum(counts, 1)
        d = np.where(failed & (counts > 0), worth, d)
    return d


def complete_seeds(*tables: Floats) -> NDArray[np.bool_]:
    """Which seeds [S] have any measured cell in every one of the tables [S, L, N] (a cell of a failed task is all NaN)."""
    measured: NDArray[np.bool_] = np.all([~np.isnan(table).all(axis=(1, 2)) for table in tables], axis=0)
    return measured


def choosing(samples: int) -> NDArray[np.bool_]:
    """Which of the samples [N] choices are made on: a fourth of them, spread evenly; what is chosen is judged on the others.

    Sample i is one where the fractional part of i times the golden ratio is below 1/4, so that no cycle in the order of the samples
    (their classes, say) can put one kind of sample on one side. It depends on nothing but i.

    >>> choosing(8).astype(int).tolist()
    [1, 0, 1, 0, 0, 1, 0, 0]
    """
    return np.arange(samples) * ((math.sqrt(5) - 1) / 2) % 1 < 0.25


def held_out_means(values: Floats) -> Floats:
    """Means [S, L] of values [S, L, N] that a choice for seed s may rest on: those of the OTHER seeds, on the `choosing` samples.

    A level chosen by these means was not chosen for the noise of the values that it is judged by, neither for a seed's walk nor for
    what all seeds share on a sample: a contrast there is unbiased under pure noise, which is the remedy for the winner's curse.
    With one seed only the samples differ. Pitfall: the seeds' choices are made on overlapping data, see `crossed(chosen=True)`.
    """
    means: Floats = values[:, :, choosing(values.shape[2])].mean(-1)
    return means if len(means) == 1 else (means.sum(0, keepdims=True) - means) / (len(means) - 1)


def judging(values: Floats) -> Floats:
    """The values [..., N'] on the samples that no choice was made on."""
    kept: Floats = values[..., ~choosing(values.shape[-1])]
    return kept
