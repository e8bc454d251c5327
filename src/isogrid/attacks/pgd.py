"""Projected gradient ascent under a fixed budget, l_inf and l2, with restarts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Problem, Role
from isogrid.attacks.driver.kinds import SPENT, FixedBudget
from isogrid.attacks.driver.parameters import choice, number, switch, whole
from isogrid.attacks.steps.losses import LOSSES, SLOPES, improves
from isogrid.attacks.steps.region import Region
from isogrid.core.norms import NORMS, rows as per_row

IDLE_SHARE = 1 / 16
"""Finished rows stay in the batch, idle, until they are this share of it: each gather of the state costs about a tenth of an iteration."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PGD(FixedBudget):
    r"""Projected gradient ascent: x_{t+1} = P(x_t + s * d_t), d_t the steepest direction of the loss, P the projection on ball and domain.

    `eps` > 0 in the units of x; s = `rel_step` * eps, with rel_step = 2.5 / steps where None. The direction is sign(g) for l_inf and
    g / ||g||_2 for l2. `loss`: "ce" (in its log-odds form, same signs as the cross-entropy, never saturated) or "margin". Each of
    `restarts` runs starts uniformly in the ball (`random_start`), the later ones only on samples that are still unbroken.
    With `early_stop` a sample is done at the first iterate that is misclassified (it leaves the batch with the next few that are done;
    the queries made for it until then count); without it every row takes all steps and its last iterate counts, as published (same work as
    other libraries' PGD). With `exhaustive` every row takes all steps of all restarts, and of its misclassified iterates the one of the
    highest loss counts, of all where none is: what transfers to another model (see `Transfer`).
    Raises InputError for parameters out of range. Source: Madry et al. 2018.
    Pitfall: 40 steps of the cross-entropy from one start are no evaluation; APGD and more restarts belong beside them.

    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> PGD(eps=0.2)(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0])).success.item()
    True
    """

    name: ClassVar[str] = "pgd"
    role: ClassVar[Role] = "strong"
    strength: ClassVar[Mapping[str, int]] = {"linf": 40}  # below APGD at equal queries: Croce & Hein 2020, table 1
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 8

    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    steps: int = whole(40)
    rel_step: float | None = number(None, 0, low_open=True, otherwise="2.5 / steps")
    restarts: int = whole(1)
    random_start: bool = switch(True)
    loss: Literal["ce", "margin"] = choice("ce", SLOPES)
    early_stop: bool = switch(True)
    exhaustive: bool = switch(False, "exhaustive")
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return SPENT * self.steps * self.restarts

    def search(self, problem: Problem) -> Tensor:
        best = problem.x.clone()
        top = best.new_full((problem.n,), -math.inf)
        fooled = torch.zeros(problem.n, dtype=torch.bool, device=best.device)
        alive = torch.arange(problem.n, device=best.device)
        climb = self._climb_and_keep if self.exhaustive else self._climb_and_leave if self.early_stop else self._climb_and_judge
        for restart in range(self.restarts if self.random_start else 1):
            part = problem if len(alive) == problem.n else problem.take(alive)
            region = Region.of(part)
            x = region.random(part.streams, self.name, restart) if self.random_start else part.x
            if not self.early_stop and not self.exhaustive and self.restarts == 1:
                return self._climb(part, region, x)  # nothing to compare with: the driver's own forward pass will tell
            found, value, broken = climb(part, region, x)
            better = improves(broken, value, fooled[alive], top[alive])
            rows = alive[better]
            best[rows], top[rows], fooled[rows] = found[better], value[better], broken[better]
            alive = alive if self.exhaustive else alive[~broken]
            if not len(alive):
                break
        return best

    def _climb(self, problem: Problem, region: Region, x: Tensor) -> Tensor:
        """The last iterates after all steps on all rows."""
        slope, stride, x = SLOPES[self.loss], self._stride(problem), x.clone()
        for step in range(self.steps):
            problem.progress(step / self.steps)
            _step(region, x, problem.pull_back(x, slope)[1], stride)
        return x

    def _climb_and_judge(self, problem: Problem, region: Region, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last iterates, their losses and whether they are misclassified."""
        x = self._climb(problem, region, x)
        z = problem.logits(x)
        return x, LOSSES[self.loss](z, problem.y).to(x.dtype), z.argmax(1) != problem.y

    def _climb_and_keep(self, problem: Problem, region: Region, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps on all rows: the best iterates by `improves`, their losses and whether they are misclassified."""
        slope, loss, stride, x = SLOPES[self.loss], LOSSES[self.loss], self._stride(problem), x.clone()
        found, top = x.clone(), x.new_full((problem.n,), -math.inf)
        broken = torch.zeros(problem.n, dtype=torch.bool, device=x.device)
        for step in range(self.steps + 1):
            problem.progress(step / self.steps)
            z, gradient = problem.pull_back(x, slope) if step < self.steps else (problem.logits(x), None)
            value, wrong = loss(z, problem.y).to(x.dtype), z.argmax(1) != problem.y
            better = improves(wrong, value, broken, top)
            found[better], top[better], broken[better] = x[better], value[better], wrong[better]
            if gradient is not None:
                _step(region, x, gradient, stride)
        return found, top, broken

    def _climb_and_leave(self, problem: Problem, region: Region, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Up to `steps` steps, rows leaving once misclassified: the last iterates, their losses and whether they are misclassified."""
        slope, stride, found, x = SLOPES[self.loss], self._stride(problem), x.clone(), x.clone()
        final = x.new_full((problem.n,), math.inf)
        broken = torch.zeros(problem.n, dtype=torch.bool, device=x.device)
        rows, y, idle = torch.arange(problem.n, device=x.device), problem.y, broken.clone()
        for step in range(self.steps + 1):
            gradient = None
            problem.progress(step / self.steps)
            if step < self.steps:
                z, gradient = problem.pull_back(x, slope, rows)
            else:
                z = problem.logits(x, rows)
            out = (z.argmax(1) != y) & ~idle
            if bool(out.any()):
                gone = rows[out]
                found[gone], broken[gone] = x[out], True
                idle |= out
                resting = int(idle.sum())
                if resting == len(rows):
                    return found, final, broken
                if resting >= len(rows) * IDLE_SHARE:
                    stay = torch.nonzero(~idle).squeeze(1)
                    rows, y, idle, stride, x, z = (v[stay] for v in (rows, y, idle, stride, x, z))
                    region = region.take(stay)
                    gradient = None if gradient is None else gradient[stay]
            if gradient is not None:
                _step(region, x, gradient, stride)
        left = torch.nonzero(~idle).squeeze(1)
        found[rows[left]], final[rows[left]] = x[left], LOSSES[self.loss](z, y)[left].to(x.dtype)
        return found, final, broken

    def _stride(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        return per_row(problem.budget * (2.5 / self.steps if self.rel_step is None else self.rel_step), problem.x)


def _step(region: Region, x: Tensor, gradient: Tensor, stride: Tensor) -> None:
    """One projected step, in place: `x` is a buffer of the climb's own."""
    region.project_(x.add_(region.norm.steepest(gradient).mul_(stride)))
