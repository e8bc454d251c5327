"""The certificate that the norms of a network's layers give. What belongs here: the method. What does not: the norms (lipschitz.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from isogrid.certify.bounds import margin_rows
from isogrid.certify.fast_lip import gaps, margin_gradients
from isogrid.certify.lipschitz import Everywhere
from isogrid.certify.method import Certifier, Found, Problem
from isogrid.certify.search import largest_radius
from isogrid.core.norms import L2

_TOLERANCE: Final = 1e-4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NormProduct(Certifier):
    """The margin over the product of the layers' norms: in l2 of the spectral ones, in linf the norm of the product of absolute matrices.
    What logits read of the input directly is taken as it is: of an affine model the radius is the distance.

    Source: Szegedy et al. 2014; Hein & Andriushchenko 2017; PAPER, theory 4. The weakest certificate, and the one that the paper's theorem
    on sparsity speaks of.
    """

    name: ClassVar[str] = "norm-product"

    def search(self, problem: Problem) -> Found:
        everywhere = Everywhere(graph=problem.graph)
        kind = "spectral" if problem.norm is L2 else "absolute"
        terms = {label: everywhere.terms(margin_rows(problem.graph, torch.tensor([label]))[0], kind) for label in set(problem.y.tolist())}
        direct, slant = (torch.stack([terms[label][part] for label in problem.y.tolist()]) for part in (0, 1))

        def critical(rows: Tensor, radius: Tensor) -> Tensor:
            found, y = problem.bounder.sweep(problem.ball(radius, rows), "intervals"), problem.y[rows]  # for what rounding does within
            A = direct[rows]
            value = gaps(found, y, margin_gradients(found, y).error) - found.ball.centre(A)
            return found.ball.critical(A, value, slant=slant[rows]).clamp_min(0).amin(1)

        if problem.decide:
            return Found(radius=torch.minimum(critical(torch.arange(len(problem.y)), problem.limit), problem.limit))
        return Found(radius=largest_radius(critical, problem.limit, _TOLERANCE))
