"""FMN: the fast minimum-norm attack, l2 and l_inf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Attack, Domain, Problem, require_number, require_whole
from isogrid.attacks.steps.annealed import PlaceRule, Verdicts, anneal
from isogrid.attacks.steps.schedules import CONVERGING, fixed
from isogrid.core.errors import one_of
from isogrid.core.norms import NORMS, Norm, norm as norm_of

OVERSHOOT = 1.05
"""The radius goes this much beyond the linearised boundary: aimed exactly at it, on a concave margin it never arrives."""
GAMMA, LAST_GAMMA = 0.05, 0.001


def inside_ball(norm: Norm) -> PlaceRule:
    """The rule that leaves a perturbation inside the ball alone, and projects any other onto the ball, then clips to the domain.

    The ball is centred at a point of the box, so clipping does not leave it: idempotent, non-expansive, the identity inside.
    """

    def place(x: Tensor, delta: Tensor, radius: Tensor, domain: Domain) -> Tensor:
        point = norm.project(delta, radius).add_(x)
        return point if domain.name == "free" else point.clamp_(domain.low, domain.high)

    return place


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FMN(Attack):
    r"""Fast minimum norm: gradient steps inside a ball whose radius follows the distance to the linearised boundary.

    Before the first success r = ||delta|| + OVERSHOOT * |f| / ||grad f||_dual; then r (1 - gamma), at most the closest success, where
    adversarial, and r (1 + gamma) where not; delta <- projection onto the ball of (delta + a d), clipped to the domain. d is g / ||g||_2
    (for l_inf: sign(g) with `converge`), g the gradient of the log-odds of logits scaled to a clean margin of `sharpness`, from the second
    step on times 0.35 to 2 (None: as they are). The published margin loss follows one rival class at a time and ended 1.5 to 2.5 %
    farther away: a large `sharpness` is that.

    With `converge` (the default) gamma grows by half with each further success in a row, and each row runs annealed cycles until one
    shortens its distance by less than the share `tolerance`, and is shrunk onto the boundary along its segment; `steps` is only the limit.
    Without it all rows spend `steps` passes, step lengths from 1 to 0.01 of the box's width and gamma from 0.05 to 0.001, as published.
    Raises InputError for parameters out of range.
    Source: Pintor et al. 2021 (arXiv 2102.12827), Algorithm 1. Pitfalls of ports: rescaling to the sphere where the ball is meant, and a
    radius that creeps towards the boundary without end (OVERSHOOT and an ever faster growth prevent that).

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> out = FMN(norm="linf")(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> round(out.distance.item(), 3)  # |f| / ||w||_1 = 0.5 / 2
    0.25
    """

    name: ClassVar[str] = "fmn"
    state_copies: ClassVar[int] = 10

    norm: Literal["l2", "linf"] = "l2"
    steps: int = 100
    converge: bool = True
    tolerance: float = 1e-3
    sharpness: float | None = 10.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise one_of("norm", self.norm, NORMS)
        require_whole("steps", self.steps)
        require_number("tolerance", self.tolerance, 0, 1)
        if self.sharpness is not None:
            require_number("sharpness", self.sharpness, 0, low_open=True)

    @property
    def budget(self) -> float | None:
        return None

    @property
    def threat(self) -> Norm:
        return norm_of(self.norm)

    def search(self, problem: Problem) -> Tensor:
        return anneal(
            problem,
            CONVERGING if self.converge else fixed(self.steps, GAMMA, LAST_GAMMA),
            radius=_radius,
            place=inside_ball(problem.norm),
            steps=self.steps,
            tolerance=self.tolerance,
            sharpness=self.sharpness,
            start=None,
        )


def _radius(seen: Verdicts) -> Tensor:
    searching = torch.maximum(seen.size + OVERSHOOT * seen.gap, seen.radius * (1 + seen.growth))
    outside = torch.where(seen.found, seen.radius * (1 + seen.gamma), searching)
    return torch.where(seen.adversarial, torch.minimum(seen.radius * (1 - seen.shrinkage), seen.best), outside)
