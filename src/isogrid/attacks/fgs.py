"""Single-step l_inf attacks: FGS and rFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from isogrid.attacks.driver.base import Attack, Problem, log_odds, require_number
from isogrid.core.norms import LINF, Norm, rows


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FGS(Attack):
    r"""Fast gradient sign: x~ = clip(x + eps * sign(grad_x CE)).

    `eps` > 0 in the units of x. The gradient is taken of the log-odds loss, whose sign is that of the cross-entropy's and which
    does not saturate. A sample whose gradient is exactly zero stays where it is, and is counted as `zero_gradient`.
    Source: Goodfellow, Shlens & Szegedy 2015.
    """

    name: ClassVar[str] = "fgs"
    norm_name: ClassVar[str | None] = "linf"
    moves_misclassified: ClassVar[bool] = True
    state_copies: ClassVar[int] = 4

    eps: float = 0.1

    def __post_init__(self) -> None:
        require_number("eps", self.eps, 0, low_open=True)

    @property
    def budget(self) -> float | None:
        return self.eps

    @property
    def threat(self) -> Norm:
        return LINF

    def search(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        _, _, gradient = problem.gradient(problem.x, log_odds)
        return problem.domain.clip(problem.x + rows(problem.budget, problem.x) * gradient.sign())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RFGS(Attack):
    r"""R+FGSM: x' = clip(x + alpha * sign(N(0, I))), alpha = share * eps, then FGS from x' with eps - alpha, gradient taken at x'.

    Source: Tramer et al. 2018, with share = 1/2.
    """

    name: ClassVar[str] = "rfgs"
    norm_name: ClassVar[str | None] = "linf"
    moves_misclassified: ClassVar[bool] = True
    state_copies: ClassVar[int] = 5

    eps: float = 0.1
    share: float = 0.5

    def __post_init__(self) -> None:
        require_number("eps", self.eps, 0, low_open=True)
        require_number("share", self.share, 0, 1, high_open=False)

    @property
    def budget(self) -> float | None:
        return self.eps

    @property
    def threat(self) -> Norm:
        return LINF

    def search(self, problem: Problem) -> Tensor:
        assert problem.budget is not None
        x, eps = problem.x, rows(problem.budget, problem.x)
        step = problem.streams.sign(tuple(x.shape), self.name, dtype=x.dtype)
        moved = problem.domain.clip(x + self.share * eps * step)
        _, _, gradient = problem.gradient(moved, log_odds)
        return problem.domain.clip(moved + (1 - self.share) * eps * gradient.sign())
