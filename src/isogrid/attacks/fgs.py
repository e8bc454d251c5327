"""Single-step l_inf attacks: FGS and rFGS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Problem, Role, log_odds
from isogrid.attacks.driver.kinds import FixedBudget
from isogrid.attacks.driver.parameters import choice, number
from isogrid.core.norms import rows


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FGS(FixedBudget):
    r"""Fast gradient sign: x~ = clip(x + eps * sign(grad_x CE)).

    `eps` > 0 in the units of x. The gradient is taken of the log-odds loss, whose sign is that of the cross-entropy's and which
    does not saturate. A sample whose gradient is exactly zero stays where it is, and is counted as `zero_gradient`.
    Source: Goodfellow, Shlens & Szegedy 2015.
    """

    name: ClassVar[str] = "fgs"
    norm: ClassVar[str] = "linf"
    role: ClassVar[Role] = "weak"  # one linearisation: that it failed says little
    strength: ClassVar[Mapping[str, int]] = {"linf": 10}  # below rFGS: Tramer et al. 2018
    moves_misclassified: ClassVar[bool] = True
    state_copies: ClassVar[int] = 4

    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return 1.0

    def search(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        _, _, gradient = problem.gradient(problem.x, log_odds)
        return problem.domain.clip(problem.x + rows(problem.budget, problem.x) * gradient.sign())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RFGS(FixedBudget):
    r"""R+FGSM: x' = clip(x + alpha * sign(N(0, I))), alpha = share * eps, then FGS from x' with eps - alpha, gradient taken at x'.

    Source: Tramer et al. 2018, with share = 1/2.
    """

    name: ClassVar[str] = "rfgs"
    norm: ClassVar[str] = "linf"
    role: ClassVar[Role] = "weak"  # one linearisation, as FGS
    strength: ClassVar[Mapping[str, int]] = {"linf": 20}
    moves_misclassified: ClassVar[bool] = True
    state_copies: ClassVar[int] = 5

    share: float = number(0.5, 0, 1, high_open=False)
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    def expected_gradients(self) -> float:
        return 1.0

    def search(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        x, eps = problem.x, rows(problem.budget, problem.x)
        step = problem.streams.sign(tuple(x.shape), self.name, dtype=x.dtype)
        moved = problem.domain.clip(x + self.share * eps * step)
        _, _, gradient = problem.gradient(moved, log_odds)
        return problem.domain.clip(moved + (1 - self.share) * eps * gradient.sign())
