"""What training minimises: one small class per objective. Not here: the loop, the attack inside a step (`ascent`), or what is added to the
loss (`penalties`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from isogrid.attacks.driver.subject import frozen
from isogrid.attacks.steps.losses import log_odds_slope
from isogrid.core.norms import NORMS
from isogrid.core.parameters import REQUIRED, check_parameters, choice, number, switch, whole
from isogrid.core.random import Streams
from isogrid.core.registry import Registry
from isogrid.training.ascent import ascend, ball

STRIDE = "2.5 / steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(ABC):
    """A loss and its settings: the fields of a frozen dataclass, plain data each; those declared with `number` and its kind are checked.

    perturbs: it moves samples within the box, so that they must lie in it to begin with.
    """

    name: ClassVar[str]
    perturbs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parameters(self)

    @property
    def passes(self) -> int:
        """How many passes forward and back through the model one loss and its gradient take: for forecasts alone."""
        return 1

    @abstractmethod
    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        """The scalar loss of one batch x [B, *S], y [B]; `model` is in train mode and gives logits.

        `streams`: one random stream per sample of the batch, of this training and this step: all randomness of an objective comes from
        here. `box`: the limits of the samples' values. An objective that passes `model` more than once (an attack within) leaves its mode
        and its buffers to the passes that the loss is made of.
        """


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Natural(Objective):
    """Mean cross-entropy; for a binary model, whose logits are (0, z), that is the softplus loss."""

    name: ClassVar[str] = "natural"

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        return cross_entropy(model(x), y)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PGDTraining(Objective):
    r"""Adversarial training: the mean of CE(g(x~), y), x~ the end of a projected gradient ascent of the cross-entropy within the ball.

    `eps` >= 0 in the units of x (0 is natural training, bit for bit), `norm`, `steps` and `rel_step` (the step's share of eps; None:
    2.5 / steps) as in the attack `pgd`; the start is uniform in the ball, or x itself without `random_start`. The ascent follows the
    cross-entropy in its log-odds form, which does not saturate, in eval mode (`ascent.ascend`). Raises InputError for settings out of
    range. Source: Madry et al. 2018 (CIFAR-10: 7 steps of a quarter of eps; MNIST: 40 of a thirtieth).
    Pitfall: robust overfitting (Rice et al. 2020): robust accuracy on test samples falls again late in a long training.
    """

    name: ClassVar[str] = "pgd-at"
    perturbs: ClassVar[bool] = True

    eps: float = number(REQUIRED, 0)
    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    steps: int = whole(7)
    rel_step: float | None = number(None, 0, low_open=True, otherwise=STRIDE)
    random_start: bool = switch(True)

    @property
    def passes(self) -> int:
        return 1 + self.steps

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        return cross_entropy(model(self.perturbed(model, x, y, streams, box)), y)

    def perturbed(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        """x~ [B, *S]; each row depends on its own sample and stream alone."""
        if self.eps == 0:
            return x
        region = ball(x, self.eps, self.norm, box)
        start = region.random(streams, self.name) if self.random_start else x
        step = _step(self.eps, self.steps, self.rel_step)
        return ascend(model, start, lambda z: log_odds_slope(z, y), region, steps=self.steps, step=step)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FastTraining(Objective):
    r"""Fast adversarial training: the mean of CE(g(x~), y), x~ = P(x + u + rel_step * eps * sign grad CE(g(x + u), y)).

    l_inf only; u uniform in the ball, P the projection on ball and box; two passes a step. Settings and ascent as in `pgd-at`.
    Source: Wong, Rice & Kolter 2020.
    Pitfall: catastrophic overfitting: from one epoch to the next the network can learn to resist this one step and nothing else, the
    likelier the larger eps and the longer the training (Andriushchenko & Flammarion 2020). Measure with PGD, never with FGS.
    """

    name: ClassVar[str] = "fast-at"
    perturbs: ClassVar[bool] = True

    eps: float = number(REQUIRED, 0)
    rel_step: float = number(1.25, 0, low_open=True)

    @property
    def passes(self) -> int:
        return 2

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        single = PGDTraining(eps=self.eps, steps=1, rel_step=self.rel_step)
        return single.loss(model, x, y, streams, box)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TRADES(Objective):
    r"""The mean of CE(g(x), y) + beta * KL(p(x) || p(x~)), p the softmax, x~ the end of an ascent of that divergence within the ball.

    `beta` >= 0 weighs robustness against accuracy; at beta 0 and at eps 0 this is natural training, bit for bit. eps, norm, steps and
    rel_step as in `pgd-at`. The ascent starts at x plus normal noise of a thousandth of the box's width, as published: at x itself the
    divergence has no slope. Both terms pass the model in train mode, x first: batch-norm sees clean and perturbed batches in turn.
    Source: Zhang et al. 2019 (CIFAR-10: eps 8/255, 10 steps of 0.007, beta 6). Pitfall: beta = 1 / lambda of the paper; and an attack
    that passes the model in train mode makes figures depend on the batch's size.
    """

    name: ClassVar[str] = "trades"
    perturbs: ClassVar[bool] = True
    noise: ClassVar[float] = 1e-3

    eps: float = number(REQUIRED, 0)
    beta: float = number(6.0, 0)
    norm: Literal["linf", "l2"] = choice("linf", NORMS)
    steps: int = whole(10)
    rel_step: float | None = number(None, 0, low_open=True, otherwise=STRIDE)

    @property
    def passes(self) -> int:
        return 2 + self.steps

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        if self.eps == 0 or self.beta == 0:
            return cross_entropy(model(x), y)
        moved = self.perturbed(model, x, streams, box)
        z = model(x)
        clean, other = log_softmax(z, 1), log_softmax(model(moved), 1)
        return cross_entropy(z, y) + self.beta * kl_div(other, clean, reduction="batchmean", log_target=True)

    def perturbed(self, model: nn.Module, x: Tensor, streams: Streams, box: tuple[float, float]) -> Tensor:
        """x~ [B, *S]; each row depends on its own sample and stream alone."""
        with frozen(model), torch.no_grad():
            clean = log_softmax(model(x), 1)
        region = ball(x, self.eps, self.norm, box)
        noise = streams.normal(tuple(x.shape), self.name, dtype=x.dtype).mul_(self.noise * (box[1] - box[0]))
        step = _step(self.eps, self.steps, self.rel_step)
        return ascend(model, region.project(x + noise), lambda z: divergence_slope(z, clean), region, steps=self.steps, step=step)


def divergence_slope(logits: Tensor, clean: Tensor) -> Tensor:
    r"""d KL(p || q) / d logits = q - p, q the softmax of `logits` [B, C], log p = `clean` [B, C], times a positive factor per row.

    Exact where q - p is not: for the likeliest class of p both round to 1, so its entry is the negated sum of the others; and where all the
    others underflow they are scaled up before.

    >>> p = torch.log_softmax(torch.tensor([[200.0, 0.0, 0.0]]), 1)
    >>> divergence_slope(torch.tensor([[200.0, 1.0, 0.0]]), p)[0].sign().tolist()
    [-1.0, 1.0, 0.0]
    """
    own = clean.argmax(1, keepdim=True)
    q, p = (values.scatter(1, own, -torch.inf) for values in (log_softmax(logits, 1), clean))
    largest = torch.maximum(q, p).amax(1, keepdim=True)
    slope = (q - largest).exp_() - (p - largest).exp_()
    return slope.scatter_(1, own, -slope.sum(1, keepdim=True))


def _step(eps: float, steps: int, rel_step: float | None) -> float:
    return eps * (2.5 / steps if rel_step is None else rel_step)


OBJECTIVES: Registry[Objective] = Registry("objective", Objective, Natural, PGDTraining, FastTraining, TRADES)
