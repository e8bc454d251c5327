"""A fixed-budget attack made into a minimum-norm one: bisection over the radius, per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Attack, Problem
from isogrid.attacks.driver.kinds import Composed
from isogrid.attacks.driver.parameters import number, whole
from isogrid.attacks.pgd import PGD
from isogrid.core.errors import InputError
from isogrid.core.norms import rows as per_row

_HALVINGS = 8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Minimise(Composed):
    r"""The smallest radius at which `attack` succeeds, by bisection for each sample, and the candidate that proves it.

    The first radius is the attack's own eps; it doubles while a sample is unbroken, up to the size of the domain, then the gap between
    the largest failure `low` and the smallest found distance `high` is halved until high - low <= `tolerance` * high, in at
    most `searches` searches from the first success on (doublings before it are as many as the domain's size takes). A candidate of size d
    proves d, not the radius it was found with; it is first pulled back towards the clean sample, by bisection along the segment, which
    costs forward passes only. Rows leave as they converge.
    Raises InputError where `attack` has no budget. Source: the binary search over eps of Foolbox and AttackBench, made per sample.
    Pitfall: a failure at one radius says nothing about smaller ones where the attack is weak or random: the result is an upper estimate.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> out = minimise(PGD(eps=0.1))(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> round(out.distance.item(), 2)
    0.25
    """

    name: ClassVar[str] = "minimise"
    state_copies: ClassVar[int] = 24

    attack: Attack = field(default_factory=PGD)
    searches: int = whole(15)
    tolerance: float = number(1e-3, 0, 1, low_open=True)

    def agree(self) -> None:
        if not isinstance(self.attack, Attack) or self.attack.budget is None:
            raise InputError("attack", self.attack, "an attack with a fixed budget (eps)")
        if self.attack.domain != self.domain:
            raise InputError("domain", self.domain, f"that of the attack, {self.attack.domain}")

    @property
    def parts(self) -> tuple[Attack, ...]:
        return (self.attack,)

    @property
    def budget(self) -> None:
        return None

    def expected_gradients(self) -> float:
        return self.searches * self.attack.expected_gradients()

    def doubled(self) -> Self | None:
        double = self.attack.doubled()
        return None if double is None else replace(self, attack=double)

    def search(self, problem: Problem) -> Tensor:
        assert self.attack.budget is not None
        found = problem.x.clone()
        low = torch.zeros(problem.n, dtype=found.dtype, device=found.device)
        high = torch.full_like(low, math.inf)
        farthest = _reach(problem)
        # a radius below one rounding step of the farthest is none, and doubling 0 would never end
        radius = torch.full_like(low, min(self.attack.budget, torch.finfo(low.dtype).max)).clamp(
            farthest * torch.finfo(low.dtype).eps, farthest
        )
        searched = torch.zeros(problem.n, dtype=torch.int64, device=found.device)
        rows = torch.arange(problem.n, device=found.device)
        while len(rows):
            part = problem.take(rows).with_budget(radius[rows])
            tried = self.attack.propose(part)
            size = problem.norm.size(tried - part.x)
            broken = (part.logits(tried).argmax(1) != part.y) & (size > 0) & (size < high[rows])
            low[rows[~broken]] = radius[rows[~broken]]
            if bool(broken.any()):
                tried = _pull_back(part.take(broken), tried[broken])
                found[rows[broken]] = tried
                high[rows[broken]] = problem.norm.size(tried - part.x[broken])
            searched[rows] += torch.isfinite(high[rows])
            radius = torch.where(torch.isfinite(high), (low + high) / 2, torch.minimum(2 * radius, farthest))
            low = torch.minimum(low, high)
            close = (high - low <= self.tolerance * high) | (searched >= self.searches)
            done = torch.where(torch.isfinite(high), close, low >= farthest)
            rows = rows[~done[rows]]
        return found


def _reach(problem: Problem) -> Tensor:
    """The distance [B] from each clean sample to the farthest point of the domain; without limits, of four boxes."""
    low, high = problem.domain.low, problem.domain.high
    far = problem.norm.size(torch.maximum(problem.x - low, high - problem.x))
    return far if problem.domain.name == "box" else 4 * far


def _pull_back(problem: Problem, x_adv: Tensor) -> Tensor:
    """The shortest misclassified point met by a bisection of the segment from the clean samples to `x_adv` [B, *S]."""
    low = torch.zeros(problem.n, dtype=x_adv.dtype, device=x_adv.device)
    high = torch.ones_like(low)
    delta, best = x_adv - problem.x, x_adv.clone()
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        point = problem.x + per_row(share, delta) * delta
        broken = problem.logits(point).argmax(1) != problem.y
        best[broken] = point[broken]
        high, low = torch.where(broken, share, high), torch.where(broken, low, share)
    return best


def minimise(attack: Attack, *, searches: int = 15, tolerance: float = 1e-3) -> Minimise:
    """`attack` as a minimum-norm attack. See `Minimise`."""
    if not isinstance(attack, Attack):
        raise InputError("attack", attack, "an attack with a fixed budget, such as PGD(eps=0.1)")
    return Minimise(attack=attack, searches=searches, tolerance=tolerance, domain=attack.domain)
