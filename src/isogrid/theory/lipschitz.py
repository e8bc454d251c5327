"""Lipschitz constants from weight matrices alone: norms of one matrix, and ECLipsE-Fast over several.

What belongs here: dense matrices W [out, in] in torch's layout. What does not: how a network gives them, samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isogrid.core.errors import InputError

SLACK = 1 + 1e-9
"""What norms are enlarged by, for the rounding of their computation in float64, so that a product of them stays a bound."""
_SINGULAR = 1e-12  # eigenvalues of a Gram matrix below this share of the largest are taken for zero


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixNorms:
    r"""What a matrix can do to a perturbation: ||W d||_2 <= spectral ||d||_2 and ||W d||_inf <= row_sum ||d||_inf.

    `row_sum`: max_v sum_u |W[v, u]|, the paper's largest column sum (it writes W^T). `condition`: the largest over the smallest singular
    value of W without its zero rows and columns (dead units say nothing of the map that is left); infinite where that is singular, NaN
    where it was not computed. `exact`: whether `spectral` is the norm, and not only a bound on it.
    """

    spectral: float
    frobenius: float
    row_sum: float
    condition: float = math.nan
    exact: bool = True


def matrix_norms(W: Tensor) -> MatrixNorms:
    """The norms of W [out, in], in float64.

    >>> norms = matrix_norms(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]))
    >>> round(norms.spectral, 6), norms.frobenius, norms.row_sum, round(norms.condition, 6)
    (4.0, 5.0, 4.0, 1.333333)
    """
    if W.dim() != 2 or W.numel() == 0:
        raise InputError("weight matrix", f"shape {tuple(W.shape)}", "[out, in] with at least one entry")
    W = W.detach().double()
    live = W[W.any(1)][:, W.any(0)]
    spectral, condition = (
        (0.0, math.nan) if live.numel() == 0 else gram_norms(live @ live.T if len(live) <= live.shape[1] else live.T @ live)
    )
    return MatrixNorms(spectral=spectral, frobenius=float(W.norm()), row_sum=float(W.abs().sum(1).max()), condition=condition)


def gram_norms(gram: Tensor) -> tuple[float, float]:
    """(largest singular value, condition number) of a matrix from the smaller of its two Gram matrices; the first never below the true one.

    Pitfall: squaring halves the digits of small singular values; a condition number above about 1e6 is not known, and counts as infinite.
    """
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    largest, smallest = float(values[-1]), float(values[0])
    condition = math.sqrt(largest / smallest) if smallest > _SINGULAR * largest else math.inf
    return math.sqrt(largest) * SLACK, condition


def eclipse_fast(hidden: Sequence[Tensor], last: Tensor) -> Tensor:
    r"""ECLipsE-Fast: for each row r of `last` [R, n], a bound on the l2 Lipschitz constant of x -> r s(W_{d-1} ... s(W_1 x)): float64 [R].

    s acts elementwise with slopes in [0, 1] (ReLU, tanh). X_0 = I, and after each hidden layer

        X_j = lambda_j I - lambda_j^2 / 4 W_j X_{j-1}^{-1} W_j^T,    lambda_j = 2 / ||W_j X_{j-1}^{-1} W_j^T||_2,

    which keeps dv_j^T X_j dv_j <= ||dx||^2; then the constant of r is sqrt(r X_{d-1}^{-1} r^T), never above ||r||_2 prod_j ||W_j||_2.
    Source: Xu & Sivaranjani 2024 (ECLipsE), the closed form for Lambda = lambda I. Derived again: for slopes in [0, 1]
    dv^T (W du - dv) >= 0, and the minimum over du of du^T X du - lambda dv^T (W du - dv) is dv^T X_j dv.

    >>> eclipse_fast([torch.eye(2)], torch.tensor([[3.0, 4.0]])).round(decimals=6)
    tensor([5.], dtype=torch.float64)
    """
    rows = last.detach().double()
    X: Tensor | None = None
    for W in (weight.detach().double() for weight in hidden):
        moved = W @ W.T if X is None else W @ torch.linalg.solve(X, W.T)
        moved = (moved + moved.T) / 2
        size = float(torch.linalg.eigvalsh(moved)[-1]) * SLACK
        if not size > 0:  # a layer of zeros: what comes after it is constant
            return rows.new_zeros(len(rows))
        X = 2 / size * torch.eye(len(W), dtype=torch.float64) - moved / size**2
    squares = rows.square().sum(1) if X is None else (rows * torch.linalg.solve(X, rows.T).T).sum(1)
    return squares.clamp_min(0).sqrt() * SLACK
