"""Losses that fixed-budget attacks climb: each maps (logits [B, C], y [B]) to one number a row, and none saturates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from isogrid.attacks.driver.base import Loss, log_odds, margin

DLR_CLASSES = 3
"""The difference of logits ratio needs the third largest logit; with fewer classes the plain margin takes its place."""
TARGETED_DLR_CLASSES = 4
"""The targeted ratio needs the fourth largest logit."""
_SMALLEST = 1e-12


def log_odds_slope(logits: Tensor, y: Tensor) -> Tensor:
    """d log_odds / d z = softmax_{k != y}(z) - e_y, per row [B, C]: written out, for loops that cannot afford the loss's own graph.

    >>> log_odds_slope(torch.tensor([[5.0, 1.0, 1.0]]), torch.tensor([0])).tolist()
    [[-1.0, 0.5, 0.5]]
    """
    own = y[:, None]
    return torch.softmax(logits.scatter(1, own, -math.inf), 1).scatter_(1, own, -1.0)


def negative_margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} z_k - z_y per row [B]: positive exactly where the row is misclassified beyond a tie."""
    return -margin(logits, y)


def negative_margin_slope(logits: Tensor, y: Tensor) -> Tensor:
    """d negative_margin / d z = e_k - e_y, k the class of the largest other logit (of several, the first), per row [B, C].

    >>> negative_margin_slope(torch.tensor([[5.0, 1.0, 3.0]]), torch.tensor([0])).tolist()
    [[-1.0, 0.0, 1.0]]
    """
    own = y[:, None]
    rival = logits.scatter(1, own, -math.inf).argmax(1, keepdim=True)
    return torch.zeros_like(logits).scatter_(1, rival, 1.0).scatter_(1, own, -1.0)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)) per row [B], z_(i) the i-th largest logit.

    It does not change when the logits are shifted or scaled, hence cannot be blinded by a temperature. With two classes there is
    no third logit, and the loss is `negative_margin`. Source: Croce & Hein 2020, equation 6.

    >>> import torch
    >>> z = torch.tensor([[3.0, 1.0, 0.0]])
    >>> dlr(z, torch.tensor([0])).item() == dlr(100 * z, torch.tensor([0])).item()
    True
    """
    if logits.shape[1] < DLR_CLASSES:
        return negative_margin(logits, y)
    top = logits.topk(DLR_CLASSES, 1).values
    return negative_margin(logits, y) / (top[:, 0] - top[:, 2]).clamp_min(_SMALLEST)


def targeted_margin(target: Tensor) -> Loss:
    """The loss z_t - z_y towards the classes `target` [B]."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

    return loss


def targeted_dlr(target: Tensor) -> Loss:
    r"""The loss -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2) towards the classes `target` [B].

    With fewer than four classes it is `targeted_margin`. Source: Croce & Hein 2020, equation 7.
    """
    plain = targeted_margin(target)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] < TARGETED_DLR_CLASSES:
            return plain(logits, y)
        top = logits.topk(TARGETED_DLR_CLASSES, 1).values
        return plain(logits, y) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(_SMALLEST)

    return loss


def improves(wrong: Tensor, value: Tensor, broken: Tensor, top: Tensor) -> Tensor:
    """bool [B]: is a candidate (`wrong`: it is misclassified; its loss `value`) better than the best so far (`broken`, `top`)?

    A misclassified one is better than any that is not, however high its loss (the cross-entropy may be higher where y still wins).
    """
    return (wrong & ~broken) | ((wrong == broken) & (value > top))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": log_odds, "margin": negative_margin, "dlr": dlr}
"""The untargeted losses by name; `ce` is the log-odds form of the cross-entropy (see `log_odds`)."""
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": log_odds_slope, "margin": negative_margin_slope}
"""d loss / d logits of the losses above that have it written out, for `Problem.pull_back`."""
