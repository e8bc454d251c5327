"""Projected gradient ascent under a fixed budget, l_inf and l2, with restarts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.base import Attack, Problem, require
from isogrid.attacks.losses import LOSSES
from isogrid.attacks.region import Region
from isogrid.core.errors import one_of
from isogrid.core.norms import NORMS, Norm, rows as per_row

_CLIMBED = ("ce", "margin")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PGD(Attack):
    r"""Projected gradient ascent: x_{t+1} = P(x_t + s * d_t), d_t the steepest direction of the loss, P the projection on ball and domain.

    `eps` > 0 in the units of x; s = `rel_step` * eps, with rel_step = 2.5 / steps where None. The direction is sign(g) for l_inf and
    g / ||g||_2 for l2. `loss`: "ce" (in its log-odds form, same signs as the cross-entropy, never saturated) or "margin". Each of
    `restarts` runs starts uniformly in the ball (`random_start`), the later ones only on samples that are still unbroken.
    With `early_stop` a sample leaves the batch at the first iterate that is misclassified, and an unbroken one keeps the iterate of the
    highest loss; without it every row takes all steps and its last iterate counts, as published (same work as other libraries' PGD).
    Raises InputError for parameters out of range. Source: Madry et al. 2018.
    Pitfall: 40 steps of the cross-entropy from one start are no evaluation; APGD and more restarts belong beside them.

    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> PGD(eps=0.2)(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0])).success.item()
    True
    """

    name: ClassVar[str] = "pgd"
    state_copies: ClassVar[int] = 8

    eps: float = 0.1
    norm: Literal["linf", "l2"] = "linf"
    steps: int = 40
    rel_step: float | None = None
    restarts: int = 1
    random_start: bool = True
    loss: Literal["ce", "margin"] = "ce"
    early_stop: bool = True

    def __post_init__(self) -> None:
        require("eps", self.eps, self.eps > 0 and math.isfinite(self.eps), "a number > 0")
        require("steps", self.steps, self.steps >= 1 and self.steps == int(self.steps), "an integer >= 1")
        require("restarts", self.restarts, self.restarts >= 1 and self.restarts == int(self.restarts), "an integer >= 1")
        if self.rel_step is not None:
            require("rel_step", self.rel_step, self.rel_step > 0 and math.isfinite(self.rel_step), "a number > 0, in units of eps")
        if self.norm not in NORMS:
            raise one_of("norm", self.norm, NORMS)
        if self.loss not in _CLIMBED:
            raise one_of("loss", self.loss, _CLIMBED)

    @property
    def budget(self) -> float | None:
        return self.eps

    @property
    def threat(self) -> Norm:
        return NORMS[self.norm]

    def search(self, problem: Problem) -> Tensor:
        best = problem.x.clone()
        top = best.new_full((problem.n,), -math.inf)
        alive = torch.arange(problem.n, device=best.device)
        for restart in range(self.restarts if self.random_start else 1):
            part = problem if len(alive) == problem.n else problem.take(alive)
            region = Region.of(part)
            x = region.random(part.streams, self.name, restart) if self.random_start else part.x
            if not self.early_stop and self.restarts == 1:
                return self._climb(part, region, x)  # nothing to compare with: the driver's own forward pass will tell
            found, value, broken = (self._climb_and_leave if self.early_stop else self._climb_and_judge)(part, region, x)
            better = broken | (value > top[alive])
            best[alive[better]], top[alive[better]] = found[better], value[better]
            alive = alive[~broken]
            if not len(alive):
                break
        return best

    def _climb(self, problem: Problem, region: Region, x: Tensor) -> Tensor:
        """The last iterates after all steps on all rows."""
        loss, stride = LOSSES[self.loss], self._stride(problem)
        for _ in range(self.steps):
            x = self._ascend(region, x, problem.gradient(x, loss)[2], stride)
        return x

    def _climb_and_judge(self, problem: Problem, region: Region, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last iterates, their losses and whether they are misclassified."""
        x = self._climb(problem, region, x)
        z = problem.logits(x)
        return x, LOSSES[self.loss](z, problem.y), z.argmax(1) != problem.y

    def _climb_and_leave(self, problem: Problem, region: Region, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Up to `steps` steps, rows leaving once misclassified: the best iterates, their losses and whether they are misclassified."""
        loss = LOSSES[self.loss]
        found, final = x.clone(), x.new_empty(problem.n)
        broken = torch.zeros(problem.n, dtype=torch.bool, device=x.device)
        rows, y, stride = torch.arange(problem.n, device=x.device), problem.y, self._stride(problem)
        best, top = x, x.new_full((problem.n,), -math.inf)
        for step in range(self.steps + 1):
            gradient = None
            if step < self.steps:
                z, value, gradient = problem.gradient(x, loss, rows)
            else:
                z = problem.logits(x, rows)
                value = loss(z, y)
            better = value > top
            # iterates are never written to, so where every row improved the best one is shared, not copied
            best = x if bool(better.all()) else torch.where(per_row(better, x), x, best)
            top = torch.maximum(top, value.to(x.dtype))
            out = z.argmax(1) != y
            if bool(out.any()):
                gone, stay = rows[out], torch.nonzero(~out).squeeze(1)
                found[gone], final[gone], broken[gone] = x[out], value[out].to(x.dtype), True
                rows, y, stride, x, best, top = (v[stay] for v in (rows, y, stride, x, best, top))
                region = region.take(stay)
                if not len(rows):
                    return found, final, broken
                gradient = None if gradient is None else gradient[stay]
            if gradient is not None:
                x = self._ascend(region, x, gradient, stride)
        found[rows], final[rows] = best, top
        return found, final, broken

    def _stride(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        return per_row(problem.budget * (2.5 / self.steps if self.rel_step is None else self.rel_step), problem.x)

    @staticmethod
    def _ascend(region: Region, x: Tensor, gradient: Tensor, stride: Tensor) -> Tensor:
        return region.project(torch.addcmul(x, region.norm.steepest(gradient), stride))
