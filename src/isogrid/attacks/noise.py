"""Random noise of the budget's size: the floor that every real attack has to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Problem, Role, margin
from isogrid.attacks.driver.kinds import FORWARD, FixedBudget
from isogrid.attacks.driver.parameters import choice, whole
from isogrid.attacks.steps.projections import capped_root
from isogrid.core.norms import LINF, NORMS, rows as per_row


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Noise(FixedBudget):
    r"""x~ = clip(x + t u), the worst of `draws`: u a random corner of the unit cube, t = eps (linf), or u uniform on the unit sphere (l2).

    In l2, t is such that ||x~ - x||_2 = eps: eps in the free domain, more in a box that cuts the direction off; where even the corner that
    u points to is nearer than eps, x~ is that corner. In l_inf a corner of which every element is cut off is as rare as 2^-D.
    `eps` > 0 in the units of x. Every draw costs one prediction, and a sample stops at its first misclassified draw; where none is, the
    draw of the smallest margin is the candidate. It uses no gradient: a white-box attack that does not beat it is broken, or the
    network masks its gradients. Raises InputError for parameters out of range. Source: the sanity check of Carlini et al. 2019.
    Pitfall: more draws make a stronger floor (an extreme of `draws` values): compare levels at equal `draws` only.

    >>> model = torch.nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
    >>> Noise(eps=0.15, draws=50)(model, x, y).success.item(), Noise(eps=0.05, draws=50)(model, x, y).success.item()
    (True, False)
    """

    name: ClassVar[str] = "noise"
    role: ClassVar[Role] = "gradient-free"
    strength: ClassVar[Mapping[str, int]] = {}  # the floor, no attack
    state_copies: ClassVar[int] = 12

    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    draws: int = whole(10)

    def expected_gradients(self) -> float:
        return FORWARD * self.draws

    def search(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        best = problem.x.clone()
        lowest = best.new_full((problem.n,), math.inf)
        rows = torch.arange(problem.n, device=best.device)
        for draw in range(self.draws):
            x, streams = problem.x[rows], problem.streams.take(rows)
            if problem.norm is LINF:
                unit = streams.sign(tuple(x.shape), self.name, draw, dtype=x.dtype)
            else:
                unit = problem.norm.steepest(streams.normal(tuple(x.shape), self.name, draw, dtype=x.dtype))
            points = problem.domain.clip(x + per_row(_length(problem, rows, unit), x) * unit)
            gap = margin(problem.logits(points, rows), problem.y[rows])
            better = gap < lowest[rows]
            best[rows[better]], lowest[rows[better]] = points[better], gap[better]
            rows = rows[gap >= 0]
            if not len(rows):
                break
        return best


def _length(problem: Problem, rows: Tensor, unit: Tensor) -> Tensor:
    """t [b] with ||clip(x + t u) - x|| = budget, u = `unit` [b, *S] for some `rows`: sum_i min(t^2 u_i^2, room_i^2) = budget^2."""
    assert problem.budget is not None
    budget, domain = problem.budget[rows], problem.domain
    if problem.norm is LINF or domain.name == "free":
        return budget
    room = torch.where(unit > 0, domain.high - problem.x[rows], problem.x[rows] - domain.low)
    return capped_root(unit.square().flatten(1), room.square().flatten(1), budget.square()).sqrt()


__all__ = ["Noise"]
