"""Cascades of fixed-budget attacks, each on what the ones before left unbroken; AutoAttack is the standard one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor

from isogrid.attacks.apgd import APGD, APGDCE, APGDT
from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Attack, Problem, Role, log_odds
from isogrid.attacks.driver.kinds import Composed, FixedBudget
from isogrid.attacks.driver.parameters import choice, switch, whole
from isogrid.attacks.fab import FAB
from isogrid.attacks.square import Square
from isogrid.attacks.steps.losses import improves
from isogrid.core.errors import InputError
from isogrid.core.norms import NORMS

PROSPECT = 0.8
"""The `prospect` of a thrifty AutoAttack: on the benchmark's networks every run that broke its sample after the second checkpoint had
climbed at least 0.94 of the way by then."""


def thrifty(attack: Attack) -> Attack:
    """The attack with the runs that have no prospect of success cut short, where it can tell them (`prospect`); else itself.

    >>> thrifty(APGDCE(eps=0.1)).prospect, thrifty(FAB(eps=0.1)) == FAB(eps=0.1)
    (0.8, True)
    """
    if isinstance(attack, APGD | Square) and attack.prospect is None:
        return replace(attack, prospect=PROSPECT)
    return attack


def exhaustive(attack: Attack) -> Attack:
    """The attack without its exit at the first success, where it has one (a parameter `exhaustive`); else itself.

    A candidate that has just crossed one model's boundary crosses hardly any other's: transfer wants the highest loss.

    >>> exhaustive(APGDCE(eps=0.1)).exhaustive, exhaustive(FAB(eps=0.1)) == FAB(eps=0.1)
    (True, True)
    """
    settings: dict[str, Any] = {f.name: True for f in fields(attack) if f.name == "exhaustive"}
    return replace(attack, **settings)


def strongest(problem: Problem, attacks: Sequence[Attack]) -> Tensor:
    """The candidates [B, *S] of the highest log-odds that any of the attacks makes of each row within its budget, misclassified ones
    first; every attack sees every row."""
    assert problem.budget is not None
    found, top = problem.x.clone(), problem.x.new_full((problem.n,), -math.inf)
    broken = torch.zeros(problem.n, dtype=torch.bool, device=found.device)
    for attack in attacks:
        tried = attack.propose(problem)
        z = problem.logits(tried)
        value, wrong = log_odds(z, problem.y), z.argmax(1) != problem.y
        within = problem.norm.size(tried - problem.x) <= problem.domain.allowed(problem.budget)
        better = within & improves(wrong, value, broken, top)
        found[better], top[better], broken[better] = tried[better], value[better], wrong[better]
    return found


def cascade(problem: Problem, attacks: Sequence[Attack]) -> Tensor:
    """The candidates [B, *S] of the first attack that broke each row within its budget; a row that none broke stays clean.

    Every claim is checked with a forward pass before a row is withheld from the attacks that follow.
    """
    assert problem.budget is not None
    found = problem.x.clone()
    alive = torch.arange(problem.n, device=found.device)
    for attack in attacks:
        part = problem.take(alive)
        assert part.budget is not None
        tried = attack.propose(part)
        within = problem.norm.size(tried - part.x) <= part.domain.allowed(part.budget)
        broken = within & (part.logits(tried).argmax(1) != part.y)
        found[alive[broken]] = tried[broken]
        alive = alive[~broken]
        if not len(alive):
            break
    return found


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble(Composed):
    """Several fixed-budget attacks in turn, the later ones only on the samples that are still unbroken.

    All must share norm and eps; what a sample costs and which attack breaks it follow from the order, the verdict does not. With
    `exhaustive` every attack runs on every sample, itself without an early exit, and the candidate of the highest loss counts.
    Raises InputError where there is no attack, one without a budget, or two of different threat models.

    >>> from isogrid.attacks import FGS, PGD
    >>> Ensemble(attacks=(FGS(eps=0.1), PGD(eps=0.1))).budget
    0.1
    """

    name: ClassVar[str] = "ensemble"
    state_copies: ClassVar[int] = 24

    attacks: tuple[Attack, ...]
    exhaustive: bool = switch(False, "exhaustive")

    def agree(self) -> None:
        if not self.attacks or not all(isinstance(attack, Attack) for attack in self.attacks):
            raise InputError("attacks", self.attacks, "one or more attacks")
        for attack in self.attacks:
            if attack.budget is None:
                raise InputError("attacks", attack, "attacks with a fixed budget (eps)")
            if (attack.budget, attack.threat, attack.domain) != (self.attacks[0].budget, self.attacks[0].threat, self.domain):
                raise InputError("attacks", attack, f"attacks of one eps, norm and domain, those of the first and domain {self.domain}")

    @property
    def parts(self) -> tuple[Attack, ...]:
        return self.attacks

    @property
    def budget(self) -> float | None:
        return self.attacks[0].budget

    def expected_gradients(self) -> float:
        return sum(attack.expected_gradients() for attack in self.attacks)

    def doubled(self) -> Self | None:
        doubles = [attack.doubled() for attack in self.attacks]
        return None if not any(doubles) else replace(self, attacks=tuple(b or a for a, b in zip(self.attacks, doubles, strict=True)))

    def search(self, problem: Problem) -> Tensor:
        return strongest(problem, tuple(map(exhaustive, self.attacks))) if self.exhaustive else cascade(problem, self.attacks)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAttack(FixedBudget):
    """AutoAttack, version standard, l_inf or l2: APGD-CE, APGD-T, FAB-T and Square, each on what is left, always seeded.

    `eps` > 0 in the units of x; `steps` for the gradient attacks, `targets` classes for the targeted ones, `queries` for Square.
    As published everything is spent. With `thrifty`, which is ours, runs without a prospect of success end early (`prospect` of APGD and
    Square, `converge` of FAB): no verdict differed in our benchmarks, and none can be promised. `exhaustive`: as for `Ensemble`. With two
    classes the targeted attacks have one target and a margin loss.
    Raises InputError for parameters out of range. Source: Croce & Hein 2020, section 5.
    Pitfall: it is a lower bound on nothing: a sample that it leaves unbroken is unbroken, not certified.
    """

    name: ClassVar[str] = "autoattack"
    role: ClassVar[Role] = "mixed"  # Square is among its parts
    strength: ClassVar[Mapping[str, int]] = {"linf": 80, "l2": 70}  # it contains the strongest of them: Croce & Hein 2020
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 24

    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    steps: int = whole(100)
    targets: int = whole(9)
    queries: int = whole(5000)
    thrifty: bool = switch(False, "thrifty")
    exhaustive: bool = switch(False, "exhaustive")
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return sum(part.expected_gradients() for part in self.parts)

    @property
    def parts(self) -> tuple[Attack, ...]:
        """The four attacks, in their order."""
        threat: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "domain": self.domain}
        gradients: dict[str, Any] = threat | {"steps": self.steps, "backward": self.backward}
        parts: tuple[Attack, ...] = (
            APGDCE(**gradients),
            APGDT(**gradients, targets=self.targets),
            FAB(**gradients, targets=self.targets, converge=self.thrifty),
            Square(**threat, queries=self.queries),
        )
        parts = tuple(map(thrifty, parts)) if self.thrifty else parts
        return tuple(map(exhaustive, parts)) if self.exhaustive else parts

    def search(self, problem: Problem) -> Tensor:
        return (strongest if self.exhaustive else cascade)(problem, self.parts)
