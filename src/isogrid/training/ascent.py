"""The attack inside a training step: a loss climbed from each sample within its ball, and nothing else. Not here: objectives, and attacks
that are judged (`isogrid.attacks`): a training step pays for no probe, no count and no record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isogrid.attacks.driver.problem import Domain
from isogrid.attacks.driver.subject import frozen
from isogrid.attacks.steps.region import Region
from isogrid.core.errors import ModelError
from isogrid.core.norms import NORMS
from isogrid.training.first_layer import FewChannels, first_layer_of

Slope = Callable[[Tensor], Tensor]
"""Logits [B, C] -> the slope [B, C] of what is climbed, up to a positive factor per row: directions do not see it."""


def ball(x: Tensor, eps: float, norm: str, box: tuple[float, float]) -> Region:
    """The balls of radius `eps` in `norm` around the samples x [B, *S], cut by the box."""
    return Region.around(x, x.new_full((len(x),), eps), NORMS[norm], Domain(low=box[0], high=box[1]))


def ascend(model: nn.Module, start: Tensor, slope: Slope, region: Region, *, steps: int, step: float) -> Tensor:
    r"""The last of x_{t+1} = P(x_t + step * d_t), t < steps, from `start` [B, *S].

    P is the projection on `region`, d_t the steepest direction. The model is in eval mode meanwhile and its parameters take no gradient;
    modes and flags are as before afterwards. Raises ModelError where the logits have no gradient. Source: Madry et al. 2018; isogrid's
    PGD takes the same steps.
    Pitfall that it avoids: an attack in train mode moves the running statistics of batch-norm once a step, and a sample's perturbation then
    depends on its neighbours in the batch.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.weight.data.copy_(torch.eye(2)), model.bias.data.zero_()
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> ascend(model, x, lambda z: torch.tensor([[-1.0, 1.0]]), ball(x, 0.25, "linf", (0.0, 1.0)), steps=3, step=0.1).tolist()
    [[0.25, 0.75]]
    """
    x = start.clone()
    few = FewChannels() if first_layer_of(model, x) else contextlib.nullcontext()
    with frozen(model), torch.enable_grad():
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            z = model(leaf)
            gradient = None
            if z.requires_grad:
                with few:
                    (gradient,) = torch.autograd.grad(z, leaf, slope(z.detach()), allow_unused=True)
            if gradient is None:
                raise ModelError("model: its logits have no gradient with respect to the input, which adversarial training needs")
            region.project_(x.add_(region.norm.steepest(gradient), alpha=step))
    return x
