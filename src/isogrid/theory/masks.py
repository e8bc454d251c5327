"""The paper's theorem on sparsity: what a random mask does to the norms of a layer, in expectation. Not here: networks, learned masks."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from isogrid.core.errors import InputError
from isogrid.core.random import generator


class MonteCarlo(NamedTuple):
    """A mean over independent draws, and its standard error."""

    mean: float
    error: float


def expected_frobenius(frobenius: float, density: float) -> float:
    r"""sqrt(1 - alpha) ||W'||_F >= E ||W' o M||_F >= E ||W' o M||_2 for Bernoulli(1 - alpha) masks M; `density` = 1 - alpha.

    E ||W' o M||_F^2 = (1 - alpha) ||W'||_F^2, an equality, since every entry stays with probability 1 - alpha; the root by Jensen. Entries
    that share a weight (an unrolled convolution) share its mask, which an expectation of a sum does not notice. Source: PAPER, theory 5.

    >>> expected_frobenius(10.0, 0.25)
    5.0
    """
    return math.sqrt(checked_density(density)) * frobenius


def expected_row_sum(W: Tensor, density: float, *, draws: int = 64, seed: int = 0) -> MonteCarlo:
    """E max_v sum_u |W[v, u]| M[v, u] over Bernoulli(`density`) masks of W [out, ...], by Monte Carlo: it has no closed form.

    For a convolution hand over its kernel: the largest kernel sum of an output channel is the norm of the unrolled matrix where some
    window lies inside the image. Masks are coupled over densities, as in the proof that it falls with the sparsity: draw i keeps the
    entries whose uniform number lies below the density.

    >>> expected_row_sum(torch.tensor([[1.0, -2.0]]), 1.0)
    MonteCarlo(mean=3.0, error=0.0)
    """
    checked_density(density)
    size, found = W.detach().double().abs().flatten(1), []
    for draw in range(draws):
        kept = mask_draw(W, density, seed, draw).flatten(1)
        found.append((size * kept).sum(1).max())
    sums = torch.stack(found)
    error = float(sums.std()) / math.sqrt(draws) if draws > 1 else math.nan
    return MonteCarlo(float(sums.mean()), error)


def mask_draw(W: Tensor, density: float, seed: int, *purpose: object) -> Tensor:
    """A Bernoulli(density) mask of W's shape, bool; for one (seed, purpose) a sparser one keeps a part of what a denser one keeps."""
    return torch.rand(W.shape, dtype=torch.float64, generator=generator(seed, "bernoulli mask", *purpose)) < density


def magnitude_mask(W: Tensor, kept: int) -> Tensor:
    """The mask of the `kept` largest |W|, ties to the earlier entry, bool.

    >>> magnitude_mask(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 2)
    tensor([[False,  True],
            [ True, False]])
    """
    order = W.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(W.numel(), dtype=torch.bool)
    mask[order[:kept].cpu()] = True
    return mask.view(W.shape)


def checked_density(density: float) -> float:
    """The share of weights kept; raises InputError unless it lies in [0, 1]."""
    if not 0 <= density <= 1:
        raise InputError("density", density, "a share of weights kept, 0 to 1")
    return density
