"""DDN: decoupled direction and norm, a minimum-norm l2 attack."""

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
from isogrid.attacks.steps.annealed import Verdicts, anneal
from isogrid.attacks.steps.losses import log_odds_slope
from isogrid.attacks.steps.schedules import CONVERGING, fixed
from isogrid.core.norms import L2


def on_sphere(x: Tensor, delta: Tensor, radius: Tensor, domain: Domain) -> Tensor:
    """x + the perturbation rescaled to l2 size `radius` [b], then clipped to the domain; [b, n] -> [b, n]. A zero one stays zero.

    The result is written into the memory of `delta`.
    """
    size = L2.size(delta)
    scale = radius / size.clamp_min_(torch.finfo(size.dtype).tiny)
    point = torch.addcmul(x, delta, scale[:, None], out=delta)
    return point if domain.name == "free" else point.clamp_(domain.low, domain.high)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DDN(MinimumNorm):
    r"""Decoupled direction and norm: step along g / ||g||_2, then rescale to a radius that shrinks at successes and grows at failures.

    delta <- r (delta + a g / ||g||) / ||.||, clipped to the domain, with r <- r (1 - gamma) where x + delta is adversarial and
    r (1 + gamma) where not; unquantised. g is the gradient of the cross-entropy in its log-odds form. As published all rows spend `steps`
    passes from r = `init_norm` on (in units of the box's width), a falling from 1 to 0.01 (the last one forward only, since no step
    follows it).

    With `converge`, which is ours, each row starts at the radius of the linearised boundary, grows it ever faster until its first success,
    shrinks it ever faster while successes follow each other, runs annealed cycles until one shortens its distance by less than the share
    `tolerance`, and is shrunk onto the boundary along its segment; `steps` is only the limit. The loss then sees logits scaled to a clean
    margin of `sharpness`, from the second step on times 0.35 to 2 (None: as they are), so that their unit does not matter.
    Raises InputError for parameters out of range. Source: Rony et al. 2019 (arXiv 1811.09600), Algorithm 1, without quantisation.
    Pitfall: as published, init_norm * (1 + gamma)^steps limits the radius, and samples that are farther away stay unbroken.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> out = DDN()(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> round(out.distance.item(), 3)  # |f| / ||w|| = 0.5 / sqrt(2)
    0.354
    """

    name: ClassVar[str] = "ddn"
    norm: ClassVar[str] = "l2"
    role: ClassVar[Role] = "strong"
    strength: ClassVar[Mapping[str, int]] = {"l2": 60}  # AttackBench, as DeepFool's
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 10

    steps: int = whole(100)
    converge: bool = switch(False, "converging")
    tolerance: float = number(1e-3, 0, 1)
    sharpness: float | None = number(10.0, 0, low_open=True, otherwise="logits as they are")
    gamma: float = number(0.05, 0, 1, low_open=True)
    init_norm: float = number(1.0, 0, low_open=True)
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return SPENT * self.steps

    def search(self, problem: Problem) -> Tensor:
        return anneal(
            problem,
            CONVERGING if self.converge else fixed(self.steps, self.gamma, self.gamma),
            radius=self._radius,
            place=on_sphere,
            slope=log_odds_slope,
            steps=self.steps,
            tolerance=self.tolerance,
            sharpness=self.sharpness,
            start=None if self.converge else self.init_norm,
        )

    def _radius(self, seen: Verdicts) -> Tensor:
        if not self.converge:
            return torch.where(seen.adversarial, seen.radius * (1 - self.gamma), seen.radius * (1 + self.gamma))
        outside = seen.radius * (1 + torch.where(seen.found, seen.gamma, seen.growth))
        return torch.where(seen.adversarial, torch.minimum(seen.radius, seen.best) * (1 - seen.shrinkage), outside)
