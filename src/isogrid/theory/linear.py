"""Linear classifiers over a set of samples: the paper's equality for r_2 and its bounds, beside the exact optima.

What belongs here: quantities of a whole sample set. What does not: the closed forms of one sample (affine.py), attacks (they are
compared with these values from outside), nonlinear networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.norms import L2, LINF
from isogrid.theory.affine import box_distance, chunks, classified, fgs_prediction, free_distance, prepared, survives


class TheoryRow(NamedTuple):
    """One value for the frontier table; `eps` is NaN where the quantity has none."""

    metric: str
    norm: str
    domain: str
    eps: float
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTheory:
    """What is known in closed form about a linear classifier on N samples with C classes; everything in float64.

    correct [N]: classified correctly. share [C]: pi_k t_k, the share of all samples that are of class k and correct. strength_2,
    strength_1 [C]: (w_k - wbar).mu_k + b_k - bbar over ||w_k - wbar||_2 and over ||w_k - wbar||_1 (0 for a class without correct
    samples). ratio [C]: ||w_k - wbar||_1 / ||w_k - wbar||_2, at most sqrt(nonzeros [C]). distance: (norm, domain) -> exact
    smallest perturbation [N], 0 where misclassified, inf where there is none. r_inf_optimal, r_inf_fgs, bound_r_inf: (domain,
    eps) -> share of all samples. assumption: eps -> bool per class that has samples (see `fgs_assumption`).
    """

    correct: Tensor
    share: Tensor
    strength_2: Tensor
    strength_1: Tensor
    ratio: Tensor
    nonzeros: Tensor
    distance: Mapping[tuple[str, str], Tensor]
    r_inf_optimal: Mapping[tuple[str, float], float]
    r_inf_fgs: Mapping[tuple[str, float], float]
    bound_r_inf: Mapping[tuple[str, float], float]
    assumption: Mapping[float, Tensor]

    @property
    def binary(self) -> bool:
        """Two classes: the bound on r_2 is then an equality, and FGS is an optimal linf attack."""
        return len(self.share) == 2

    @property
    def bound_r_2(self) -> float:
        r"""sum_k pi_k t_k ((w_k - wbar).mu_k + b_k - bbar) / ||w_k - wbar||_2 >= r_2 in the free domain (PAPER, theory 1 and 2).

        For two classes w_1 - wbar = w / 2, so it is the equality r_2 = sum_k pi_k t_k y_k (w.mu_k + b) / ||w||_2, at overshoot 0
        (DeepFool's overshoot o multiplies r_2 by 1 + o). NaN for a binary model without weights: no sample has a finite distance.
        """
        total = float((self.share * self.strength_2).sum())
        return math.nan if self.binary and math.isinf(total) else total

    def r_2(self, domain: str) -> float:
        """The mean exact l2 distance, misclassified samples as 0, over the samples that have one; NaN where none has."""
        distance = self.distance["l2", domain]
        finite = distance[torch.isfinite(distance)]
        return float(finite.mean()) if len(finite) else math.nan

    def rows(self) -> list[TheoryRow]:
        """(metric, norm, domain, eps, value) for the frontier table; `eps` is NaN for quantities without a budget."""
        none = math.nan
        rows = [TheoryRow("r_2_equality" if self.binary else "bound_r_2", "l2", "free", none, self.bound_r_2)]
        rows += [TheoryRow("r_2_optimal", "l2", domain, none, self.r_2(domain)) for domain in ("free", "box")]
        for (name, domain), distance in self.distance.items():
            mine = distance[self.correct]
            if len(mine):
                rows.append(TheoryRow("median_distance_optimal", name, domain, none, _median(mine)))
                rows.append(TheoryRow("failed_optimal", name, domain, none, float(torch.isinf(mine).double().mean())))
        for metric, values in (
            ("r_inf_optimal", self.r_inf_optimal),
            ("r_inf_fgs", self.r_inf_fgs),
            ("bound_r_inf", self.bound_r_inf),
        ):
            rows += [TheoryRow(metric, "linf", domain, eps, value) for (domain, eps), value in values.items()]
        rows += [TheoryRow("assumption_share", "linf", "free", eps, float(ok.double().mean())) for eps, ok in self.assumption.items()]
        rows.append(TheoryRow("l1_over_l2", "", "", none, float(self.ratio.mean())))
        rows.append(TheoryRow("l1_over_l2_limit", "", "", none, float(self.nonzeros.double().sqrt().mean())))
        return rows


def linear_theory(
    W: Tensor, b: Tensor, x: Tensor, y: Tensor, *, eps: Sequence[float], box: tuple[float, float] = (0.0, 1.0)
) -> LinearTheory:
    r"""Everything that is known in closed form about g(x) = W x + b on the samples x [N, *S], y [N], for each linf budget in `eps`.

    `W` [C, n], `b` [C], C >= 2 (a binary model as the logits (0, z)). General class priors pi_k, accuracies t_k and means mu_k =
    E[x | y = k, correct] are used. Free-domain Markov bound: r_inf <= sum_k pi_k t_k ((w_k - wbar).mu_k + b_k - bbar) / (eps
    ||w_k - wbar||_1), for the optimal attack (initially correct samples) and, for two classes, FGS; for more classes FGS obeys it
    under `fgs_assumption`, never rFGS. Boxed: r_inf <= E[1(correct) min(1, M(x) / D(x))], M the margin to the mean logit and D
    its drop under clip(x - eps sign(w_k - wbar)); ratio 1 where D = 0. Source: PAPER, theory 1 and 2. Pitfall: the bounds permit
    robustness, they do not imply it, and the free one often exceeds 1. Raises InputError for shapes that do not fit.

    >>> t = linear_theory(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -0.5]), torch.tensor([[0.9]]), torch.tensor([1]), eps=[0.1])
    >>> round(t.bound_r_2, 4), t.r_inf_optimal["free", 0.1], round(t.distance["linf", "box"].item(), 4)
    (0.4, 1.0, 0.4)
    """
    W, b, x, y = prepared(W, b, x, y)
    if any(not (math.isfinite(e) and e > 0) for e in eps):
        raise InputError("eps", list(eps), "finite numbers > 0")
    classes = len(W)
    correct = classified(W, b, x, y)
    centred, offset = W - W.mean(0), b - b.mean()
    value = (x * centred[y]).sum(1) + offset[y]
    members = torch.bincount(y[correct], minlength=classes).double()
    mean_value = torch.zeros(classes, dtype=torch.float64, device=x.device).index_add_(0, y[correct], value[correct]) / members.clamp_min(1)
    present = members > 0
    l2, l1 = L2.size(centred), LINF.dual_size(centred)

    def over(size: Tensor) -> Tensor:
        quotient = torch.where(size > 0, mean_value / size.clamp_min(1e-300), math.inf)
        return torch.where(present, quotient, 0.0)

    share = members / len(y)
    strength_1 = over(l1)
    optimal, fgs, bound = {}, {}, {}
    for e in eps:
        for domain, limits in (("free", (-math.inf, math.inf)), ("box", box)):
            optimal[domain, e] = float((correct & survives(W, b, x, y, e, limits)).double().mean())
            fgs[domain, e] = float((fgs_prediction(W, b, x, y, e, limits) == y).double().mean())
        bound["free", e] = float((share * strength_1).sum()) / e
        bound["box", e] = float((_boxed_ratio(centred, x, y, value, e, box) * correct).mean())
    return LinearTheory(
        correct=correct,
        share=share,
        strength_2=over(l2),
        strength_1=strength_1,
        ratio=torch.where(l2 > 0, l1 / l2.clamp_min(1e-300), 0.0),
        nonzeros=(centred != 0).sum(1),
        distance={("l2", "free"): free_distance(W, b, x, y, L2), ("l2", "box"): box_distance(W, b, x, y, L2, box)}
        | {("linf", "free"): free_distance(W, b, x, y, LINF), ("linf", "box"): box_distance(W, b, x, y, LINF, box)},
        r_inf_optimal=optimal,
        r_inf_fgs=fgs,
        bound_r_inf=bound,
        assumption={e: fgs_assumption(W, b, x, y, e) for e in eps},
    )


def fgs_assumption(W: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Per class that has samples: does free-domain FGS succeed at least as often as -eps sign(w_k - wbar), and correct no error?

    bool [number of classes present]. Where it is True for every class, FGS obeys the multi-class bound on r_inf (PAPER, theory 2).

    >>> W = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    >>> fgs_assumption(W, torch.zeros(2), torch.tensor([[0.9, 0.1], [0.1, 0.6]]), torch.tensor([1, 0]), 0.2)
    tensor([True, True])
    """
    W, b, x, y = prepared(W, b, x, y)
    correct = classified(W, b, x, y)
    free = (-math.inf, math.inf)
    fgs_right = fgs_prediction(W, b, x, y, eps, free) == y
    mean_right = torch.cat(
        [(x[rows] - eps * (W - W.mean(0)).sign()[y[rows]]).matmul(W.T).add(b).argmax(1) == y[rows] for rows in chunks(x)]
    )
    verdicts = []
    for k in torch.unique(y):
        mine = y == k
        weaker = (fgs_right & mine & correct).sum() > (mean_right & mine & correct).sum()
        corrects = (fgs_right & mine & ~correct).any()
        verdicts.append(~weaker & ~corrects)
    return torch.stack(verdicts)


def _boxed_ratio(centred: Tensor, x: Tensor, y: Tensor, value: Tensor, eps: float, box: tuple[float, float]) -> Tensor:
    """min(1, M / D) per sample [N]: M the margin to the mean logit, D its drop under the clipped step; 1 where D = 0."""
    drops = []
    for rows in chunks(x):
        w = centred[y[rows]]
        drops.append((w * (x[rows] - (x[rows] - eps * w.sign()).clamp(*box))).sum(1))
    drop = torch.cat(drops)
    return torch.where(drop > 0, value / drop.clamp_min(1e-300), 1.0).clamp(0, 1)


def _median(values: Tensor) -> float:
    """The median, the mean of the middle two for an even count; inf stays inf."""
    ordered = values.sort().values
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low) if low == high else float((low + high) / 2)
