"""FMN: the fast minimum-norm attack, l2 and l_inf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Domain, Problem, Role
from isogrid.attacks.driver.kinds import SPENT, MinimumNorm
from isogrid.attacks.driver.parameters import choice, number, switch, whole
from isogrid.attacks.steps.annealed import PlaceRule, Verdicts, anneal
from isogrid.attacks.steps.losses import log_odds_slope, negative_margin_slope
from isogrid.attacks.steps.schedules import CONVERGING, fixed
from isogrid.core.norms import NORMS, Norm

OVERSHOOT = 1.05
"""The radius goes this much beyond the linearised boundary, in the published form too: aimed exactly at it, rounding decides on a linear
margin, and on a concave one it never arrives. (In the authors' code |f| is the sum over the batch, and so goes far beyond.)"""
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
class FMN(MinimumNorm):
    r"""Fast minimum norm: gradient steps inside a ball whose radius follows the distance to the linearised boundary.

    Before the first success r = ||delta|| + OVERSHOOT * |f| / ||grad f||_dual, f the margin; then r (1 - gamma), at most the closest
    success, where adversarial, and r (1 + gamma) where not; delta <- projection onto the ball of (delta + a g / ||g||_2), clipped to the
    domain, g the gradient of -f. As published all rows spend `steps` passes, a falling from 1 to 0.01 of the box's width and gamma from
    0.05 to 0.001.

    With `converge`, which is ours, the radius grows ever faster until the first success; gamma grows by half with each further success in a
    row, each row runs annealed cycles until one shortens its distance by less than the share `tolerance`, and is shrunk onto the boundary
    along its segment; `steps` is only the limit. In l_inf it goes along sign(g), and the loss is the log-odds of logits scaled to a clean
    margin of `sharpness`, from the second step on times 0.35 to 2 (None: as they are): the margin follows one rival class at a time and
    ended 1.5 to 2.5 % farther away.
    Raises InputError for parameters out of range. Source: Pintor et al. 2021 (arXiv 2102.12827), Algorithm 1.
    Pitfalls: as published it fails where the gradient pushes elements against faces of the box, and where the boundary bends away: such
    samples are failures, and counted (adv-lib's port breaks 58 % of the digits of a LeNet). Ports rescale to the sphere where the ball
    is meant.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> out = FMN(norm="linf", converge=True)(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> round(out.distance.item(), 3)  # |f| / ||w||_1 = 0.5 / 2
    0.25
    """

    name: ClassVar[str] = "fmn"
    role: ClassVar[Role] = "strong"
    strength: ClassVar[Mapping[str, int]] = {"l2": 50}  # AttackBench, as DeepFool's
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 10

    norm: Literal["l2", "linf"] = choice("l2", NORMS)
    steps: int = whole(100)
    converge: bool = switch(False, "converging")
    tolerance: float = number(1e-3, 0, 1)
    sharpness: float | None = number(10.0, 0, low_open=True, otherwise="logits as they are")
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return SPENT * self.steps

    def search(self, problem: Problem) -> Tensor:
        return anneal(
            problem,
            CONVERGING if self.converge else fixed(self.steps, GAMMA, LAST_GAMMA),
            radius=_converging_radius if self.converge else _radius,
            place=inside_ball(problem.norm),
            slope=log_odds_slope if self.converge else negative_margin_slope,
            steps=self.steps,
            tolerance=self.tolerance,
            sharpness=self.sharpness,
            start=None,
        )


def _radius(seen: Verdicts) -> Tensor:
    outside = torch.where(seen.found, seen.radius * (1 + seen.gamma), seen.size + OVERSHOOT * seen.gap)
    return torch.where(seen.adversarial, torch.minimum(seen.radius * (1 - seen.gamma), seen.best), outside)


def _converging_radius(seen: Verdicts) -> Tensor:
    searching = torch.maximum(seen.size + OVERSHOOT * seen.gap, seen.radius * (1 + seen.growth))
    outside = torch.where(seen.found, seen.radius * (1 + seen.gamma), searching)
    return torch.where(seen.adversarial, torch.minimum(seen.radius * (1 - seen.shrinkage), seen.best), outside)
