"""CLEVER: an estimate of the minimal perturbation from sampled gradients. What belongs here: estimates. What does not: bounds (certify).

An `Estimate` is no certificate and has no way to become one: brackets take certificates alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import weibull_max
from torch import Tensor, nn

from isogrid.core.errors import InputError
from isogrid.core.norms import L2, Norm, norm as norm_of
from isogrid.core.random import Streams
from isogrid.theory.local import gradients, logits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a method takes the minimal perturbation for, per sample [N]: proved by nothing, above or below it as chance has it."""

    method: str
    norm: Norm
    radius: Tensor


def clever(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str | Norm, radius: float, batches: int = 50, size: int = 64, seed: int = 0
) -> Estimate:
    r"""min over k of min( (g_y - g_k) / L^k, radius ), L^k the fitted upper end of ||grad (g_y - g_k)||_q in a ball.

    The largest of `size` points is taken `batches` times, and these maxima are fitted by a reverse Weibull
    distribution, whose location is L^k; where a fit fails or falls
    below the largest gradient that was seen, that one is taken. 0 for a misclassified sample. Source: Weng et al. 2018 (CLEVER).
    Pitfall: not a lower bound; it has been seen above the true distance (Goodfellow 2018) and below a certificate. Points are drawn in the
    free ball, from (seed, sample, batch).
    """
    norm = norm_of(norm)
    if not (math.isfinite(radius) and radius > 0) or batches < 2 or size < 1:
        raise InputError("clever", (radius, batches, size), "a finite radius > 0, batches >= 2, size >= 1")
    frozen, found = logits_of(model), []
    streams = Streams(seed=seed, ids=torch.arange(len(y), device=x.device))
    for i in range(len(y)):
        gaps, _ = gradients(frozen, x[i : i + 1], y[i : i + 1], norm)
        maxima = []
        for batch in range(batches):
            points = _ball(x[i], streams.take(torch.tensor([i])), norm, radius, size, batch)
            maxima.append(gradients(frozen, points, y[i].expand(size), norm)[1].amax(0))
        table = torch.stack(maxima).cpu().numpy()
        reach = [gap / _upper_end(table[:, k]) for k, gap in enumerate(gaps[0].tolist()) if k != int(y[i]) and table[:, k].max() > 0]
        wrong = bool((gaps[0] <= 0).sum() > 1)  # of the class itself it is 0
        found.append(0.0 if wrong else min([*reach, radius]))
    return Estimate(method="clever", norm=norm, radius=torch.tensor(found, dtype=torch.float64))


def _ball(x: Tensor, stream: Streams, norm: Norm, radius: float, size: int, batch: int) -> Tensor:
    """`size` points uniform in the ball around one sample x [*S]."""
    n = x.numel()
    if norm is L2:
        direction = stream.normal((1, size, n), "clever", batch, dtype=torch.float64)[0]
        share = stream.uniform((1, size), "clever radius", batch, dtype=torch.float64)[0] ** (1 / n)
        offsets = direction / direction.norm(dim=1, keepdim=True) * share[:, None] * radius
    else:
        offsets = (2 * stream.uniform((1, size, n), "clever", batch, dtype=torch.float64)[0] - 1) * radius
    points: Tensor = x + offsets.view(size, *x.shape).to(x.dtype)
    return points


def _upper_end(maxima: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The location of a reverse Weibull distribution fitted to the maxima by maximum likelihood."""
    largest = float(maxima.max())
    if float(maxima.std()) <= 1e-9 * largest:
        return largest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that wanders is caught by its result
        try:
            location = float(weibull_max.fit(maxima / largest)[1]) * largest
        except (ValueError, RuntimeError, FloatingPointError):
            return largest
    return max(largest, location) if math.isfinite(location) else largest
