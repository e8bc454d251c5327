"""The network near a sample, to first order: margins, gradient norms, and the distance that their quotient foresees.

What belongs here: what one gradient at a sample says. What does not: what is proved or estimated over a ball.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isogrid.core.norms import Norm, norm as norm_of

_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearised:
    r"""Per sample, for the class k whose linearised boundary is closest: `gap` = g_y - g_k and `slope` = ||grad (g_y - g_k)||_q, both [N].

    distance = gap / slope * (a factor for curvature), so log distance = log gap - log slope + log factor: what the report splits a
    change of robustness into. The factor is 1 for affine models in the free domain.
    """

    gap: Tensor
    slope: Tensor
    other: Tensor

    @property
    def reach(self) -> Tensor:
        """gap / slope [N]: 0 for a misclassified sample, inf where the gradient is zero."""
        return torch.where(self.gap <= 0, 0.0, torch.where(self.slope > 0, self.gap / self.slope.clamp_min(1e-300), math.inf))


def linearise(model: nn.Module, x: Tensor, y: Tensor, norm: str | Norm) -> Linearised:
    """Gaps and slopes at the samples x [N, *S] with classes y [N], in the dual of `norm` (l2 or linf); float64.

    Gradients of logits, which cannot saturate; the model is left as it is. Where every class is out of reach (all gradients zero) the
    class of the smallest gap is taken.

    >>> near = linearise(nn.Linear(2, 2, bias=False).requires_grad_(False).apply(lambda m: m.weight.copy_(torch.eye(2))),
    ...                  torch.tensor([[0.75, 0.25]]), torch.tensor([0]), "linf")
    >>> near.gap.item(), near.slope.item(), near.reach.item()
    (0.5, 2.0, 0.25)
    """
    norm = norm_of(norm)
    parts = [_linearise(logits_of(model), x[i : i + _ROWS], y[i : i + _ROWS], norm) for i in range(0, len(y), _ROWS)]
    gap, slope, other = (torch.cat(part) for part in zip(*parts, strict=True))
    return Linearised(gap=gap, slope=slope, other=other)


def logits_of(model: nn.Module) -> nn.Module:
    """A frozen copy in eval mode; `gradients` takes its single output z as the logits (0, z)."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def gradients(model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """(g_y - g_k, ||grad (g_y - g_k)||_q) for every class k, [N, C] each in float64; (0, 0) at k = y."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        z = model(leaf).reshape(len(x), -1)
        z = nn.functional.pad(z, (1, 0)) if z.shape[1] == 1 else z
        gaps = z.gather(1, y[:, None]) - z
        slopes = torch.zeros(gaps.shape, dtype=torch.float64, device=x.device)
        for k in range(z.shape[1] if gaps.requires_grad else 0):
            (gradient,) = torch.autograd.grad(gaps[:, k].sum(), leaf, retain_graph=True, allow_unused=True)
            if gradient is not None:  # a graph may begin at a copy of the input
                slopes[:, k] = norm.dual_size(gradient.double())
    return gaps.detach().double(), slopes


def _linearise(model: nn.Module, x: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    gaps, slopes = gradients(model, x, y, norm)
    reach = torch.where(slopes > 0, gaps / slopes.clamp_min(1e-300), torch.where(gaps > 0, 1e200 * gaps, gaps))
    other = reach.scatter(1, y[:, None], math.inf).argmin(1)
    return gaps.gather(1, other[:, None])[:, 0], slopes.gather(1, other[:, None])[:, 0], other
