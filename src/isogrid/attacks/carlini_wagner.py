"""Carlini & Wagner's minimum-norm l2 attack, as published and in a converging form of ours (`steps.penalty`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from isogrid.attacks.driver.backward import KINDS
from isogrid.attacks.driver.base import Problem, Role
from isogrid.attacks.driver.kinds import SPENT, MinimumNorm
from isogrid.attacks.driver.parameters import choice, number, switch, whole
from isogrid.attacks.steps.losses import negative_margin, negative_margin_slope
from isogrid.attacks.steps.penalty import Converging, Pixels
from isogrid.core.norms import L2, rows as per_row

PUBLISHED: Mapping[str, Any] = {"searches": 9, "steps": 10_000, "lr": 0.01, "c0": 1e-3}
"""The settings of the authors' code (nn_robust_attacks, l2_attack.py)."""
CONVERGING: Mapping[str, Any] = {"searches": 6, "steps": 100, "lr": 0.1, "c0": None}
INSIDE, CHECKS, IMPROVED, GROWN = 1e-6, 10, 0.9999, 10.0
"""Of that code, too: how far inside the box pixels start; how often a search asks whether its objective still falls, and by which factor;
what a constant that never succeeded is multiplied with."""
BETA_1, BETA_2, ADAM_EPS = 0.9, 0.999, 1e-8


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CarliniWagner(MinimumNorm):
    r"""C&W l2: minimise ||x' - x||^2 + c max(z_y - max_{k != y} z_k + kappa, 0) over v, x' = mid + half tanh(v), with a search over c.

    As published: `searches` times at most `steps` Adam steps of `lr` from v = atanh(x); c starts at `c0`, is multiplied by 10 after each
    failure until the first success, and then halves the bracket. A search ends early where a tenth of its steps did not shorten the
    row's objective by 1e-4 of it (the authors' code asks that of the sum over the batch; here rows do not see each other). None stands for
    their settings: 9 searches of 10,000 steps, lr 0.01, c0 0.001. In domain "free", which is ours, v = x', and `lr` is in units of the
    box's width.

    With `converge`, which is ours, None stands for 6 searches of at most 100 steps, lr 0.1, falling to half within a search, and a `c0` of
    twice the critical constant 2 gap / ||grad gap||^2 of the model linearised at x, so that the scale of the logits does not matter.
    After a failure c rises to that estimate (at least x3, from the second failure on x10); after a success it falls to twice the
    Lagrange multiplier at the point found, or halves the bracket between failure and success. A search ends after `patience` steps
    (None: steps / 8, at least 8) without progress. A sample leaves when c succeeded at no more than 4 times the multiplier or the largest
    failure, or improved its distance by less than 2 %: beyond the critical constant the hinge is an exact penalty, and every c has the
    same minimiser. Where the margin has no gradient at x (the label's and the highest other logit are constant there, as dead units make
    them), the row goes for the class whose linearised boundary is nearest. `polish` > 0 (kappa = 0 only) ends it with that many moves to
    the point closest to x on the boundary linearised at the best point, kept where they are verified to be adversarial and shorter, and
    `queries` forward passes shrink the result onto the boundary along its segment. Both count as queries.

    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> out = CarliniWagner(converge=True)(model, torch.tensor([[0.75, 0.25]]), torch.tensor([0]))
    >>> abs(out.distance.item() / (0.5 / 2**0.5) - 1) < 0.01
    True

    Raises InputError for parameters out of range. Source: Carlini & Wagner 2017, section VI-A. Pitfalls: pixels at exactly 0 or 1 freeze
    unless they are shrunk inside; a failed search over c must not be reported as distance 0 (it is inf here).
    """

    name: ClassVar[str] = "cw"
    norm: ClassVar[str] = "l2"
    role: ClassVar[Role] = "strong"
    strength: ClassVar[Mapping[str, int]] = {"l2": 20}  # AttackBench, as DeepFool's
    effort: ClassVar[str | None] = "steps"
    state_copies: ClassVar[int] = 16

    searches: int | None = whole(None, otherwise="9, or 6 with converge")
    steps: int | None = whole(None, otherwise="10,000, or 100 with converge")
    lr: float | None = number(None, 0, low_open=True, otherwise="0.01, or 0.1 with converge")
    c0: float | None = number(None, 0, low_open=True, otherwise="0.001, or an estimate with converge")
    converge: bool = switch(False, "converging")
    kappa: float = number(0.0, 0)
    patience: int | None = whole(None, otherwise="steps / 8, at least 8")
    polish: int = whole(3, 0)
    queries: int = whole(4, 0)
    backward: Literal["exact", "leaky"] = choice("exact", KINDS, "leaky")

    @property
    def unset(self) -> Mapping[str, Any]:
        return CONVERGING if self.converge else PUBLISHED

    def expected_gradients(self) -> float:
        return SPENT * float(self.value("searches") * self.value("steps"))

    def search(self, problem: Problem) -> Tensor:
        settings = {name: self.value(name) for name in PUBLISHED}
        if self.converge:
            settings |= {"kappa": self.kappa, "patience": self.patience, "polish": self.polish, "queries": self.queries}
            return Converging(**settings).search(problem)
        return self._published(problem, **settings)

    def _published(self, problem: Problem, *, searches: int, steps: int, lr: float, c0: float) -> Tensor:
        """The closest adversarial point [B, *S] of each row that any search met."""
        pixels = Pixels(problem.domain, INSIDE)
        origin, best = pixels.inverse(problem.x), problem.x.clone()
        length = torch.full((problem.n,), torch.inf, dtype=best.dtype, device=best.device)
        c, low, high = torch.full_like(length, c0), torch.zeros_like(length), length.clone()
        for _ in range(searches):
            succeeded = self._descend(problem, pixels, origin, c, best, length, steps, lr * pixels.unit)
            high, low = torch.where(succeeded, torch.minimum(high, c), high), torch.where(succeeded, low, torch.maximum(low, c))
            c = torch.where(high < torch.inf, (low + high) / 2, GROWN * c)
        return best

    def _descend(
        self, problem: Problem, pixels: Pixels, v: Tensor, c: Tensor, best: Tensor, length: Tensor, steps: int, lr: float
    ) -> Tensor:
        """One search of every row from `v`: bool [B], whether it succeeded; what is closer than `length` [B] goes there and into `best`."""
        rows, succeeded = torch.arange(problem.n, device=v.device), torch.zeros_like(length, dtype=torch.bool)
        mean, square, before, check = torch.zeros_like(v), torch.zeros_like(v), torch.full_like(length, torch.inf), max(1, steps // CHECKS)
        for step in range(steps):
            problem.progress(step / steps)
            there, slope = pixels.forward(v)
            logits, gradient = problem.pull_back(there, negative_margin_slope, rows)
            gap = self.kappa - negative_margin(logits, problem.y[rows])
            delta = there - problem.x[rows]
            size = L2.size(delta)
            over = (gap <= 0) & (logits.argmax(1) != problem.y[rows])
            succeeded[rows] |= over
            closer = torch.nonzero(over & (size < length[rows])).squeeze(1)
            best[rows[closer]], length[rows[closer]] = there[closer], size[closer]
            push = torch.where(gap > 0, c[rows], 0)
            force = torch.addcmul(2 * delta, per_row(push, delta), gradient, value=-1)
            force = force if slope is None else force.mul_(slope)
            if step % check == 0:
                objective = size.square() + push * gap
                stay = torch.nonzero(objective <= IMPROVED * before).squeeze(1)
                rows, v, mean, square, force, before = (part[stay] for part in (rows, v, mean, square, force, objective))
                if not len(rows):
                    break
            mean = mean.lerp(force, 1 - BETA_1)
            square = torch.lerp(square, force.square(), 1 - BETA_2)
            corrected = (square / (1 - BETA_2 ** (step + 1))).sqrt_().add_(ADAM_EPS)
            v = v - lr / (1 - BETA_1 ** (step + 1)) * mean / corrected
        return succeeded
