"""Black-box transfer: candidates made on one model, submitted to another. Training a substitute does not belong here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from isogrid.attacks.autoattack import exhaustive
from isogrid.attacks.driver.base import Attack, Problem, Role, as_classifier, batch_rows, frozen
from isogrid.core.errors import InputError
from isogrid.core.norms import Norm


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Attack):
    r"""Run a white-box `attack` on `source` (a finished substitute, another level) and submit its candidates to the model attacked.

    x~ = argmax over the ball of the SOURCE's loss: the attack runs in its `exhaustive` form, without an exit at the first success, for
    what has just crossed the source's boundary crosses no other. Success is judged on the target, by the driver. Norm, budget and domain
    are those of `attack`; `source` takes the same inputs and classes. The target's gradients are never used, and the search asks it
    nothing. Raises InputError where `domain` differs from the attack's. Source: Papernot et al. 2017; Zhao et al. 2018 for dense and
    pruned.
    Pitfalls: a minimum-norm candidate stops at the source's boundary and seldom crosses the target's: take fixed-budget attacks. A
    sample that the source misclassifies to begin with is submitted as it is, unless the attack moves misclassified samples.

    >>> from isogrid.attacks import FGS
    >>> source, target = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> for model in (source, target):
    ...     _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> out = Transfer(source=source, attack=FGS(eps=0.2))(target, torch.tensor([[0.6, 0.4]]), torch.tensor([0]))
    >>> out.success.item(), out.eps, out.backwards.item()
    (True, 0.2, 0)
    """

    name: ClassVar[str] = "transfer"
    moves_misclassified: ClassVar[bool] = True  # the paper's figure: the target's accuracy over all that is submitted
    role: ClassVar[Role] = "gradient-free"  # the gradients are another model's
    strength: ClassVar[Mapping[str, int]] = {}  # as good as its source

    source: nn.Module
    attack: Attack
    label: str = ""

    def agree(self) -> None:
        if self.domain != self.attack.domain:
            raise InputError("domain", self.domain, f"{self.attack.domain}, that of the attack on the source")

    @property
    def budget(self) -> float | None:
        return self.attack.budget

    @property
    def threat(self) -> Norm:
        return self.attack.threat

    def expected_gradients(self) -> float:
        return self.attack.expected_gradients()

    def doubled(self) -> Self | None:
        return None

    def search(self, problem: Problem) -> Tensor:
        return exhaustive(self.attack)(
            self.source,
            problem.x,
            problem.y,
            seed=problem.streams.seed,
            ids=problem.streams.ids,
            start=problem.start,
            budget=problem.budget,
            box=(problem.domain.low, problem.domain.high),
        ).x_adv


def transfer_matrix(
    models: Sequence[nn.Module], attack: Attack, x: Tensor, y: Tensor, *, seed: int = 0, box: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Accuracy [L, L] (float64, over all N samples) of target level t (column) on what `attack` makes on source level s (row).

    Every level is attacked once, without early exit (see `Transfer`); the diagonal is the attack's own r_inf. All models take the samples
    `x` [N, *S] with classes `y` [N]. Raises what the driver raises. Source: the dense -> sparse and sparse -> dense transfer of Zhao et
    al. 2018.

    >>> from isogrid.attacks import FGS
    >>> one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> for model in (one, other):
    ...     _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> other.bias.data[0] = 1.0
    >>> transfer_matrix([one, other], FGS(eps=0.2), torch.tensor([[0.6, 0.4]]), torch.tensor([0])).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    if not isinstance(models, list | tuple) or not models:
        raise InputError("models", models, "one model or more, in a list")
    if not isinstance(attack, Attack):
        raise InputError("attack", attack, "an attack, such as FGS(eps=0.1)")
    accuracy = torch.zeros(len(models), len(models), dtype=torch.float64)
    for s, source in enumerate(models):
        x_adv = exhaustive(attack)(source, x, y, seed=seed, box=box).x_adv
        for t, target in enumerate(models):
            accuracy[s, t] = (_predictions(target, x_adv, y) == y).double().mean().item()
    return accuracy


def _predictions(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """argmax of the logits [N], under the driver's batch rule."""
    size = batch_rows(model, x, 1)
    with frozen(model), torch.no_grad():
        function = as_classifier(model, x, y)
        return torch.cat([function(part).argmax(1) for part in torch.split(x, size)])


__all__ = ["Transfer", "transfer_matrix"]
